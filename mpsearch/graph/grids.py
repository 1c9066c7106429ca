"""Grids of a program's sites: parameters from the model, values from one float pass over the calibration data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from mpsearch.core.errors import ObjectiveFailed
from mpsearch.core.format import FP32, Format
from mpsearch.cost.memory import Packed
from mpsearch.graph.interpret import Interpreter, Stream
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
        self._bank = Bank(self._sample, limit_bytes)
        self._packed: dict[tuple[str, Format], Packed] = {}
        made = [s for s in program.steps if s.kind is Kind.VALUE and s.site is not None]
        self._source = {s.site: s.sample for s in made}
        self._after_relu = {s.site for s in made if s.after_relu}
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
        for site, source in self._source.items():
            sites_of.setdefault(source, []).append(site)

        def fit(site: int, value: Any = None) -> None:
            self._current = None if value is None else (site, self._joined(site, value))
            for fmt in wanted.get(site, ()):
                if fmt != FP32:
                    try:
                        self.grid(site, fmt)
                    except ValueError as error:
                        raise ObjectiveFailed(f"site {program.sites[site].name!r} in {fmt}: {error}") from error
            self._current = None

        def visit(step: Step, value: Any) -> None:
            for site in sites_of.get(step.index, ()):
                fit(site, value)

        interpreter.assign([FP32] * len(program.sites))
        constants = interpreter.constants(stream)
        for site in range(len(program.sites)):
            if site not in self._source:
                fit(site)
            elif not program.steps[self._source[site]].upstream:
                fit(site, constants[self._source[site]])
        if sites_of:
            interpreter.pull(stream, list(sites_of), visit)

    def calibrate_more(self, wanted: Mapping[int, Iterable[Format]]) -> None:
        """Fit further grids in one more pass over the same batches, where each by itself would take one."""
        assert self._calibration is not None
        self.calibrate(*self._calibration, wanted)

    def _sample(self, name: str) -> Tensor:
        """Float tensor of a site: the parameter, or the value on the calibration batches."""
        site = self._index[name]
        if site not in self._source:
            return self._program.tensors[name]
        if self._current is not None and self._current[0] == site:
            return self._current[1]
        assert self._calibration is not None
        interpreter, stream = self._calibration
        before, source = interpreter.formats, self._source[site]
        interpreter.assign([FP32] * len(before))
        value = interpreter.pull(stream, [source])[source]
        interpreter.assign(before)
        return self._joined(site, value)

    def _joined(self, site: int, value: Any) -> Tensor:
        """What a site quantizes, given the value before it: after the ReLU it took over, batches along axis 0."""
        joined = torch.cat(list(value)) if isinstance(value, list) else value
        return torch.relu(joined) if site in self._after_relu else joined


def packed_size(grid: Grid, shape: tuple[int, ...]) -> Packed:
    """What a tensor of `shape` takes on `grid`."""
    bits, codes = grid.nbits(shape), grid.code_bits(shape)
    return Packed(bits, codes, bits - (codes + 7) // 8 * 8)
