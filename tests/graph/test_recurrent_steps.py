"""A recurrent layer stays one node until one of its states has a choice; written out it gives the same."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import pytest
import torch
from rigs import LARGE, Rig, calls, distance, lower, rig, same
from tiny_models import randn
from torch import Tensor, nn

from mpsearch.core.assignment import Assignment
from mpsearch.core.errors import BadInput
from mpsearch.core.format import FP32, Format
from mpsearch.core.site import Role
from mpsearch.cost.operations import operation_measures
from mpsearch.graph.gradients import leaves, replay
from mpsearch.graph.grids import SiteGrids
from mpsearch.graph.interpret import Interpreter, Stream
from mpsearch.graph.operations import operations
from mpsearch.graph.sites import discover
from mpsearch.problem.rules import canonical
from mpsearch.spec import registry

STEPS, SAMPLES = 6, 3


class Layer(nn.Module):
    """A recurrent layer that gives everything it has: outputs and last states."""

    def __init__(self, kind: Any, options: Mapping[str, Any]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.rnn = kind(4, 5, **options)

    def forward(self, x: Tensor, *states: Tensor) -> Any:
        given = states if isinstance(self.rnn, nn.LSTM) else states[0] if states else None
        return self.rnn(x, given or None) if not isinstance(given, Tensor) else self.rnn(x, given)


CASES: dict[str, tuple[Any, dict[str, Any]]] = {
    "lstm": (nn.LSTM, {"batch_first": True}),
    "lstm, steps first": (nn.LSTM, {}),
    "lstm, no bias": (nn.LSTM, {"batch_first": True, "bias": False}),
    "lstm, layers": (nn.LSTM, {"num_layers": 3}),
    "lstm, both ways": (nn.LSTM, {"num_layers": 2, "bidirectional": True, "batch_first": True}),
    "lstm, projected": (nn.LSTM, {"proj_size": 2, "batch_first": True}),
    "lstm, everything": (nn.LSTM, {"proj_size": 2, "num_layers": 2, "bidirectional": True, "bias": False}),
    "gru": (nn.GRU, {"batch_first": True}),
    "gru, layers, both ways": (nn.GRU, {"num_layers": 2, "bidirectional": True}),
    "gru, no bias": (nn.GRU, {"bias": False}),
    "rnn": (nn.RNN, {"batch_first": True, "num_layers": 2}),
    "rnn, relu": (nn.RNN, {"nonlinearity": "relu", "bidirectional": True, "batch_first": True}),
}


@cache
def layer(case: str) -> nn.Module:
    return Layer(*CASES[case])


def inputs(case: str, states: bool = False, seed: int = 0, samples: int = SAMPLES) -> tuple[Tensor, ...]:
    kind, options = CASES[case]
    x = randn(samples, STEPS, 4, seed=seed) if options.get("batch_first") else randn(STEPS, samples, 4, seed=seed)
    if not states:
        return (x,)
    places = options.get("num_layers", 1) * (2 if options.get("bidirectional") else 1)
    hidden = randn(places, samples, options.get("proj_size") or 5, seed=seed + 1)
    return (x, hidden, randn(places, samples, 5, seed=seed + 2)) if kind is nn.LSTM else (x, hidden)


def state_names(found: Rig) -> list[str]:
    return [name for name, site in found.sites.items() if site.role is Role.STATE]


def written_out(case: str, states: bool = False) -> Rig:
    whole = rig(layer(case), inputs(case, states))
    return rig(layer(case), inputs(case, states), active=state_names(whole))


@pytest.mark.parametrize("states", [False, True], ids=["from zero", "from given states"])
@pytest.mark.parametrize("case", CASES)
def test_written_out_equals_fused(case: str, states: bool) -> None:
    found = written_out(case, states)
    assert not [c for c in calls(found.program) if c.endswith(".input")]
    for ours, theirs in zip(found.run({}), found.replay[1], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("case", CASES)
def test_without_a_choice_it_stays_one_node_and_counts_the_same_work(case: str) -> None:
    kind = CASES[case][0]
    matrices = [f"rnn.{name}" for name, p in layer(case).rnn.named_parameters() if p.ndim == 2]
    fused = rig(layer(case), inputs(case), active=matrices)
    assert len([c for c in calls(fused.program) if c.endswith(".input")]) == 1, kind
    assert written_out(case).program.macs == fused.program.macs > 0


@pytest.mark.parametrize("case", CASES)
def test_states_of_layers_and_directions(case: str) -> None:
    kind, options = CASES[case]
    found = rig(layer(case), inputs(case))
    suffixes = [
        f"l{i}{way}"
        for i in range(options.get("num_layers", 1))
        for way in (("", "_reverse") if options.get("bidirectional") else ("",))
    ]
    expected = {f"rnn:hidden_{s}": (SAMPLES, options.get("proj_size") or 5) for s in suffixes}
    if kind is nn.LSTM:
        expected |= {f"rnn:cell_{s}": (SAMPLES, 5) for s in suffixes}
    assert {name: found.sites[name].shape for name in state_names(found)} == expected
    tied = [names for kind, names in found.discovery.ties if kind == "residual" and "hidden" in names[0]]
    pairs = [(f"rnn:hidden_l{i}", f"rnn:hidden_l{i}_reverse") for i in range(options.get("num_layers", 1))]
    assert tied == (pairs if options.get("bidirectional") else [])


@pytest.mark.parametrize("case", CASES)
def test_every_site_is_live(case: str) -> None:
    found = rig(layer(case), inputs(case, states=True))
    machine = found.machine()
    base = machine.run(found.formats({}))
    dead = [name for name in found.sites if not distance(base, machine.run(found.formats({name: "int1"})))]
    assert not dead


class Oracle:
    """An LSTM layer step by step on float numbers, its states moved to grids where they are made."""

    def __init__(self, rnn: nn.LSTM, hidden: Any, cell: Any) -> None:
        self.rnn, self.hidden, self.cell = rnn, hidden, cell

    @torch.no_grad()
    def __call__(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        rnn, outputs = self.rnn, []
        h, c = self.hidden(h[0]), self.cell(c[0])
        for now in x.unbind(1):
            one = nn.LSTM(4, 5, batch_first=True)
            one.load_state_dict(rnn.state_dict())
            _, (_, fresh) = one(now[:, None], (h[None], c[None]))
            c = self.cell(fresh[0])
            gates = now @ rnn.weight_ih_l0.T + rnn.bias_ih_l0 + h @ rnn.weight_hh_l0.T + rnn.bias_hh_l0
            h = self.hidden(torch.sigmoid(gates[:, 15:]) * torch.tanh(c))
            outputs.append(h)
        return torch.stack(outputs, 1), h[None], c[None]


@pytest.mark.parametrize(
    "texts",
    [
        {"rnn:hidden_l0": "int8"},
        {"rnn:cell_l0": "int16:sym"},
        {"rnn:hidden_l0": "int4", "rnn:cell_l0": "int6"},
    ],
    ids=str,
)
def test_states_are_quantized_where_they_are_made(texts: dict[str, str]) -> None:
    found = rig(layer("lstm"), inputs("lstm", states=True))
    names = [site.name for site in found.program.sites]

    def grid(name: str) -> Any:
        fmt = dict(zip(names, found.formats(texts), strict=True))[name]
        return (lambda x: x) if fmt == FP32 else found.grids.grid(names.index(name), fmt).round_trip

    oracle = Oracle(layer("lstm").rnn, grid("rnn:hidden_l0"), grid("rnn:cell_l0"))
    for ours, theirs in zip(found.run(texts), oracle(*inputs("lstm", states=True)), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_a_state_has_one_grid_for_all_steps_and_batches() -> None:
    """Fitted on the states of every step, the given one too: the range is that of all of them."""
    case, batches = "lstm", [inputs("lstm", states=True, seed=s) for s in (0, 10)]
    found = rig(layer(case), *batches, calibration=batches)
    hidden = []
    for x, h, c in batches:
        outputs, *_ = layer(case).rnn(x, (h, c))
        hidden += [h.flatten(), outputs.detach().flatten()]
    values = torch.cat(hidden)
    index = [site.name for site in found.program.sites].index("rnn:hidden_l0")
    grid = found.grids.grid(index, Format.parse("int8:affine:tensor:max"))
    assert grid.scale.item() == pytest.approx((values.max() - values.min()).item() / 255, rel=1e-5)


def test_fitting_ahead_gives_the_same_grids_as_on_demand() -> None:
    found = written_out("lstm, both ways")
    ahead = SiteGrids(found.program, LARGE)
    fmt = Format.parse("int5")
    wanted = {i: [fmt] for i in range(len(found.program.sites))}
    batches = [inputs("lstm, both ways", seed=s) for s in (3, 4)]
    ahead.calibrate(Interpreter(found.program, ahead, LARGE), Stream("fit", batches), wanted)
    late = SiteGrids(found.program, LARGE)
    late.calibrate(Interpreter(found.program, late, LARGE), Stream("fit", batches), {})
    for i in wanted:
        assert torch.equal(ahead.grid(i, fmt).scale, late.grid(i, fmt).scale)


def test_results_do_not_depend_on_what_was_evaluated_before() -> None:
    found = rig(layer("lstm, both ways"), inputs("lstm, both ways"))
    machine = found.machine("sequential")
    texts = [
        {"rnn:hidden_l0": "int8", "rnn.weight_hh_l0": "int4:gate"},
        {"rnn:cell_l1": "int4"},
        {},
        {"rnn:hidden_l0": "int8", "rnn.weight_hh_l0": "int4:gate", "rnn:cell_l1": "int4"},
    ]
    for text in [*texts, *texts[::-1]]:
        assert same(machine.run(found.formats(text)), found.machine("sequential").run(found.formats(text)))


def test_batches_may_differ_in_size() -> None:
    model = layer("lstm, both ways")
    batches = [inputs("lstm, both ways"), inputs("lstm, both ways", seed=1, samples=2)]
    found = rig(model, *batches)
    outputs, (hidden, cell) = model(*batches[1])
    for ours, theirs in zip(found.run({}, 1), (outputs, hidden, cell), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_states_take_memory_for_the_whole_sequence() -> None:
    """One hidden and one cell state of 3 samples and 5 cells, held at the step of the layer."""
    found = rig(layer("lstm"), inputs("lstm"))
    states = [v for v in found.values if v.site and "_l0" in v.site and ":" in v.site]
    assert [(v.site, v.elements, v.rows) for v in states] == [("rnn:hidden_l0", 15, 3), ("rnn:cell_l0", 15, 3)]
    float_bytes = found.memory.at(Assignment())["activation_sum_bytes"]
    text = {"rnn:hidden_l0": "int8", "rnn:cell_l0": "int16"}
    taken = found.memory.at(Assignment.parse(text))["activation_sum_bytes"]
    assert float_bytes - taken == 15 * (4 - 1) + 15 * (4 - 2)
    fused = rig(layer("lstm"), inputs("lstm"), active=["rnn.weight_hh_l0"])
    assert not [v for v in fused.values if v.site and "hidden" in v.site]


def test_gradients_flow_through_the_states_of_all_steps() -> None:
    found = written_out("lstm")
    _, values = replay(found.program, found.flat[0], leaves(found.program))
    assert {found.program.sites[site].name: len(made) for site, made in values.items()} == {
        "rnn:hidden_l0": STEPS,
        "rnn:cell_l0": STEPS,
    }


@pytest.mark.parametrize(("case", "gates"), [("lstm", 4), ("gru", 3), ("rnn", 1)])
@pytest.mark.parametrize("fmt", ["int4:gate", "int2:gate", "int1:gate", "int8:affine:gate", "fp4:gate", "pow4:gate"])
def test_a_scale_per_gate(case: str, gates: int, fmt: str) -> None:
    """As if each gate were a matrix of its own with one scale."""
    found = rig(layer(case), inputs(case))
    names = [site.name for site in found.program.sites]
    index = names.index("rnn.weight_hh_l0")
    assert found.sites["rnn.weight_hh_l0"].gates == gates
    weight = layer(case).rnn.weight_hh_l0.detach()
    grid = found.grids.grid(index, Format.parse(fmt))
    assert grid.scale.shape == (gates,) if hasattr(grid, "scale") else True
    alone = Format.parse(fmt.replace("gate", "tensor"))
    quantizer = registry.load("quantizers", alone.scheme)()
    assert str(canonical(Format.parse(fmt), found.sites["rnn.weight_hh_l0"])) == fmt
    parts = [quantizer.fit(part, alone, Role.WEIGHT, 0) for part in weight.chunk(gates)]
    expected = torch.cat([g.round_trip(p) for g, p in zip(parts, weight.chunk(gates), strict=True)])
    torch.testing.assert_close(grid.round_trip(weight), expected, rtol=1e-6, atol=1e-7)
    stored = grid.pack(weight)
    assert 8 * sum(t.nbytes for t in stored.values()) == grid.nbits(tuple(weight.shape))
    assert torch.equal(grid.unpack(stored, tuple(weight.shape)), grid.round_trip(weight))


def test_a_projection_has_one_scale() -> None:
    found = rig(layer("lstm, projected"), inputs("lstm, projected"))
    assert {name.rpartition(".")[2]: site.gates for name, site in found.sites.items() if site.role is Role.WEIGHT} == {
        "weight_ih_l0": 4,
        "weight_hh_l0": 4,
        "weight_hr_l0": 1,
    }


@pytest.mark.parametrize("case", ["lstm", "lstm, everything", "gru, layers, both ways"])
def test_operations_read_states_at_every_step(case: str) -> None:
    """The products with the hidden state are as wide as it; both states are read and written once per step."""
    kind, options = CASES[case]
    lowered = lower(layer(case), inputs(case))
    discovery = discover(lowered)
    names = [site.name for site in discovery.sites]
    workload = operations(lowered, discovery, names, SAMPLES)
    fused = operations(lowered, discovery, [n for n in names if ":hidden" not in n and ":cell" not in n], SAMPLES)
    assert [(o.name, o.gemm) for o in workload.operations] == [(o.name, o.gemm) for o in fused.operations]
    assert not [t for t in fused.tensors if t.site and "hidden" in t.site]
    width = options.get("proj_size") or 5
    at = {o.name: o for o in workload.operations}
    for name, operation in at.items():
        tensors = {workload.tensors[a.tensor].site: a.elements for a in operation.reads}
        suffix = name.rpartition("weight_")[2][3:]
        value = workload.operand(operation, operation.value)
        if ":weight_hh" in name:
            assert value is not None
            assert value.site == f"rnn:hidden_{suffix}"
            assert tensors[f"rnn:hidden_{suffix}"] == STEPS * SAMPLES * width
            written = {workload.tensors[a.tensor].site: a.elements for a in operation.writes}
            if kind is nn.LSTM:
                assert tensors[f"rnn:cell_{suffix}"] == written[f"rnn:cell_{suffix}"] == STEPS * SAMPLES * 5
        elif ":weight_ih_l1" in name:
            both = ["rnn:hidden_l0", "rnn:hidden_l0_reverse"] if options.get("bidirectional") else ["rnn:hidden_l0"]
            assert [tensors[n] for n in both] == [STEPS * SAMPLES * width] * len(both)
            assert value is not None
            assert value.site == "rnn:hidden_l0"
    hidden = [a.elements for o in at.values() for a in o.writes if "hidden" in (workload.tensors[a.tensor].site or "")]
    assert hidden == [STEPS * SAMPLES * width] * options.get("num_layers", 1) * (1 + bool(options.get("bidirectional")))


def test_narrower_states_take_fewer_bit_operations() -> None:
    lowered = lower(layer("lstm"), inputs("lstm"))
    discovery = discover(lowered)
    bops = operation_measures(operations(lowered, discovery, [s.name for s in discovery.sites]))["bops"]
    text = {"rnn.weight_hh_l0": "int4", "rnn:hidden_l0": "int8"}
    of_input, of_hidden = STEPS * SAMPLES * 20 * 4, STEPS * SAMPLES * 20 * 5
    assert bops.measure(Assignment.parse(text)) == of_input * 32 * 32 + of_hidden * 4 * 8


@cache
def reader() -> Rig:
    """24 inputs, 32 cells, 32 steps, as torch initializes them."""
    torch.manual_seed(0)
    return rig(nn.LSTM(24, 32, batch_first=True), (randn(8, 32, 24),), calibration=[(randn(16, 32, 24, seed=1),)])


@pytest.mark.parametrize(
    ("weights", "values", "cell", "expected"),
    [
        ("int8:gate", "int8", "int16:sym", 0.013),
        ("int4:gate", "int8", "int16:sym", 0.069),
        ("int2:gate", "int8", "int16:sym", 0.49),
        ("int8:gate", "int4", "int16:sym", 0.23),
        ("int8:gate", "int8", "int8:sym", 0.017),
    ],
)
def test_error_of_an_integer_lstm(weights: str, values: str, cell: str, expected: float) -> None:
    """Root mean square of the error of the hidden states over theirs, within a factor of 2 of a separate simulation.

    Widths as in Li and Alvarez, "On the quantization of recurrent neural networks", 2021 (arXiv 2101.05453).
    """
    found = reader()
    texts = {"weight_ih_l0": weights, "weight_hh_l0": weights, "in": values, "hidden_l0": values, "cell_l0": cell}
    truth, ours = found.run({})[0], found.run({name: texts[name] for name in found.sites if name in texts})[0]
    assert set(texts) >= set(found.sites)
    error = float((ours - truth).square().mean().sqrt() / truth.square().mean().sqrt())
    assert expected / 2 < error < expected * 2


def test_a_gate_is_only_of_a_recurrent_matrix() -> None:
    found = rig(layer("lstm"), inputs("lstm"))
    for name in ("rnn:in", "rnn:cell_l0"):
        with pytest.raises(BadInput, match=f"'{name}' has no gates"):
            canonical(Format.parse("int8:gate"), found.sites[name])
