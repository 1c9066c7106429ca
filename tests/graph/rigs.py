"""A model made ready to run in a test: exported, folded, discovered, compiled and calibrated, without a spec."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from mpsearch.core.format import FP32, Format
from mpsearch.core.site import Site
from mpsearch.cost.memory import Parameter, Value, memory_measures
from mpsearch.cost.model import CostModel
from mpsearch.graph.bins import split
from mpsearch.graph.correct import BiasCorrection
from mpsearch.graph.export import Example, Lowered, export
from mpsearch.graph.fold import fold_batch_norm
from mpsearch.graph.grids import SiteGrids
from mpsearch.graph.interpret import Interpreter, Stream
from mpsearch.graph.measure import measure
from mpsearch.graph.program import Kind, Program, compile_program
from mpsearch.graph.runner import layout
from mpsearch.graph.sites import Discovery, discover
from mpsearch.graph.workload import parameters, values
from mpsearch.spec.schema import BinsSpec

CPU = torch.device("cpu")
LARGE = 1 << 30


@dataclass
class Rig:
    """A compiled model.

    Args:
        lowered: its graph, sites inserted.
        discovery: every site; `program.sites` are the active ones.
        parameters, values: what it stores and holds, bias correction counted.
        memory: the measures of both.
        flat: inputs per batch.
        replay: flat outputs of the graph on the first batch before sites were inserted, and the model's own.
    """

    model: nn.Module
    lowered: Lowered
    discovery: Discovery
    program: Program
    grids: SiteGrids
    parameters: tuple[Parameter, ...]
    values: tuple[Value, ...]
    memory: CostModel
    flat: list[list[Any]]
    calibration: list[list[Any]]
    replay: tuple[list[Tensor], list[Tensor]]

    @property
    def sites(self) -> dict[str, Site]:
        return {site.name: site for site in self.discovery.sites}

    def formats(self, texts: Mapping[str, str]) -> list[Format]:
        """One format per active site."""
        assert set(texts) <= {site.name for site in self.program.sites}
        return [Format.parse(texts[s.name]) if s.name in texts else FP32 for s in self.program.sites]

    def streams(self) -> list[Stream]:
        return [Stream(("validation", i), [batch]) for i, batch in enumerate(self.flat)]

    def calibration_stream(self) -> Stream:
        return Stream("calibration", self.calibration, calibrates=True)

    def machine(self, mode: Literal["sequential", "per_site", "none"] = "none", cache_bytes: int = LARGE) -> Machine:
        """A fresh interpreter with nothing in its cache."""
        interpreter = Interpreter(self.program, self.grids, cache_bytes)
        correction = None if mode == "none" else BiasCorrection(interpreter, self.calibration_stream(), mode)
        return Machine(self, interpreter, correction, self.streams())

    def run(self, texts: Mapping[str, str], batch: int = 0) -> list[Any]:
        """Flat outputs at an assignment, computed cold, biases not corrected."""
        return self.machine().run(self.formats(texts), batch)


@dataclass
class Machine:
    """An interpreter with its streams."""

    rig: Rig
    interpreter: Interpreter
    correction: BiasCorrection | None
    streams: list[Stream]

    def run(self, formats: Sequence[Format], batch: int = 0) -> list[Any]:
        self.interpreter.trim()
        self.interpreter.assign(formats)
        if self.correction is not None:
            self.correction.prepare()
        return list(self.interpreter.run(self.streams[batch]))


def lower(model: nn.Module, *batches: tuple[Any, ...], **kwargs: Any) -> Lowered:
    """The graph of `model`, folded and measured on the first batch. Batches are positional inputs."""
    lowered = export(model, [Example(batch, kwargs) for batch in batches])
    fold_batch_norm(lowered)
    measure(lowered, Example(batches[0], kwargs).leaves())
    return lowered


def rig(
    model: nn.Module | Callable[[], nn.Module],
    *batches: tuple[Any, ...],
    active: Iterable[str] | None = None,
    calibration: Sequence[tuple[Any, ...]] | None = None,
    corrects: bool = False,
    bins: Mapping[str, BinsSpec] | None = None,
) -> Rig:
    """Compile `model` for `batches` of positional inputs.

    Args:
        model: or what makes it, called once however often the rig is built: the export, which takes longest, is shared.
        active: names of the sites that have a choice; None for all.
        calibration: batches, the first of `batches` if None.
        corrects: whether the memory model counts biases that correction adds.
        bins: by site, what it is split into.
    """
    calibration = batches[:1] if calibration is None else calibration
    model = model if isinstance(model, nn.Module) else _made(model)
    lowered = _exported(model, (*batches, *calibration))
    flat, held = ([[layout(x, CPU) for x in pytree.tree_leaves(b)] for b in found] for found in (batches, calibration))
    replayed = list(measure(lowered, flat[0]))
    with torch.no_grad():
        own = pytree.tree_leaves(model(*batches[0]))
    discovery = split(lowered, discover(lowered), bins or {}, flat[0], held)
    names = [site.name for site in discovery.sites] if active is None else list(active)
    stored, made = parameters(lowered, discovery, names, corrects), values(lowered, discovery, names)
    program = compile_program(lowered, discovery, names)
    program.tensors = {name: layout(tensor, CPU) for name, tensor in program.tensors.items()}
    grids = SiteGrids(program, LARGE)
    grids.calibrate(Interpreter(program, grids, LARGE), Stream("fit", held), {})
    memory = CostModel(memory_measures(stored, made, grids.packed))
    return Rig(model, lowered, discovery, program, grids, stored, made, memory, flat, held, (replayed, own))


@cache
def _made(build: Callable[[], nn.Module]) -> nn.Module:
    return build()


_EXPORTS: dict[Any, tuple[nn.Module, Lowered]] = {}


def _exported(model: nn.Module, batches: Sequence[tuple[Any, ...]]) -> Lowered:
    """A copy of the model's folded graph: compiling uses one up."""
    shapes = [(tuple(x.shape), x.dtype) if isinstance(x, Tensor) else x for x in pytree.tree_leaves(batches)]
    key = (id(model), tuple(shapes))
    if key not in _EXPORTS:
        lowered = export(model, [Example(batch) for batch in batches])
        fold_batch_norm(lowered)
        _EXPORTS[key] = model, lowered  # the model is held, so that its id stays its own
    lowered = _EXPORTS[key][1]
    graph = fx.Graph()
    graph.output(graph.graph_copy(lowered.graph, {}))
    return replace(lowered, graph=graph, tensors=dict(lowered.tensors), parameters=set(lowered.parameters))


def calls(program: Program) -> list[str]:
    """Names of the operators of a program, in order."""
    return [str(getattr(s.call, "__name__", s.call)) for s in program.steps if s.kind is Kind.CALL]


def same(one: Sequence[Any], other: Sequence[Any]) -> bool:
    """Whether two lists of outputs are equal bit for bit (NaN equal to itself)."""

    def equal(a: Any, b: Any) -> bool:
        if not isinstance(a, Tensor):
            return bool(a == b)
        return a.shape == b.shape and a.dtype == b.dtype and bool(torch.equal(a.nan_to_num(7e7), b.nan_to_num(7e7)))

    return len(one) == len(other) and all(equal(a, b) for a, b in zip(one, other, strict=True))


def distance(one: Sequence[Any], other: Sequence[Any]) -> float:
    """Largest absolute difference of the float outputs."""
    pairs = [(a, b) for a, b in zip(one, other, strict=True) if isinstance(a, Tensor) and a.is_floating_point()]
    return max((float((a - b).abs().max()) for a, b in pairs if a.numel()), default=0.0)
