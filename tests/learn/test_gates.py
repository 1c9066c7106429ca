"""Learned bits: lattices against plain grids, gates against their distribution, expected costs against all cases."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mpsearch.core.errors import BadInput
from mpsearch.core.format import Format
from mpsearch.core.site import Role, Site
from mpsearch.core.space import Choice, Space
from mpsearch.cost.terms import Cost, Terms
from mpsearch.learn.expected import Expected
from mpsearch.learn.gates import Gates, hard_concrete, ladder, nested, on_better_side, open_chance, option_chances
from mpsearch.learn.lsq import Lsq
from mpsearch.quant.affine import AffineGrid
from mpsearch.quant.bank import Bank

SITES = (Site("w", Role.WEIGHT, (6, 10)), Site("v", Role.ACTIVATION, (6, 10), axis=1))
TEXTS = ("int4", "int2", "int8", "int3")  # in no order


def formats(*texts: str) -> tuple[Format, ...]:
    return tuple(Format.parse(text) for text in texts)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def bits_of(space: Space, sizes: tuple[int, ...] = (60, 100)) -> Cost:
    """Average bits, where choice i has `sizes[i]` elements."""
    pairs = zip(space.choices, sizes, strict=False)
    return Cost((Terms.of([[int(size * fmt.bits) for fmt in c.options] for c, size in pairs]),), sum(sizes))


def gates(value: Tensor, *, texts: tuple[str, ...] = TEXTS, tied: bool = False, **options: object) -> Gates:
    """At a weight and a value, which decide together if they are `tied`, after the warm-up."""
    options_of = formats(*texts)
    names = [("w", "v")] if tied else [("w",), ("v",)]
    space = Space(tuple(Choice(sites[0], sites, options_of) for sites in names))
    learner = Gates(**options)  # type: ignore[arg-type]
    learner.offer(space, lambda name: bits_of(space) if name == "weight_bits" else None)
    widest = max(options_of, key=lambda fmt: fmt.bits)
    learner.place(SITES, [widest, widest], {0: randn(6, 10)})
    learner.fit(lambda look: look(1, value))  # type: ignore[operator]
    learner.advance(5, 20)
    learner.training = True
    return learner


def set_phi(learner: Gates, phi: float | list[float], choice: int = 0) -> None:
    with torch.no_grad():
        learner._phi[choice].copy_(torch.tensor(phi) / learner._rate)


@pytest.mark.parametrize("nesting", ["resolution", "range"])
def test_all_gates_open_is_the_plain_quantizer_and_its_gradients(nesting: str) -> None:
    x = randn(6, 10, seed=1)
    learner, plain = gates(x, nesting=nesting), Lsq()
    plain.place(SITES, formats("int8", "int8"), {0: randn(6, 10)})
    plain.fit(lambda look: look(1, x))  # type: ignore[operator]
    for i in (0, 1):
        set_phi(learner, 30.0, i)
        one, two = x.clone().requires_grad_(), x.clone().requires_grad_()
        ours, theirs = learner(i, one), plain(i, two)
        assert torch.equal(ours, theirs)
        upstream = randn(6, 10, seed=2)
        by_ours = torch.autograd.grad(ours, [one, learner._steps[i]], upstream)
        by_theirs = torch.autograd.grad(theirs, [two, plain._steps[i]], upstream)
        assert all(torch.equal(a, b) for a, b in zip(by_ours, by_theirs, strict=True))


@pytest.mark.parametrize("nesting", ["resolution", "range"])
@pytest.mark.parametrize("level", [0, 1, 2])
def test_gates_closed_to_a_width_are_its_grid_and_hardening_keeps_it(nesting: str, level: int) -> None:
    x = randn(6, 10, seed=1)
    learner = gates(x, nesting=nesting)
    for i in (0, 1):
        top = learner._grids[i]
        assert isinstance(top, AffineGrid)
        wanted = nested(top, (2, 3, 4, 8)[level], nesting)
        assert wanted.scale.numel() == top.scale.numel()
        if i == 0 and level == 0:
            wanted = on_better_side(wanted, learner._weights[0])
        set_phi(learner, [30.0] * level + [-30.0] * (3 - level), i)
        assert torch.equal(learner(i, x), wanted.round_trip(x))
        learner.stepped()
    soft = [learner(i, x) for i in (0, 1)]
    learner.advance(19, 20)
    assert learner.settled
    assert {fmt.bits for fmt in learner.changed().values()} == {(2, 3, 4, 8)[level]}
    assert all(torch.equal(learner(i, x), soft[i]) for i in (0, 1))


@given(st.sampled_from(["int8", "int6", "int4"]), st.sampled_from([2, 3, 4]), st.integers(0, 1), st.integers(0, 99))
@settings(max_examples=10)
def test_lattices_are_inside_each_other_and_have_the_codes_of_their_width(
    text: str, bits: int, kind: int, seed: int
) -> None:
    sample = randn(6, 10, seed=seed) + (seed % 5)
    top = Bank(lambda _: sample, 0).grid(SITES[kind], Format.parse(text))
    plain = Bank(lambda _: sample, 0).grid(SITES[kind], Format("int", bits))
    assert isinstance(top, AffineGrid)
    assert isinstance(plain, AffineGrid)
    for nesting in ("resolution", "range"):
        inner = nested(top, bits, nesting)
        assert (inner.bits, inner.qmin, inner.qmax) == (plain.bits, plain.qmin, plain.qmax)
        if inner.zero_point is not None:
            assert inner.qmin <= int(inner.zero_point) <= inner.qmax
        points = 40 * randn(400, 10, seed=seed + 1)
        on_inner = inner.round_trip(points[:6] if inner.scale.dim() else points)
        if bits > 2 or kind == 1:  # two symmetric bits have one number more
            assert torch.equal(top.round_trip(on_inner), on_inner)


def test_the_fourth_number_of_two_bits_lies_where_it_loses_less() -> None:
    weights = randn(6, 10, seed=4)
    top = Bank(lambda _: weights, 0).grid(SITES[0], Format.parse("int4"))
    assert isinstance(top, AffineGrid)
    plain = nested(top, 2, "resolution")
    sides = [plain, replace(plain, scale=-plain.scale)]
    best = torch.stack([(g.round_trip(weights) - weights).square().sum(1) for g in sides]).amin(0)
    found = on_better_side(plain, weights)
    torch.testing.assert_close((found.round_trip(weights) - weights).square().sum(1), best)
    assert (found.scale < 0).any()
    assert (found.scale > 0).any()
    assert on_better_side(top, weights) is top


def test_the_mode_goes_forward_and_the_mean_backward() -> None:
    x = randn(6, 10, seed=1)
    learner = gates(x)
    learner._drawn[0] = [torch.tensor(g).requires_grad_() for g in (1.0, 0.7, 0.6, 0.0)]
    out = learner(0, x)
    lattices = [learner._on_lattice(0, x, b).detach() for b in range(4)]
    assert torch.equal(out, lattices[2])  # weights 0.3, 0.1, 0.6, 0
    upstream = randn(6, 10, seed=2)
    found = torch.autograd.grad(out, learner._drawn[0][1:3], upstream)
    for b, gradient in enumerate(found, start=1):
        torch.testing.assert_close(gradient, (upstream * (lattices[b] - lattices[b - 1])).sum(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("phi", "above", "whole"), [(2.5, 0.984, 0.711), (0.0, 0.832, None), (-1.5, 0.525, None)])
def test_gates_are_hard_concrete(phi: float, above: float, whole: float | None) -> None:
    torch.manual_seed(0)
    z = hard_concrete(torch.full((200_000,), phi))
    assert float(open_chance(torch.tensor(phi))) == pytest.approx(above, abs=6e-4)
    assert float((z > 0).float().mean()) == pytest.approx(above, abs=4e-3)
    if whole is not None:
        assert float((z == 1).float().mean()) == pytest.approx(whole, abs=4e-3)


@given(st.lists(st.floats(-6, 6), min_size=3, max_size=3), st.integers(0, 2), st.floats(0.1, 2))
@settings(max_examples=25)
def test_expected_bits_lie_between_the_ends_and_rise_with_every_gate(phi: list[float], which: int, more: float) -> None:
    space = Space((Choice("w", ("w",), formats("int2", "int3", "int4", "int8")),))
    mean = Expected(bits_of(space, (7,)), [c.options for c in space.choices], [c.options for c in space.choices])
    logits = torch.tensor(phi, dtype=torch.float64, requires_grad=True)
    bits = mean([option_chances(logits)])
    assert 2 <= bits.item() <= 8
    (gradient,) = torch.autograd.grad(bits, logits)
    assert (gradient > 0).all()
    raised = logits.detach() + torch.nn.functional.one_hot(torch.tensor(which), 3) * more
    assert mean([option_chances(raised)]) > bits.detach()


def test_expected_costs_are_means_over_all_assignments() -> None:
    rng = np.random.default_rng(0)
    options = [formats("int4", "int2", "int8"), formats("int2", "int4"), formats("int3", "int2")]
    ladders = [formats("int2", "int8"), formats("int2", "int4"), formats("int2", "int3")]
    table = [rng.integers(1, 50, len(o)) for o in options]
    joint = {(0, 1): rng.integers(0, 50, (3, 2)), (0, 1, 2): rng.integers(0, 50, (3, 2, 2))}
    cost = Cost((Terms.of(table, 11, joint), Terms.of(table, 3)), 8)
    chances = [torch.tensor([0.2, 0.8]), None, torch.tensor([0.3, 0.7])]
    rows = [0.0, 0.0]
    for picked in product(range(2), range(2), range(2)):
        shares = [1.0 * (k == 1) if p is None else float(p[k]) for p, k in zip(chances, picked, strict=True)]
        index = [o.index(rungs[k]) for o, rungs, k in zip(options, ladders, picked, strict=True)]
        for r, row in enumerate(cost.rows):
            rows[r] += np.prod(shares) * float(row([index])[0])
    assert float(Expected(cost, options, ladders)(chances)) == pytest.approx(max(rows) / 8, rel=1e-6)


def test_the_penalty_moves_gates_alone_and_without_a_task_bits_go_to_the_least() -> None:
    x = randn(6, 10, seed=1)
    learner = gates(x, penalty=0.5)
    penalty = learner.penalty()
    assert penalty is not None
    assert penalty.item() == pytest.approx(0.5 * learner.expected_cost().item())
    penalty.backward()
    assert all(step.grad is None for step in learner._steps.values())
    assert all((phi.grad > 0).all() for phi in learner._phi.values())  # type: ignore[operator]
    optimizer = torch.optim.Adam(learner.parameters(), 2e-2)
    for _ in range(60):
        optimizer.zero_grad()
        learner.penalty().backward()  # type: ignore[union-attr]
        optimizer.step()
        learner.stepped()
    learner.advance(19, 20)
    assert {fmt.bits for fmt in learner.changed().values()} == {2}


def test_stages_and_what_is_learned_together() -> None:
    x = randn(6, 10, seed=1)
    learner = gates(x, tied=True)
    assert len(learner._phi) == 1
    pressures = []
    for epoch in range(20):
        learner._hardened = False
        learner.advance(epoch, 20)
        pressures.append(learner._pressure)
        assert learner.settled == (epoch >= 13)
    assert pressures[:2] == [0, 0]
    assert pressures == sorted(pressures[:13]) + [0] * 7
    assert max(pressures) == 1


def test_options_that_bits_are_not_learned_between() -> None:
    def of(*texts: str) -> tuple[str, ...]:
        return tuple(str(fmt) for fmt in ladder(Choice("layer", ("layer",), formats(*texts))))

    assert of("multibit2") == ("multibit2",)
    assert of("int8", "int1", "fp32", "int2", "int4:rows", "int3:tensor") == ("int2", "int8")
    with pytest.raises(BadInput, match=r"layer: .*multibit2, fp32.*Offer some"):
        of("multibit2", "fp32")
    for options in ({"penalty": -1}, {"penalty": float("nan")}, {"nesting": "up"}, {"gate_rate": 0}):
        with pytest.raises(BadInput, match=next(iter(options))):
            Gates(**options)  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="accuracy"):
        Gates(cost="accuracy").offer(Space(()), lambda name: None)
