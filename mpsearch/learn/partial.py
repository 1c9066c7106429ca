"""Stochastic quantization: in each step some rows of a matrix stay as they are, those that quantization changes most.

Dong et al., "Learning accurate low-bit deep neural networks with stochastic quantization" (arXiv 1708.01001). Rows that
stay are drawn as in their code (github.com/dongyp13/Stochastic-Quantization): int((1 - r) m) of m rows, one after the
other, the chance of each in proportion to its relative error |w - q| / |w|. They train a whole schedule at each ratio
r; here the epochs of one schedule are divided among the ratios. They quantize to one and two bits; here a parameter in
any format, which is trained as `lsq` trains it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from mpsearch.core.errors import BadInput
from mpsearch.learn.lsq import Lsq

_DUST = 1e-9  # (1 - 0.9) 10 is below 1


class Sq(Lsq):
    """Stochastic quantization: growing portions of rows are quantized, with gradients as in `lsq`.

    Which rows is drawn from torch's generator, anew in each step.

    Args:
        ratios: portion of quantized rows in each stage; the stages share the epochs, the last epoch has the last.
    """

    scores_as = "lsq"

    def __init__(self, ratios: Sequence[float] = (0.5, 0.75, 0.875, 1.0)) -> None:
        super().__init__()
        numbers = isinstance(ratios, Sequence) and all(isinstance(r, int | float) and 0 <= r <= 1 for r in ratios)
        if not numbers or not ratios:
            raise BadInput(f"ratios: {ratios!r} is not a list of numbers from 0 to 1; for example [0.5, 0.75, 1].")
        self._ratios = tuple(ratios)
        self._ratio = self._ratios[0]

    def advance(self, epoch: int, epochs: int) -> None:
        self._ratio = self._ratios[((epoch + 1) * len(self._ratios) - 1) // epochs]

    def __call__(self, site: int, value: Tensor) -> Tensor:
        quantized = super().__call__(site, value)
        if not self.training or self._ratio == 1 or site not in self._formats or site not in self._weights:
            return quantized
        axis = self._sites[site].axis
        kept = kept_rows(_errors(value.detach(), quantized.detach(), axis), self._ratio)
        return torch.where(
            kept.view([-1 if i == axis % value.dim() else 1 for i in range(value.dim())]), value, quantized
        )


def kept_rows(errors: Tensor, ratio: float) -> Tensor:
    """Which of m rows stay as they are: bool [m], int((1 - ratio) m) of them true.

    Args:
        errors: [m], each row's chance of the next draw, in proportion; rows without error only where no other is left.
    """
    wait = torch.empty(
        len(errors), dtype=torch.float64
    ).exponential_()  # the least of several is as probable as its rate
    rate = errors.double().cpu()
    never = torch.finfo(torch.float64).max
    first = torch.where(rate > 0, wait / rate, never * (1 - torch.exp(-wait) / 2)).argsort()
    kept = torch.zeros(len(errors), dtype=torch.bool)
    kept[first[: math.floor((1 - ratio) * len(errors) + _DUST)]] = True
    return kept.to(errors.device)


def _errors(value: Tensor, quantized: Tensor, axis: int) -> Tensor:
    """Of each row along `axis`, the sum of its changes over that of its magnitudes; 0 for a row of zeros."""
    changes, magnitudes = (
        x.movedim(axis, 0).reshape(x.shape[axis], -1).abs().sum(1) for x in (quantized - value, value)
    )
    return torch.where(magnitudes > 0, changes / magnitudes, 0.0)
