"""OMPQ: published configurations as fixtures, the linear program, and importance from given features."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpsearch.core.errors import BadInput
from mpsearch.core.format import Format
from mpsearch.core.site import Role, Site
from mpsearch.core.space import Choice, Space
from mpsearch.cost.solve.front import front
from mpsearch.cost.terms import Cost, Terms
from mpsearch.drivers.ompq import Ompq, linear_program, round_bits
from mpsearch.graph.features import Block, Features
from mpsearch.graph.similarity import orthogonality, redundancy, similarity, suffix_mean

MIB = 2**20


def conv(inputs: int, outputs: int, kernel: int, groups: int = 1) -> int:
    """Weights of a convolution and the two numbers a channel of its BatchNorm, as OMPQ counts them."""
    return inputs * outputs * kernel**2 // groups + 2 * outputs


def resnet18() -> list[int]:
    """Stem, 16 layers and classifier; the convolution on a shortcut counts to the last of its block."""
    layers, inputs = [], 64
    for outputs in (64, 128, 256, 512):
        for _ in range(2):
            shortcut = conv(inputs, outputs, 1) if inputs != outputs else 0
            layers += [conv(inputs, outputs, 3), conv(outputs, outputs, 3) + shortcut]
            inputs = outputs
    return [conv(3, 64, 7), *layers, 512 * 1000 + 1000]


def mobilenet_v2() -> list[int]:
    layers, inputs = [conv(3, 32, 3)], 32
    for factor, outputs, n in ((1, 16, 1), (6, 24, 2), (6, 32, 3), (6, 64, 4), (6, 96, 3), (6, 160, 3), (6, 320, 1)):
        for _ in range(n):
            inner = inputs * factor
            layers += [conv(inputs, inner, 1)] if factor > 1 else []
            layers += [conv(inner, inner, 3, groups=inner), conv(inner, outputs, 1)]
            inputs = outputs
    return [*layers, conv(320, 1280, 1), 1280 * 1000 + 1000]


def mib(sizes: Sequence[int], bits: Sequence[float]) -> float:
    return float(np.dot(sizes, bits)) / 8 / MIB


QAT = [8, 8, 8, 8, 7, 8, 8, 8, 8, 4, 6, 8, 4, 4, 4, 4]
PTQ = {
    2.998: [4, 3, 4, 4, 4, 4, 4, 3, 4, 4, 2, 2, 2, 2, 2, 2, 2, 2],
    3.499: [4, 3, 3, 4, 4, 4, 4, 4, 4, 4, 3, 3, 4, 3, 2, 2, 2, 3],
    4.000: [4, 4, 4, 4, 4, 4, 4, 3, 3, 3, 3, 3, 4, 3, 2, 3, 3, 3],
    4.499: [4, 3, 3, 4, 4, 4, 4, 4, 4, 4, 3, 3, 4, 4, 3, 3, 3, 3],
    5.000: [4, 3, 3, 3, 4, 4, 4, 3, 4, 3, 4, 3, 4, 3, 3, 4, 4, 4],
    5.500: [4] * 10 + [3] + [4] * 7,
}
MOBILE = {1.5: [4] * 52 + [3], 1.3: [4] * 50 + [3, 3, 2]}


def test_sizes_of_the_published_configurations() -> None:
    stem, *layers, head = resnet18()
    assert (len(layers), sum(resnet18())) == (16, 11_689_512)
    assert mib(layers, QAT) + mib([stem, head], [8, 8]) == pytest.approx(6.6986, abs=5e-5)
    for size, bits in PTQ.items():
        assert mib(resnet18(), bits) == pytest.approx(size, abs=5e-4)
    assert (len(mobilenet_v2()), sum(mobilenet_v2())) == (53, 3_504_872)
    assert mib(mobilenet_v2(), MOBILE[1.5]) == pytest.approx(1.5185, abs=5e-5)  # over its budget, as published


def agreement(sizes: Sequence[int], low: int, high: int, budget: float, published: Sequence[int]) -> int:
    """Layers at which the linear program gives the published width when it knows nothing but sizes."""
    n = len(sizes)
    bits = linear_program(np.ones(n), np.array(sizes) / 8 / MIB, [low] * n, [high] * n, budget)
    return sum(round(ours) == theirs for ours, theirs in zip(bits.tolist(), published, strict=True))


def test_constant_importance_gives_most_of_what_was_published() -> None:
    """The published configurations need no features; of those with beta = 100 (PTQ, middle budgets) that is not so."""
    stem, *layers, head = resnet18()
    assert agreement(layers, 4, 8, 6.7 - mib([stem, head], [8, 8]), QAT) == 15
    assert [agreement(mobilenet_v2(), 2, 4, budget, bits) for budget, bits in MOBILE.items()] == [53, 52]
    assert agreement(resnet18(), 2, 4, 4.0, PTQ[4.000]) <= 10


def test_the_linear_program_of_a_resnet18() -> None:
    stem, *layers, head = resnet18()
    budget = 6.7 - mib([stem, head], [8, 8])
    bits = linear_program(np.ones(16), np.array(layers) / 8 / MIB, [4] * 16, [8] * 16, budget)
    np.testing.assert_allclose(bits, [*[8] * 9, 4, 5.894, 8, 4, 4, 4, 4], atol=5e-4)


programs = st.integers(1, 7).flatmap(
    lambda n: st.tuples(
        st.lists(st.floats(1e-6, 1), min_size=n, max_size=n),
        st.lists(st.integers(1, 1000), min_size=n, max_size=n),
        st.floats(0, 1),
    )
)


@given(programs)
def test_the_linear_program_is_a_fractional_knapsack(case: tuple[list[float], list[int], float]) -> None:
    value, size, share = np.array(case[0]), np.array(case[1], float), case[2]
    low, high = np.full(len(value), 2.0), np.full(len(value), 8.0)
    budget = float(size @ low + share * (size @ (high - low)))
    bits = linear_program(value, size, low, high, budget)
    assert size @ bits <= budget * (1 + 1e-9)
    assert ((bits > low + 1e-6) & (bits < high - 1e-6)).sum() <= 1
    left, best = budget - size @ low, value @ low
    for i in np.argsort(-value / size):  # the best value for its size first
        taken = min(6.0, left / size[i])
        left, best = left - taken * size[i], best + taken * value[i]
    assert value @ bits == pytest.approx(best, rel=1e-6)
    more = linear_program(value, size, low, high, budget * 1.1)
    assert value @ more >= value @ bits * (1 - 1e-9)


@given(programs)
def test_the_exact_front_lies_between_the_rounded_and_the_linear_program(
    case: tuple[list[float], list[int], float],
) -> None:
    value, size, share = np.array(case[0]), np.array(case[1]), case[2]
    levels = np.array([2, 3, 4, 8])
    low, high = np.full(len(value), 2), np.full(len(value), 8)
    budget = float(size @ low + share * (size @ (high - low)))
    bits = linear_program(value, size, low, high, budget)
    rounded = [levels[round_bits(b, levels, down=True)] for b in bits]
    exact = front(
        [v * (8.0 - levels) for v in value], [Cost((Terms.of([s * levels for s in size]),))], [budget * (1 + 1e-9)]
    )
    best = value @ high - exact.score.min()
    assert value @ rounded <= best * (1 + 1e-9)
    assert best <= value @ bits * (1 + 1e-6)


def test_a_budget_out_of_reach() -> None:
    with pytest.raises(BadInput, match="out of reach: with the fewest bits it takes 30"):
        linear_program([1, 1], [5, 10], [2, 2], [8, 8], 29)


@pytest.mark.parametrize(
    ("bits", "nearest", "lower"), [(2, 2, 2), (3.4, 3, 3), (3.6, 4, 3), (7, 8, 4), (7.9999999, 8, 8)]
)
def test_rounding(bits: float, nearest: int, lower: int) -> None:
    levels = np.array([8, 2, 3, 4, 8])
    assert levels[round_bits(bits, levels, down=False)] == nearest
    assert levels[round_bits(bits, levels, down=True)] == lower


WIDTHS = (2, 4, 8)
SIZES = {"a.w": 100, "b.w": 400, "c.w": 50, "d.w": 900}


class Given:
    """A problem that shows given features, for a space of four weights and a value of one width or more."""

    def __init__(self, features: Features, value_widths: Sequence[int] = (8,)) -> None:
        self.found, self.asked = features, {}
        names = [*SIZES, "b:in"]
        widths = dict.fromkeys(SIZES, WIDTHS) | {"b:in": tuple(value_widths)}
        options = {name: tuple(Format("int", b) for b in widths[name]) for name in names}
        self.space = Space(tuple(Choice(name, (name,), options[name]) for name in names))
        self.sites = [Site(n, Role.WEIGHT, (size,)) for n, size in SIZES.items()] + [
            Site("b:in", Role.ACTIVATION, (9,))
        ]
        self.errors = {name: 0.25 ** np.array(widths[name], float) for name in names if len(widths[name]) > 1}
        self.session: Any = SimpleNamespace(problem=self, space=self.space, seed=3, goals=(), budget_left=50)

    def probe(self) -> Given:
        return self

    def features(self, sites: Sequence[str], limits: Mapping[str, int], seed: int, where: str | None) -> Features:
        self.asked = {"sites": list(sites), "limits": dict(limits), "seed": seed, "where": where}
        return self.found

    def relative_errors(self) -> dict[str, Any]:
        return self.errors

    def importance(self, **options: Any) -> dict[str, float]:
        return dict(Ompq(**options).importance(self.session))


def matrices(n: int = 300) -> dict[str, Any]:
    """b repeats a, the others share a little with each."""
    rng = np.random.default_rng(0)
    common = rng.normal(size=(n, 3))
    made = {
        name: common @ rng.normal(size=(3, d)) + 2 * rng.normal(size=(n, d))
        for name, d in (("a", 6), ("c", 9), ("d", 12))
    }
    found = {"a.w": made["a"], "b.w": made["a"] + 0.1 * rng.normal(size=(n, 6)), "c.w": made["c"], "d.w": made["d"]}
    return {name: matrix.astype(np.float32) for name, matrix in found.items()}


def shown(found: Mapping[str, Any], **more: str) -> Features:
    return Features(tuple(found), {name: name for name in found} | more, (Block("sample", found),), "branch")


def test_importance_of_ours() -> None:
    found = matrices()
    problem = Given(shown(found))
    theta = orthogonality(redundancy(similarity(list(found.values())), mean=True), 10)
    expected = dict(zip(found, theta / theta.mean(), strict=True))
    assert problem.importance() == pytest.approx(expected)
    assert problem.asked["limits"] == {"sample": 256, "token": 1024, "node": 4096}
    assert problem.asked["sites"] == list(SIZES)  # a value with one option has nothing to be decided
    assert expected["a.w"] < expected["c.w"] > expected["b.w"]


def test_importance_as_published() -> None:
    found = matrices(32)
    problem = Given(shown(found), value_widths=(4, 8))
    theta = suffix_mean(orthogonality(redundancy(similarity(list(found.values()), debiased=False)), 3))
    assert problem.importance(version="published", beta=3) == pytest.approx(
        dict(zip(found, theta / theta.mean(), strict=True))
    )
    assert problem.asked["limits"] == {"sample": 32, "token": 32, "node": 32}
    assert problem.asked["sites"] == list(SIZES)  # weights alone


@pytest.mark.parametrize("version", ["ours", "published"])
def test_without_beta_all_sites_are_equal(version: str) -> None:
    assert set(Given(shown(matrices())).importance(version=version, beta=0).values()) == {1.0}


def test_a_value_has_the_importance_of_its_tap() -> None:
    found = Given(shown(matrices(), **{"b:in": "a.w"}), value_widths=(4, 8)).importance()
    assert found["b:in"] == found["a.w"]


def test_constant_layers_are_the_least_redundant(caplog: pytest.LogCaptureFixture) -> None:
    found = matrices() | {"b.w": np.full((300, 4), 0.3, np.float32)}
    importance = Given(shown(found)).importance()
    assert "b.w: constant" in caplog.text
    assert importance["b.w"] == max(importance.values())


def test_few_samples_are_said(caplog: pytest.LogCaptureFixture) -> None:
    Given(shown(matrices(300))).importance()
    assert not caplog.text
    Given(shown(matrices(100))).importance()
    assert "100 rows" in caplog.text
    assert "256 were asked for" in caplog.text


def test_blocks_are_compared_each_for_itself() -> None:
    """In a block of two, which are equally redundant, both are like the average, and so is what is alone."""
    found = matrices()
    pairs = tuple(Block("node", {name: found[name] for name in names}) for names in (("a.w", "b.w"), ("c.w", "d.w")))
    equal = Given(Features(tuple(SIZES), {s: s for s in SIZES}, pairs, "branch")).importance()
    assert list(equal.values()) == pytest.approx([1, 1, 1, 1])
    alone = {"d.w": found.pop("d.w")[:3]}
    blocks = (Block("token", found), Block("sample", alone))
    importance = Given(Features(tuple(SIZES), {s: s for s in SIZES}, blocks, "branch")).importance(beta=5)
    gamma = redundancy(similarity(list(found.values())), mean=True)
    theta = orthogonality([*gamma, gamma.mean()], 5)  # nothing to compare with: the average
    assert list(importance.values()) == pytest.approx((theta / theta.mean()).tolist())


def test_the_noise_of_redundancy_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "mpsearch.drivers"):
        Given(shown(matrices())).importance()
    assert "on thirds of them it varies by" in caplog.text
    assert "redundancy of d.w" in caplog.text


def test_harm() -> None:
    problem = Given(shown(matrices()), value_widths=(4, 8))
    assert dict(Ompq().harm(problem.session)).keys() == {*SIZES, "b:in"}
    published = Ompq("published").harm(problem.session)
    assert {site: rises.tolist() for site, rises in published.items()} == {site: [6, 4, 0] for site in SIZES}


def test_points_as_published_are_bang_bang() -> None:
    """At most one layer is at neither end, sizes are spread over the range, values stay at their widest."""
    problem = Given(shown(matrices()), value_widths=(4, 8))
    driver = Ompq("published")
    worth = dict(zip(SIZES, (3, 1, 2, 5), strict=True))
    scores = {site: worth[site] * rises for site, rises in driver.harm(problem.session).items()}
    asked = driver.points(problem.session, scores, 40)
    sizes = [sum(SIZES[site] * a.at(site).bits for site in SIZES) for a in asked]
    assert sizes[:2] == [2 * sum(SIZES.values()), 8 * sum(SIZES.values())]
    assert len(set(asked)) == len(asked) > 4
    for assignment in asked:
        assert assignment.at("b:in").bits == 8
        assert sum(assignment.at(site).bits == 4 for site in SIZES) <= 1
    order = sorted(SIZES, key=lambda site: -worth[site] / SIZES[site])
    for assignment in asked:  # in the order of value per size, first come first served
        widths = [assignment.at(site).bits for site in order]
        assert widths == sorted(widths, reverse=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"version": "theirs"}, "published or ours"),
        ({"smoothing": "mean"}, "suffix_mean or none"),
        ({"tap": "input"}, "branch or post_residual"),
        ({"beta": -1.0}, "0 or more"),
        ({"beta": float("nan")}, "0 or more"),
        ({"samples": 3}, "at least 4"),
    ],
)
def test_options_that_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        Ompq(**options)
