"""Drivers that predict: what they ask, what their controls ask, and what they refuse."""

from __future__ import annotations

import logging
from collections import Counter
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpsearch.core.errors import BadInput
from mpsearch.core.format import Format
from mpsearch.cost.solve.solutions import evenly, spread
from mpsearch.cost.terms import Cost
from mpsearch.drivers.fisher import Fisher
from mpsearch.drivers.hessian import Hessian
from mpsearch.drivers.proxy import controls, weighed
from mpsearch.drivers.sensitivity import Sensitivity
from mpsearch.engine.proxies import arms, beside_controls, hypervolumes
from mpsearch.engine.report import markdown
from mpsearch.engine.result import RunResult
from mpsearch.engine.run import run
from mpsearch.engine.views import View
from mpsearch.problem.probe import Estimate
from mpsearch.spec.schema import Spec
from mpsearch.testing.toy import PRICES, SENSITIVITY, SIZE, Toy, toy_spec
from mpsearch.testing.toy_probe import ToyProbe


def searched(folder: Path, driver: str, problem: type[Toy] = Toy, **more: Any) -> RunResult:
    def build(spec: Spec, weights: Path | None) -> Toy:
        del weights
        return problem(**spec.objective.options)

    return run(toy_spec(driver, **more), folder, build=build, show_progress=False, bare=True)


