"""The memoizing interpreter gives what a cold one gives, bit for bit, and does less."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rigs import LARGE, Machine, Rig, calls, rig, same
from tiny_models import PlainNet, PreActivation, ResidualNet, Transformer, TwoLayerGcn, graph, randn
from torch import Tensor, nn

from mpsearch.core.format import FP32, Format
from mpsearch.graph.program import Kind

INT2, INT8 = Format.parse("int2"), Format.parse("int8")
MODES = ("none", "per_site", "sequential")


@cache
def cnn() -> Rig:
    batches = [(randn(n, 3, 6, 6, seed=n),) for n in (4, 4, 3)]
    calibration = [(randn(3, 3, 6, 6, seed=20),), (randn(2, 3, 6, 6, seed=21),)]
    return rig(ResidualNet, *batches, calibration=calibration)


@cache
def gnn() -> Rig:
    """Sites on features, weights and aggregates: what lies between them becomes a sparse product."""
    x, edge_index = graph()
    names = [s.name for s in rig(TwoLayerGcn, (x, edge_index)).discovery.sites]
    active = [n for n in names if not n.endswith((":message", ":attention"))]
    return rig(TwoLayerGcn, (x, edge_index), (x + 1, edge_index), active=active)


@cache
def transformer() -> Rig:
    return rig(Transformer, (randn(3, 5, 8),), (randn(3, 5, 8, seed=1),), (randn(2, 5, 8, seed=2),))


@cache
def pre_activation() -> Rig:
    """Only weights have a choice, so that values are read as they were made."""
    active = [f"{layer}.weight" for layer in ("stem", "inner", "head")]
    return rig(PreActivation, (randn(3, 3, 6, 6),), (randn(2, 3, 6, 6, seed=1),), active=active)


RIGS: dict[str, Callable[[], Rig]] = {
    "cnn": cnn,
    "gnn": gnn,
    "transformer": transformer,
    "pre-activation": pre_activation,
}


@cache
def cold(name: str, mode: Any, formats: tuple[Format, ...], batch: int) -> list[Any]:
    """What a fresh interpreter without a cache gives."""
    return RIGS[name]().machine(mode, cache_bytes=0).run(formats, batch)


def walks(name: str) -> st.SearchStrategy[list[tuple[tuple[Format, ...], int]]]:
    """Assignments with the batch each runs on; a walk returns to where it was and moves one site at a time, too."""
    found = RIGS[name]()
    n, batches = len(found.program.sites), len(found.flat)
    option = st.sampled_from((FP32, INT2, INT8))
    anywhere = st.lists(option, min_size=n, max_size=n).map(tuple)
    few = st.lists(anywhere, min_size=1, max_size=2).flatmap(
        lambda starts: st.tuples(st.sampled_from(starts), st.integers(0, n - 1), option).map(
            lambda move: (*move[0][: move[1]], move[2], *move[0][move[1] + 1 :])
        )
    )
    return st.lists(st.tuples(anywhere | few, st.integers(0, batches - 1)), min_size=1, max_size=6)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", RIGS)
def test_any_walk_at_any_cache_size_equals_cold_runs(name: str, mode: Any) -> None:
    @settings(max_examples=6)
    @given(walk=walks(name), cache_bytes=st.sampled_from((0, 700, 20_000, LARGE)), forget_at=st.integers(0, 12))
    def check(walk: list[tuple[tuple[Format, ...], int]], cache_bytes: int, forget_at: int) -> None:
        machine = RIGS[name]().machine(mode, cache_bytes)
        for step, (formats, batch) in enumerate(walk):
            if step == forget_at:
                machine.interpreter.forget()
            assert same(machine.run(formats, batch), cold(name, mode, formats, batch))
            assert machine.interpreter.memo.used <= cache_bytes

    check()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", RIGS)
def test_running_out_of_version_numbers_changes_nothing(name: str, mode: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = RIGS[name]().machine(mode)
    monkeypatch.setattr(type(machine.interpreter), "MAX_VERSIONS", 25)
    for formats in single_moves(machine):
        assert same(machine.run(formats), cold(name, mode, formats, 0))


def single_moves(machine: Machine) -> list[tuple[Format, ...]]:
    """Everything at 8 bits, then one site at a time at 2 bits."""
    base = [INT8] * len(machine.interpreter.program.sites)
    return [tuple(base)] + [(*base[:i], INT2, *base[i + 1 :]) for i in range(len(base))]


@pytest.mark.parametrize("name", RIGS)
def test_float_assignment_replays_the_model(name: str) -> None:
    found = RIGS[name]()
    ours = found.machine().run([FP32] * len(found.program.sites))
    with torch.no_grad():
        theirs = found.model(*found.flat[0])
    torch.testing.assert_close(ours[0], theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("mode", MODES)
def test_changing_the_last_site_recomputes_its_layer_alone(mode: Any) -> None:
    found = rig(PlainNet, (randn(4, 3, 6, 6),))
    machine = found.machine(mode)
    sites = [site.name for site in found.program.sites]
    assert sites[-1] == "head.weight"
    base = [INT8] * len(sites)
    machine.run(base)
    before = machine.interpreter.macs_done
    machine.run([*base[:-1], INT2])
    head = 4 * 8 * 4  # batch, channels in, channels out
    both = 2 * head  # on the calibration batch, which is as large, too
    assert machine.interpreter.macs_done - before == (head if mode == "none" else both)
    before = machine.interpreter.macs_done
    machine.run(base)
    assert machine.interpreter.macs_done - before == head, "what is known up to the head is not computed again"


def test_without_a_cache_every_run_costs_a_forward() -> None:
    found = cnn()
    machine = found.machine(cache_bytes=0)
    for count in (1, 2, 3):
        machine.run([INT8] * len(found.program.sites))
        assert machine.interpreter.macs_done == count * found.program.macs


@pytest.mark.parametrize("name", RIGS)
def test_constants_are_computed_once_per_batch(name: str) -> None:
    found = RIGS[name]()
    counts: dict[int, int] = {}
    for step in found.program.steps:
        if step.kind is Kind.CALL and not step.upstream:
            step.call = counted(step.index, step.call, counts)
    machine = found.machine()
    for formats in single_moves(machine):
        for batch in range(len(found.flat)):
            machine.run(formats, batch)
    assert all(count == len(found.flat) for count in counts.values())
    assert counts or name != "gnn", "a GCN's degree normalisation depends on no site"


def counted(index: int, call: Any, counts: dict[int, int]) -> Any:
    def run(*args: Any, **kwargs: Any) -> Any:
        counts[index] = counts.get(index, 0) + 1
        return call(*args, **kwargs)

    return run


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", RIGS)
def test_nothing_that_is_held_is_overwritten(name: str, mode: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    found = RIGS[name]()
    machine = found.machine(mode)
    held: list[tuple[Tensor, Tensor]] = []

    def hold(value: Any) -> None:
        for tensor in value if isinstance(value, (list, tuple)) else [value]:
            if isinstance(tensor, Tensor):
                held.append((tensor, tensor.clone()))

    put = machine.interpreter.memo.put

    def watching(key: Any, value: Any) -> bool:
        hold(value)
        return put(key, value)

    monkeypatch.setattr(machine.interpreter.memo, "put", watching)
    for tensor in (*found.program.tensors.values(), *(leaf for batch in found.flat for leaf in batch)):
        hold(tensor)
    for formats in single_moves(machine):
        for batch, stream in enumerate(machine.streams):
            hold(machine.run(formats, batch))
            for value in machine.interpreter.constants(stream).values():
                hold(value)
        for index, fmt in enumerate(formats):
            if found.program.sites[index].role.is_parameter:
                hold(found.grids.parameter(index, fmt))
    changed = [i for i, (now, then) in enumerate(held) if not torch.equal(dense(now), dense(then))]
    assert len(held) > 20
    assert not changed


def dense(value: Tensor) -> Tensor:
    return value.to_dense() if value.is_sparse_csr else value


def test_grids_fitted_later_equal_grids_fitted_beforehand() -> None:
    """A format that calibration did not foresee costs a pass more and gives the same grid."""
    from mpsearch.graph.grids import SiteGrids
    from mpsearch.graph.interpret import Interpreter

    found = cnn()
    early = SiteGrids(found.program, LARGE)
    wanted = {i: [INT2, INT8] for i in range(len(found.program.sites))}
    early.calibrate(Interpreter(found.program, early, LARGE), found.calibration_stream(), wanted)
    for index in wanted:
        for fmt in (INT2, INT8):
            sample = randn(*found.program.sites[index].shape, seed=9)
            assert torch.equal(
                early.grid(index, fmt).round_trip(sample), found.grids.grid(index, fmt).round_trip(sample)
            )


def test_the_sparse_product_stands_for_gather_and_scatter() -> None:
    assert calls(gnn().program).count("product") == 2


@pytest.mark.parametrize("clip", [nn.functional.relu6, nn.ReLU6()])
def test_both_forms_of_relu6_may_work_in_place(clip: Callable[[Tensor], Tensor]) -> None:
    class Clipped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(clip(self.a(9 * x)))

    model, x = Clipped().eval(), randn(5, 4)
    found = rig(model, (x,), active=["b.weight"])
    assert torch.equal(found.run({})[0], model(x))
    clips = [step for step in found.program.steps if "relu6" in str(step.call) or "hardtanh" in str(step.call)]
    assert [len(step.overwrites) for step in clips] == [1]
