"""Grids of a program's sites: parameters from the model, values from one float pass over the calibration data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from mpsearch.core.errors import BadInput, ObjectiveFailed
from mpsearch.core.format import FP32, Format
from mpsearch.cost.memory import Packed
from mpsearch.graph.inputs import second_moments
from mpsearch.graph.interpret import Interpreter, Stream
from mpsearch.graph.joined import joined
from mpsearch.graph.program import Kind, Program, Step
from mpsearch.quant.bank import Bank
from mpsearch.quant.grid import Grid


class SiteGrids:
    """What the interpreter and the memory model ask about a site in a format.

    Args:
        program: whose sites they are.
        limit_bytes: how much quantized parameters may hold.
    """

    def __init__(self, program: Program, limit_bytes: int) -> None:
        self._program = program
        self._index = {site.name: i for i, site in enumerate(program.sites)}
        self._bank = Bank(self._sample, limit_bytes, self._moments)
        self._inputs: dict[tuple[str, int], Tensor | None] = {}
        self._packed: dict[tuple[str, Format], Packed] = {}
        self._sources: dict[int, list[int]] = {}  # a state has one per step of its recurrence
        self._after_relu: set[int] = set()
        for step in program.steps:
            if step.kind is Kind.VALUE and step.site is not None:
                self._sources.setdefault(step.site, []).append(step.sample)
                self._after_relu |= {step.site} if step.after_relu else set()
        self._current: tuple[int, Tensor] | None = None
        self._calibration: tuple[Interpreter, Stream] | None = None

    def grid(self, site: int, fmt: Format) -> Grid:
        """The grid of a site, fitted on first use."""
        return self._bank.grid(self._program.sites[site], fmt)

    def parameter(self, site: int, fmt: Format) -> Tensor:
        """The parameter of a site on its grid. The tensor is shared: do not write to it."""
        noun = self._program.sites[site]
        return self._program.tensors[noun.name] if fmt == FP32 else self._bank.get(noun, fmt)[0]

    def packed(self, name: str, fmt: Format) -> Packed:
        """What site `name` takes in `fmt`, as its grid says."""
        known = self._packed.get((name, fmt))
        if known is None:
            index = self._index[name]
            known = packed_size(self.grid(index, fmt), self._program.sites[index].shape)
            self._packed[name, fmt] = known
        return known

    def calibrate(self, interpreter: Interpreter, stream: Stream, wanted: Mapping[int, Iterable[Format]]) -> None:
        """Fit every wanted grid, those of values in one float pass over the calibration batches.

        Args:
            stream: the calibration batches.
            wanted: formats by site index. Others can still be asked for later, at the price of one more pass each.
        """
        program = self._program
        self._calibration = (interpreter, stream)
        sites_of: dict[int, list[int]] = {}
        for site, sources in self._sources.items():
            for source in sources:
                sites_of.setdefault(source, []).append(site)
        seen: dict[int, dict[int, Any]] = {}

        def fit(site: int, values: list[Any] | None = None) -> None:
            self._current = None if values is None else (site, self._joined(site, values))
            if self._current is not None and not self._current[1].numel() and wanted.get(site):
                raise BadInput(
                    f"site {program.sites[site].name!r}: calibration has no numbers for it, as a graph without edges "
                    "has no messages. Give calibration batches with edges, or leave the site out of its rule."
                )
            for fmt in wanted.get(site, ()):
                if fmt != FP32:
                    try:
                        self.grid(site, fmt)
                    except ValueError as error:
                        raise ObjectiveFailed(f"site {program.sites[site].name!r} in {fmt}: {error}") from error
            self._current = None

        def take(source: int, value: Any) -> None:
            for site in sites_of.get(source, ()):
                sources, parts = self._sources[site], seen.setdefault(site, {})
                parts[source] = value if len(sources) == 1 else pytree.tree_map(Tensor.clone, value)
                if len(parts) == len(sources):
                    fit(site, [parts[i] for i in sources])
                    del seen[site]

        def visit(step: Step, value: Any) -> None:
            take(step.index, value)

        self._learn_inputs(
            {i: {self._bank.input_block(program.sites[i], fmt) for fmt in formats} for i, formats in wanted.items()}
        )
        interpreter.assign([FP32] * len(program.sites))
        constants = interpreter.constants(stream)
        for site in range(len(program.sites)):
            if site not in self._sources:
                fit(site)
        for source in sites_of:
            if not program.steps[source].upstream:
                take(source, constants[source])
        if sites_of:
            interpreter.pull(stream, list(sites_of), visit)

    def calibrate_more(self, wanted: Mapping[int, Iterable[Format]]) -> None:
        """Fit further grids in one more pass over the same batches, where each by itself would take one."""
        assert self._calibration is not None
        self.calibrate(*self._calibration, wanted)

    def _moments(self, name: str, block: int) -> Tensor | None:
        if (name, block) not in self._inputs and self._calibration is not None:
            self._learn_inputs({self._index[name]: {block}})
        return self._inputs.get((name, block))

    def _learn_inputs(self, wanted: Mapping[int, Iterable[int]]) -> None:
        """Second moments of the inputs of parameters, by site and length of blocks: those that are not known yet."""
        names = {site: self._program.sites[site].name for site in wanted}
        unknown = {i: {n for n in found if n and (names[i], n) not in self._inputs} for i, found in wanted.items()}
        unknown = {site: found for site, found in unknown.items() if found}
        if unknown:
            assert self._calibration is not None
            self._inputs |= {(names[site], block): None for site, found in unknown.items() for block in found}
            self._inputs |= second_moments(*self._calibration, unknown)

    def _sample(self, name: str) -> Tensor:
        """Float tensor of a site: the parameter, or the value on the calibration batches."""
        site = self._index[name]
        if site not in self._sources:
            return self._program.tensors[name]
        if self._current is not None and self._current[0] == site:
            return self._current[1]
        assert self._calibration is not None
        interpreter, stream = self._calibration
        before, sources = interpreter.formats, self._sources[site]
        interpreter.assign([FP32] * len(before))
        values = interpreter.pull(stream, sources)
        interpreter.assign(before)
        return self._joined(site, [values[source] for source in sources])

    def _joined(self, site: int, values: list[Any]) -> Tensor:
        """What a site quantizes, given the values before it: after the ReLU it took over; batches and steps along
        axis 0."""
        sample = joined(pytree.tree_leaves(values), self._program.sites[site].axis)
        return torch.relu(sample) if site in self._after_relu else sample


def packed_size(grid: Grid, shape: tuple[int, ...]) -> Packed:
    """What a tensor of `shape` takes on `grid`."""
    bits, arrays = grid.nbits(shape), grid.arrays(shape)
    return Packed(bits, grid.code_bits(shape), bits - sum(codes.padded_bits for codes in arrays), arrays)