@pytest.fixture
def equal_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers of one size: in the toy the sensitive ones are small, and so costs alone tell what to keep wide."""
    monkeypatch.setattr("mpsearch.testing.toy.SIZE", (128,) * 4)
    monkeypatch.setitem(PRICES, "memory_bytes", ((128,) * 4, 8))


class Blind(Toy):
    """Every layer looks alike, so that the proxy is its own control."""

    def probe(self) -> ToyProbe:
        return ToyProbe(self.space, {choice.name: 1.0 for choice in self.space.choices})


class Inverted(Toy):
    """The layers that matter least look as if they mattered most."""

    def probe(self) -> ToyProbe:
        return ToyProbe(self.space, {c.name: 1 / s for c, s in zip(self.space.choices, SENSITIVITY, strict=True)})


class Saddle(Toy):
    """One layer has a negative trace."""

    def probe(self) -> ToyProbe:
        class Bent(ToyProbe):
            def mean_traces(self, *args: Any) -> dict[str, Estimate]:
                found = dict(super().mean_traces(*args))
                return found | {"layer1.weight": Estimate(-0.5, 0.1, 16)}

        return Bent(self.space, dict(zip([c.name for c in self.space.choices], SENSITIVITY, strict=True)))


@given(st.lists(st.tuples(st.integers(1, 10**6), st.integers(1, 10**6)), min_size=1, max_size=40), st.booleans())
def test_spread_takes_every_row_once_and_both_ends_first(rows: list[tuple[int, int]], one: bool) -> None:
    costs = np.array(rows, dtype=float)[:, : 1 if one else 2]
    order = spread(costs)
    assert sorted(order) == list(range(len(costs)))
    assert costs[order[0], 0] == costs[:, 0].min()
    if len(set(costs[:, 0])) > 1:
        assert costs[order[1], 0] == costs[:, 0].max()


def test_every_beginning_of_spread_is_even_in_log_cost() -> None:
    costs = np.exp2(np.arange(65))[:, None]
    for n, gap in ((3, 32), (5, 16), (9, 8), (17, 4)):
        assert set(np.diff(np.sort(spread(costs)[:n]))) == {gap}


def test_constant_importance_is_the_allocation_of_least_squared_error() -> None:
    harm = {"a": np.array([4.0, 1.0]), "b": np.array([8.0, 0.5])}
    made = controls({"a": 100.0, "b": 0.01}, harm, seed=0)
    assert all((made["constant"][0][site] == harm[site]).all() for site in harm)
    assert len(made["random"]) > 1
    assert controls({"a": 100.0, "b": 0.01}, harm, 0)["random"][0]["a"] == pytest.approx(made["random"][0]["a"])
    even = controls({"a": 2.0, "b": 2.0}, harm, 0)["random"][0]  # as spread as the proxy's own: not at all
    assert even["a"] == pytest.approx(harm["a"])
    assert weighed({"a": 3.0, "b": 1.0}, harm)["a"].tolist() == [12.0, 3.0]


@pytest.mark.parametrize("driver", ["hessian", "fisher"])
def test_every_arm_asks_for_as_many_points(tmp_path: Path, driver: str) -> None:
    result = searched(tmp_path / "run", driver, budget=24)
    given_to_all = {"baseline", *(f"uniform {b}" for b in (2, 4, 8))}
    asked = Counter(e.asked_by for e in result.evaluations)
    assert {who.split()[0] for who in asked if who not in given_to_all} == {driver}
    found = arms(result)
    assert set(found) == {"proxy", "constant", "random"}
    counts = [len(group) for group in found.values()]
    assert max(counts) - min(counts) <= 2  # points that are uniform controls count for all
    assert min(counts) >= 4


@pytest.mark.usefixtures("equal_layers")
def test_a_proxy_that_knows_beats_one_that_is_wrong(tmp_path: Path) -> None:
    right = hypervolumes(searched(tmp_path / "right", "hessian", budget=24))
    wrong = hypervolumes(searched(tmp_path / "wrong", "hessian", Inverted, budget=24))
    assert right["proxy"] > right["constant"]
    assert wrong["proxy"] < wrong["constant"]


@pytest.mark.usefixtures("equal_layers")
def test_the_report_says_which(tmp_path: Path) -> None:
    right = searched(tmp_path / "right", "hessian", budget=24)
    assert "`hessian` beats" in markdown(View.of(right)) or "it does beat constant" in markdown(View.of(right))
    wrong = searched(tmp_path / "wrong", "hessian", Inverted, budget=24)
    assert "does not beat constant importance" in beside_controls(wrong)[0]
    blind = searched(tmp_path / "blind", "fisher", Blind, budget=24)
    assert "does not beat constant importance (+0.0000)" in beside_controls(blind)[0]
    assert "The proxy beside its controls" in markdown(View.of(blind))
    other = searched(tmp_path / "random", "random", budget=8)
    assert beside_controls(other) == []
    assert "The proxy beside" not in markdown(View.of(other))


def test_a_negative_trace_is_taken_as_tiny_and_said(tmp_path: Path) -> None:
    searched(tmp_path / "run", "hessian", Saddle, budget=12)
    text = (tmp_path / "run" / "run.log").read_text()
    assert "the mean trace of layer1.weight is not clearly above zero" in text
    assert "mean trace of layer0.weight: 2.4 ± 0 (16 draws)" in text


def test_few_choices_are_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "mpsearch.drivers"):
        searched(tmp_path / "two", "fisher", budget=12, toy={"layers": 2})
        assert "a proxy over 2 choices carries no information" in caplog.text
        caplog.clear()
        searched(tmp_path / "three", "fisher", budget=12, toy={"layers": 3})
        assert "carries no information" not in caplog.text


def test_activations_are_weighed_on_the_scale_of_the_traces() -> None:
    """Two sites have traces, two only gradients, which are a hundred times smaller on a model that fits its data."""

    class Fitted(ToyProbe):
        def mean_traces(self, *args: Any) -> dict[str, Estimate]:
            return dict(list(super().mean_traces(*args).items())[:2])

        def mean_fisher(self) -> dict[str, float]:
            return {site: value / 100 for site, value in self._sensitivity.items()}

    toy = Toy()
    true = {choice.name: value for choice, value in zip(toy.space.choices, SENSITIVITY, strict=True)}
    toy.probe = lambda: Fitted(toy.space, true)  # type: ignore[method-assign]
    session = SimpleNamespace(problem=toy, seed=0)
    assert Hessian().importance(session) == pytest.approx(true)  # type: ignore[arg-type]


@pytest.mark.parametrize("driver", ["hessian", "fisher", "sensitivity"])
def test_without_a_cost_it_is_refused_before_anything_runs(tmp_path: Path, driver: str) -> None:
    with pytest.raises(BadInput, match="add the goal memory_bytes"):
        searched(tmp_path / "run", driver, goals=1)
    assert '"assignment"' not in (tmp_path / "run" / "ledger.jsonl").read_text()


def test_costs_alone_have_no_sensitivity(tmp_path: Path) -> None:
    class CostsOnly(Toy):
        def cost(self, name: str) -> Cost | None:
            return super().cost("memory_bytes" if name == "accuracy" else name)

    with pytest.raises(BadInput, match="every goal is a cost"):
        searched(tmp_path / "run", "sensitivity", CostsOnly)


def test_sensitivity_measures_each_option_alone_first(tmp_path: Path) -> None:
    result = searched(tmp_path / "run", "sensitivity", budget=40)
    mine = [e for e in result.evaluations if e.asked_by == "sensitivity"]
    eight = Format("int", 8)
    narrowed = [sum(fmt != eight for fmt in e.assignment.values()) for e in mine]
    assert narrowed[:8] == [1] * 8  # 4 layers, 2 options narrower than the widest
    assert len(mine) > 8
    assert max(narrowed[8:]) > 1
    assert result.hypervolume > searched(tmp_path / "random", "random", budget=len(result.evaluations)).hypervolume


def test_the_greedy_path_narrows_the_least_sensitive_first(tmp_path: Path) -> None:
    result = searched(tmp_path / "run", "sensitivity", budget=40, options={"path": "greedy"})
    mine = [e.assignment for e in result.evaluations if e.asked_by == "sensitivity"][8:]
    path = sorted(mine, key=lambda a: -sum(a.at(f"layer{i}.weight").bits for i in range(4)))
    for before, after in pairwise(path):  # every point lies below the one before it
        assert all(after.at(s).bits <= before.at(s).bits for s in before)
    whole = [tuple(a.at(f"layer{i}.weight").bits for i in range(4)) for a in path]
    assert (8, 4, 4, 8) in whole  # layers 1 and 2 hurt least
    assert SIZE[1] == SIZE[2] == max(SIZE)


def test_a_budget_too_small_for_sensitivity_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "mpsearch.drivers"):
        result = searched(tmp_path / "run", "sensitivity", budget=8)
    assert "needs 8 evaluations to measure every option alone, and 4 are left" in caplog.text
    assert len(result.evaluations) == 8


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: Hessian(probes=3), "probes=3"),
        (lambda: Hessian(tolerance=0), "tolerance=0"),
        (lambda: Fisher("diagonal"), "Did you mean 'diag'"),
        (lambda: Sensitivity("gredy"), "Did you mean 'greedy'"),
    ],
)
def test_options_are_checked(make: Any, match: str) -> None:
    with pytest.raises(BadInput, match=match):
        make()


def test_a_path_of_any_length_is_spread_evenly():
    order = evenly(np.arange(2049.0)[:, None])
    assert order[:3] == [0, 2048, 1024]
    assert sorted(order[3:5]) == [512, 1536]
    assert sorted(order) == list(range(2049))
