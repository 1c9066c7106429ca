"""Product quantization: blocks of weights are indices into a codebook of blocks, one codebook per tensor.

Text: `pq BITS[:dN][:c16|:c32][:mse|:gain]`, for parameters only. BITS is the share of an index in one weight: 8-bit
indices over blocks of 4 are `pq2:d4`, over blocks of 9 `pq0.889:d9` (three decimals). Indices have 1 to 12 bits.

* `dN`: N consecutive weights of an output channel are a block. Of what the source calls small blocks, `d9` are those
  of 3 x 3 convolutions (one kernel), `d4` of pointwise and linear layers; large blocks are `d18`, and `d4` or `d8`.
  Where N does not divide a channel, its last block is shorter and compared as far as it goes; a channel shorter than
  N is one block.
* `c16`, `c32`: bits of a number in the codebook.
* `mse`, `gain`: the codebook of least squared error, or that stretched by a factor that also counts what the tensor
  loses of its length, as for integers (`mpsearch.quant.integer`).

Defaults: `d4:c16`, and `gain` for weights from 2 bits on, else `mse`.

A tensor that has no more different blocks than the codebook has room for gets a codebook of exactly those: nothing is
lost but the rounding to `c16`, and `nbits` tells that nothing is gained. (The source takes fewer centroids there.)

Weights of convolutions and linear layers are fitted to their inputs on the calibration batches of the float model: with
G = E[x x^T] [d, d] of what a block is multiplied with, the one matrix for all blocks of a layer, the distance is
(v - c)^T G (v - c), so that the output is what changes least. With R^T R = G, that is k-means on R v, for the means and
for who is nearest. Where inputs are not known (embeddings, recurrent and transposed layers, models that cannot be
exported) blocks are weighed alike. The source learns from inputs of the network as compressed so far, and then trains;
here neither happens. Weights of ResNet-20 on CIFAR-10, all else float, 1,000 images for validation: with `pq1:d8` the
accuracy is 0.42, and 0.28 with blocks weighed alike; with `pq2` 0.863 and 0.868 (log-loss 0.43 and 0.45).

Source: Stock et al., "And the Bit Goes Down: Revisiting the Quantization of Neural Networks" (ICLR 2020, arXiv
1907.05686), its code in facebookresearch/kill-the-bits; the form with R is our own derivation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor

from mpsearch.core.codes import Codes
from mpsearch.core.format import Format
from mpsearch.core.site import Role
from mpsearch.core.width import Width
from mpsearch.quant.grid import Grid, Quantizer, finite
from mpsearch.quant.kmeans import centroids, nearest
from mpsearch.quant.options import Options, refuse, short
from mpsearch.quant.packing import pack_codes, packed_bytes, unpack_codes
from mpsearch.quant.rows import Rows, blocks_of, unblocked
from mpsearch.quant.scale import stretch

_OPTIONS = Options(
    ("d4", "d9", "c16", "c32", "mse", "gain"), block="d[1-9][0-9]*", codebook="c16|c32", range="mse|gain"
)
_BLOCK = 4
_MOST = 12  # bits of an index
_JUDGED = 1 << 14  # blocks that a factor is judged by
_RIDGE = 1e-6  # of the mean second moment, where some direction was never seen


def stored_bits(elements: int, block: int, index_bits: int, centroid_bits: int = 16) -> int:
    """Bits of indices (not filled up to bytes) and of a full codebook, for weights that blocks divide."""
    return elements // block * index_bits + centroid_bits * 2**index_bits * block


@dataclass(frozen=True, eq=False)
class CodebookGrid(Grid):
    """Blocks out of a codebook.

    Args:
        codebook: float32 [centroids, d].
        index_bits: of an index.
        centroid_bits: of a number of the codebook, 16 or 32.
        rows: how blocks run.
        metric: R [d, d] of the distance |R (v - c)|; None for the plain one.
    """

    codebook: Tensor
    index_bits: int
    centroid_bits: int
    rows: Rows
    metric: Tensor | None = None

    @torch.no_grad()
    def round_trip(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        out = torch.empty_like(x) if out is None else out
        rows = self.rows.of(x)
        near = self.codebook[self.indices(rows)].reshape(len(rows), -1)
        return out.copy_(self.rows.back(near[:, : rows.shape[1]], x.shape))

    def on_blocks(self, row: Tensor) -> Tensor:
        """What a row [1, n] of whole blocks becomes."""
        return self.codebook[self.indices(row)].reshape(row.shape)

    def indices(self, rows: Tensor) -> Tensor:
        """Nearest centroids, int64 [rows, blocks]."""
        size = self.codebook.shape[1]
        blocks = blocks_of(rows, size)
        found = self._nearest(blocks.reshape(-1, size), size).reshape(blocks.shape[:2])
        rest = rows.shape[1] % size
        if rest:
            found[:, -1] = self._nearest(blocks[:, -1], rest)
        return found

    def _nearest(self, blocks: Tensor, size: int) -> Tensor:
        """By the first `size` elements."""
        points, centres = blocks[:, :size], self.codebook[:, :size]
        if self.metric is None:
            return nearest(points, centres)
        turn = self.metric[:, :size].T.double()
        return nearest(points.double() @ turn, centres.double() @ turn)

    def arrays(self, shape: tuple[int, ...]) -> tuple[Codes, ...]:
        return (Codes(self._count(shape), self.index_bits),)

    def nbits(self, shape: tuple[int, ...]) -> int:
        return 8 * packed_bytes(self._count(shape), self.index_bits) + self.centroid_bits * self.codebook.numel()

    def _count(self, shape: tuple[int, ...]) -> int:
        rows, n = self.rows.size(shape)
        return rows * -(-n // self.codebook.shape[1])

    def pack(self, x: Tensor) -> dict[str, Tensor]:
        return {"codes": pack_codes(self.indices(self.rows.of(finite(x))), self.index_bits), **self.static()}

    def static(self) -> dict[str, Tensor]:
        """The codebook alone: who is nearest is known by then."""
        codebook = self.codebook.cpu().contiguous()
        return {"codebook": codebook.half() if self.centroid_bits == 16 else codebook}

    @classmethod
    def from_static(cls, static: Mapping[str, Tensor], shape: tuple[int, ...], **plain: Any) -> Self:
        return super().from_static({"codebook": static["codebook"].float()}, shape, **plain)

    def unpack(self, stored: dict[str, Tensor], shape: tuple[int, ...]) -> Tensor:
        codebook, (rows, n) = stored["codebook"].float(), self.rows.size(shape)
        indices = unpack_codes(stored["codes"], self.index_bits, self._count(shape)).long()
        blocks = codebook[indices].reshape(rows, -1, codebook.shape[1])
        return self.rows.back(unblocked(blocks, n), shape).contiguous()


class Product(Quantizer):
    """Indices into a codebook of blocks: `pq2` (8-bit indices over 4), `pq0.889:d9`, `pq2.75`."""

    scheme = "pq"
    menu = ("pq0.889:d9", "pq1:d8", "pq1.5", "pq2")

    def canonical(self, fmt: Format, role: Role) -> Format:
        words, defaults, index_bits = _read(fmt, role)
        bits = round(index_bits / int(words["block"][1:]), 3)
        return short(Format(fmt.scheme, int(bits) if bits == int(bits) else bits), words, defaults)

    def fit(self, sample: Tensor, fmt: Format, role: Role, axis: int) -> CodebookGrid:
        return self._fitted(sample, fmt, role, axis, None)

    def input_block(self, fmt: Format) -> int:
        return next((int(word[1:]) for word in fmt.options if word.startswith("d")), _BLOCK)

    def fit_to_inputs(self, sample: Tensor, fmt: Format, role: Role, axis: int, moments: Tensor) -> CodebookGrid:
        return self._fitted(sample, fmt, role, axis, moments)

    @staticmethod
    def _fitted(sample: Tensor, fmt: Format, role: Role, axis: int, moments: Tensor | None) -> CodebookGrid:
        words, _, index_bits = _read(fmt, role)
        rows = Rows.of_role(role, axis)
        blocks, centroid_bits = rows.of(finite(sample).cpu()), int(words["codebook"][1:])
        size = min(int(words["block"][1:]), blocks.shape[1])
        points = blocks_of(blocks, size).reshape(-1, size)
        metric = None if moments is None else _root(moments, size)
        found = centroids(points if metric is None else points @ metric.T, 2**index_bits)
        if metric is not None:
            found = torch.linalg.solve(metric.double(), found.T.double()).T.float()
        grid = CodebookGrid(as_stored(found, centroid_bits), index_bits, centroid_bits, rows, metric)
        if words["range"] == "gain":
            some = points[:: -(-len(points) // _JUDGED)].reshape(1, -1)
            factor = stretch(some, lambda factor: replace(grid, codebook=grid.codebook * factor).on_blocks(some))
            grid = replace(grid, codebook=as_stored(grid.codebook * factor, centroid_bits))
        return grid.to(sample.device)

    def width(self, fmt: Format) -> Width:
        """The float that is looked up: the codebook's."""
        return Width(32 if "c32" in fmt.options else 16, "fp", code=f"{fmt.scheme}{fmt.bits:g}")


