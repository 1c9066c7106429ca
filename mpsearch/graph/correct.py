"""Bias correction: give a quantized layer back the mean output per channel that the float layer has.

Sequential: the layer's inputs come from a network whose earlier layers are already quantized and corrected, so a
correction depends on every choice upstream and is memoized like any other value of the graph. Per site: the inputs are
float, so a correction depends on the layer's own format alone; cheaper, and much weaker at 2 bits.

Of a layer before a ReLU6, sequential correction restores the means after it: what the next layer reads. Values of few
bits lose peaks, above all those that a depthwise convolution reads. With the mean before the ReLU6 as it was, a channel
that is seldom above zero then passes less on than in float, the next correction puts a constant in the place of
what is missing, and the variance goes down from block to block until all images look alike (the "variance collapse" of
Jordan et al., "REPAIR", 2022, arXiv 2211.08403, in averages of networks).

The idea of correcting the mean is that of Nagel et al., "Data-free quantization through weight equalization and bias
correction" (2019), section 4.2; here the means are measured on calibration data.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from mpsearch.core.format import FP32, Format
from mpsearch.graph.interpret import Interpreter, Stream
from mpsearch.graph.program import Step
from mpsearch.quant.calibrate import stride

Mode = Literal["sequential", "per_site", "none"]
_MOST = 1 << 13
"""Outputs of a channel that are looked at to restore a mean after clipping."""
_HALVINGS = 24


class BiasCorrection:
    """Corrections of an interpreter's layers, learned from the calibration stream.

    Args:
        interpreter: whose layers are corrected; it is given this object as its corrector.
        stream: the calibration batches.
        mode: `sequential` or `per_site`.
    """

    def __init__(self, interpreter: Interpreter, stream: Stream, mode: Literal["sequential", "per_site"]) -> None:
        self.interpreter = interpreter
        self.stream = stream
        self.mode = mode
        self._known: dict[Hashable, Tensor] = {}
        self._float_means = self._measure_float()
        interpreter.corrector = self

    def _measure_float(self) -> dict[int, Tensor]:
        means: dict[int, Tensor] = {}

        def visit(step: Step, value: Any) -> None:
            if step.corrected is not None:
                outputs = [value] if self.stream.single else value
                clipped = self._clipped(step)
                if clipped is None:
                    means[step.index] = _mean(outputs, step.channel_axis)
                else:
                    means[step.index] = _rows(outputs, step.channel_axis).clamp_(*clipped).mean(1)

        interpreter = self.interpreter
        interpreter.assign([FP32] * len(interpreter.program.sites))
        interpreter.pull(self.stream, interpreter.program.corrected, visit)
        return means

    def prepare(self) -> None:
        """Learn what the current assignment needs and is not known yet: one pass over the calibration data."""
        interpreter = self.interpreter
        if self.mode == "per_site":
            current = interpreter.formats
            for index in interpreter.program.corrected:
                self._prepare_alone(index, current)
            interpreter.assign(current)
            return
        unknown = [i for i in interpreter.program.corrected if self._key(i) not in self._known and self._own(i) != FP32]
        if unknown:
            interpreter.pull(self.stream, unknown)

    def _prepare_alone(self, index: int, formats: Sequence[Format]) -> None:
        """The correction of one layer, everything else in float."""
        site = self._weight_site(index)
        if formats[site] == FP32 or self._key(index, formats[site]) in self._known:
            return
        alone = [FP32] * len(formats)
        alone[site] = formats[site]
        self.interpreter.assign(alone)
        self.interpreter.pull(self.stream, [index])

    def correction(self, step: Step, fmt: Format, version: int) -> Tensor | None:
        return None if fmt == FP32 else self._known[self._key(step.index, fmt, version)]

    def learn(self, step: Step, fmt: Format, version: int, outputs: Sequence[Tensor]) -> Tensor | None:
        if fmt == FP32:
            return None
        key = self._key(step.index, fmt, version)
        known = self._known.get(key)
        if known is None:
            wanted, clipped = self._float_means[step.index], self._clipped(step)
            if clipped is None:
                known = wanted - _mean(outputs, step.channel_axis)
            else:
                known = _shift(_rows(outputs, step.channel_axis), wanted, *clipped)
            self._known[key] = known
        return known

    def _clipped(self, step: Step) -> tuple[float, float] | None:
        """The range after which the mean is restored; with float inputs nothing is lost that it could bring back."""
        return step.clipped if self.mode == "sequential" else None

    def forget(self) -> None:
        """Drop all corrections; they are learned again when needed."""
        self._known.clear()

    def __len__(self) -> int:
        return len(self._known)

    def _key(self, index: int, fmt: Format | None = None, version: int | None = None) -> Hashable:
        if self.mode == "per_site":
            return (index, self._own(index) if fmt is None else fmt)
        return self.interpreter.version(index) if version is None else version

    def _own(self, index: int) -> Format:
        return self.interpreter.formats[self._weight_site(index)]

    def _weight_site(self, index: int) -> int:
        site = self.interpreter.program.steps[index].corrected
        assert site is not None
        return site


def _mean(outputs: Sequence[Tensor], axis: int) -> Tensor:
    """Mean per channel [channels] over all samples and positions of all batches."""
    sums = [output.sum([i for i in range(output.ndim) if i != axis], dtype=torch.float64) for output in outputs]
    count = sum(output.numel() // output.shape[axis] for output in outputs)
    return (torch.stack(sums).sum(0) / count).to(outputs[0].dtype)


def _rows(outputs: Sequence[Tensor], axis: int) -> Tensor:
    """Outputs of all batches, a row per channel [channels, n]; of many an even part, the same for every assignment."""
    parts = []
    for output in outputs:
        rows = output.movedim(axis, 0).flatten(1)
        parts.append(rows[:, :: stride(rows.shape[1], max(1, _MOST // len(outputs)))])
    return torch.cat(parts, 1)


def _shift(rows: Tensor, wanted: Tensor, low: float, high: float) -> Tensor:
    """What to add to each of `rows` [channels, n] for its mean after clipping to be `wanted` [channels].

    By bisection, for the mean does not fall as the shift grows. Of shifts that do equally well, as where a channel
    never leaves zero, the smallest.
    """
    down = rows.clamp(low, high).mean(1) > wanted
    smallest, largest = rows.aminmax(dim=1)
    near, far = torch.zeros_like(wanted), torch.where(down, low - largest, high - smallest)
    for _ in range(_HALVINGS):
        middle = (near + far) / 2
        mean = (rows + middle[:, None]).clamp_(low, high).mean(1)
        enough = torch.where(down, mean <= wanted, mean >= wanted)
        near, far = torch.where(enough, near, middle), torch.where(enough, middle, far)
    return torch.where(near == 0, near, far)
