"""Running a model at an assignment: the exported graph, or module hooks where a model cannot be exported."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from mpsearch.core.assignment import Assignment
from mpsearch.core.format import Format
from mpsearch.graph.correct import BiasCorrection
from mpsearch.graph.frozen import Frozen, freeze
from mpsearch.graph.interpret import Interpreter, Stream
from mpsearch.graph.program import Ref

_OVERHEAD = 0.1
"""Share of an evaluation that is no multiplication: walking the graph, the metric, writing the result down."""


class Runner(ABC):
    """Runs a model at any assignment on batches it holds."""

    @property
    @abstractmethod
    def forwards(self) -> float:
        """Work done so far, in float forwards of the validation split."""

    def work(self, choices: Sequence[Sequence[str]]) -> list[float]:
        """Share of a forward that is computed where the first p of `choices` (names of sites) are as before, by p."""
        return [1.0] * (len(choices) + 1)

    @abstractmethod
    def run(self, assignment: Assignment, split: str, batch: int) -> Any:
        """The model's own output for one batch of a split, on the CPU."""

    def order(self, split: str, n: int) -> Sequence[int]:
        """In which order to go through the `n` batches of a split next."""
        del split
        return range(n)

    def forget(self) -> None:  # noqa: B027 - nothing to do where nothing is cached
        """Drop what is cached."""


class GraphRunner(Runner):
    """Runs the exported graph with the memoizing interpreter.

    Args:
        interpreter: for the program of the model.
        correction: of biases, or None.
        streams: one per batch, by split.
        rows: leading size of every batch, by split, where the export fixed it and batches are padded; else None.
    """

    def __init__(
        self,
        interpreter: Interpreter,
        correction: BiasCorrection | None,
        streams: Mapping[str, Sequence[Stream]],
        rows: Mapping[str, Sequence[int]] | None,
    ) -> None:
        self.interpreter = interpreter
        self.streams = streams
        self._correction = correction
        self._rows = rows
        self._backwards = False
        share = sum(stream.share for stream in streams["validation"])
        self._macs_of_forward = max(1.0, interpreter.program.macs * share)

    @property
    def forwards(self) -> float:
        return self.interpreter.macs_done / self._macs_of_forward

    def work(self, choices: Sequence[Sequence[str]]) -> list[float]:
        program = self.interpreter.program
        number = {site: i for i, sites in enumerate(choices) for site in sites}
        of_site = [number[site.name] for site in program.sites]
        macs = np.zeros(len(choices) + 1)  # by the last choice that a step depends on, plus 1; 0 for none
        for step in program.steps:
            macs[max((c + 1 for i, c in enumerate(of_site) if step.upstream >> i & 1), default=0)] += step.macs
        return [
            _OVERHEAD + (1 - _OVERHEAD) * float(macs[p + 1 :].sum() / max(1.0, macs.sum())) for p in range(len(macs))
        ]

    def order(self, split: str, n: int) -> Sequence[int]:
        """Back and forth, so that what the cache still holds of the last batch is used first."""
        del split
        self._backwards = not self._backwards
        return range(n) if self._backwards else range(n - 1, -1, -1)

    def run(self, assignment: Assignment, split: str, batch: int) -> Any:
        interpreter = self.interpreter
        interpreter.trim()
        interpreter.assign(self.formats(assignment))
        if self._correction is not None:
            self._correction.prepare()
        return self.output(interpreter.run(self.streams[split][batch]), split, batch)

    def corrected_biases(self, assignment: Assignment) -> dict[str, Tensor]:
        """Biases of layers at `assignment` with their correction added, by name; a layer without a bias has none."""
        program, found = self.interpreter.program, {}
        for index, added in self.corrections(assignment).items():
            arguments = program.steps[index].arguments
            bias = arguments[2] if len(arguments) > 2 else None
            if isinstance(bias, Ref):
                name = program.steps[bias.step].name
                found[name] = program.tensors[name] + added
        return found

    @property
    def corrects(self) -> bool:
        """Whether biases are corrected."""
        return self._correction is not None

    def corrections(self, assignment: Assignment) -> dict[int, Tensor]:
        """What is added to the bias of layers at `assignment`, [channels] by index of the step."""
        interpreter, found = self.interpreter, {}
        if self._correction is not None:
            interpreter.assign(self.formats(assignment))
            self._correction.prepare()
            for index in interpreter.program.corrected:
                step = interpreter.program.steps[index]
                assert step.corrected is not None
                fmt = interpreter.formats[step.corrected]
                added = self._correction.correction(step, fmt, interpreter.version(index))
                if added is not None:
                    found[index] = added
        return found

    def formats(self, assignment: Assignment) -> list[Format]:
        """Of the sites of the program, in their order."""
        return [assignment.at(site.name) for site in self.interpreter.program.sites]

    def frozen(self, assignment: Assignment) -> Frozen:
        """What runs at `assignment`, as plain data. Raises `BadInput` where it cannot be written down."""
        grids, corrections = self.interpreter.grids, self.corrections(assignment)
        return freeze(self.interpreter.program, self.formats(assignment), grids.grid, {}, corrections)

    def output(self, flat: Sequence[Any], split: str, batch: int) -> Any:
        """The model's own output, on the CPU, of the flat outputs of the program on one batch: padded rows cut off."""
        cut = [self.cut(on_cpu(value), split, batch) for value in flat]
        return pytree.tree_unflatten(cut, self.interpreter.program.out_spec)

    def cut(self, value: Any, split: str, batch: int) -> Any:
        """A value of the program without the rows that a batch was padded with."""
        if self._rows is None or not isinstance(value, Tensor) or not value.ndim:
            return value
        return value[: self._rows[split][batch]] if len(value) == self.interpreter.program.padded else value

    def forget(self) -> None:
        self.interpreter.forget()


def on_cpu(leaf: Any) -> Any:
    """A tensor on the CPU; anything else as it is."""
    return leaf.cpu() if isinstance(leaf, Tensor) else leaf


def pad(flat: Sequence[Any], batched: Sequence[int], rows: int) -> list[Any]:
    """Flat inputs with the last row of those at `batched` repeated until there are `rows`."""

    def longer(leaf: Tensor) -> Tensor:
        return torch.cat([leaf, leaf[-1:].expand(rows - len(leaf), *leaf.shape[1:])])

    return [longer(leaf) if i in batched and len(leaf) < rows else leaf for i, leaf in enumerate(flat)]


def layout(leaf: Any, device: torch.device) -> Any:
    """A tensor on `device`; images with their channels last, which small convolutions run faster on."""
    if not isinstance(leaf, Tensor):
        return leaf
    leaf = leaf.to(device)
    if leaf.ndim == 4 and leaf.is_floating_point():
        return leaf.contiguous(memory_format=torch.channels_last)
    return leaf