def as_stored(codebook: Tensor, bits: int) -> Tensor:
    """A codebook as it is stored in numbers of `bits` bits, float32."""
    if bits == 16:
        most = torch.finfo(torch.float16).max
        codebook = codebook.clamp(-most, most).half().float()
    return codebook + 0.0


def _root(moments: Tensor, size: int) -> Tensor:
    """R with R^T R the moments, a little added where a direction was never seen."""
    if moments.shape != (size, size):
        raise ValueError(f"moments have the shape {tuple(moments.shape)}, blocks of {size} need ({size}, {size}).")
    moments = moments.detach().cpu().double()
    ridge = _RIDGE * float(moments.diagonal().mean()) or 1.0
    return torch.linalg.cholesky(moments + ridge * torch.eye(size)).T.float()


def _read(fmt: Format, role: Role) -> tuple[dict[str, str], dict[str, str], int]:
    """Options, defaults and bits of an index. Raises `BadInput`."""
    gain = "gain" if role is Role.WEIGHT and fmt.bits >= 2 else "mse"
    defaults = {"block": f"d{_BLOCK}", "codebook": "c16", "range": gain}
    words = _OPTIONS.read(fmt, defaults)
    if not role.is_parameter:
        refuse(fmt, f"codebooks are for parameters, not for a value ({role}). Use int or mx.")
    block = int(words["block"][1:])
    index_bits = round(fmt.bits * block)
    if not 1 <= index_bits <= _MOST:
        usual = f"pq{round(8 / block, 3):g}:d{block}"
        wide = f"{fmt.bits:g} of them in blocks of {block} are indices of {index_bits} bits"
        refuse(fmt, f"bits are per weight; {wide}. Allowed: 1 to {_MOST}; 8-bit indices over such blocks are {usual}.")
    if abs(fmt.bits - index_bits / block) > 0.005:
        below, above = (round((index_bits + k) / block, 3) for k in (0, 1))
        refuse(fmt, f"indices over blocks of {block} have whole bits. Allowed near it: pq{below:g}, pq{above:g}.")
    return words, defaults, index_bits
