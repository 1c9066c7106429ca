"""The bank: each site is fitted once per format, and quantized parameters are kept for the next evaluation."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from torch import Tensor

from mpsearch.core.format import FP32, Format
from mpsearch.core.site import Role, Site
from mpsearch.quant.grid import Grid, Quantizer
from mpsearch.quant.options import counted
from mpsearch.spec import registry

_Key = tuple[str, Format]


class Bank:
    """Grids and quantized tensors by site name and format, made when first asked for.

    Grids are small and stay. Tensors stay while they fit the limit, the least recently used go first; what is
    made again is equal bit for bit.

    Args:
        sample: the float tensor of a site, by its name: the parameter itself, or the value on the calibration
            batch. Called again when a tensor that went is asked for.
        limit_bytes: of all tensors kept; one that is larger by itself is never kept.
        moments: second moments of the inputs of a parameter, by its name and the length of a block
            (`Quantizer.fit_to_inputs`); None where they are not known.
    """

    def __init__(
        self,
        sample: Callable[[str], Tensor],
        limit_bytes: int,
        moments: Callable[[str, int], Tensor | None] = lambda name, block: None,
    ) -> None:
        self._sample, self._moments = sample, moments
        self._limit_bytes = limit_bytes
        self._quantizers: dict[str, Quantizer] = {}
        self._grids: dict[_Key, Grid] = {}
        self._tensors: OrderedDict[_Key, Tensor] = OrderedDict()
        self.held_bytes = 0

    def grid(self, site: Site, fmt: Format) -> Grid:
        """The grid of `site` in `fmt`. Raises `BadInput` on an unknown format, `ValueError` on NaN or infinity."""
        key = site.name, fmt
        if key not in self._grids:
            sample, told, quantizer = self._sample(site.name), counted(fmt, site.gates), self._quantizer(fmt)
            block = self.input_block(site, fmt)
            moments = self._moments(site.name, block) if block else None
            if moments is None:
                self._grids[key] = quantizer.fit(sample, told, site.role, site.axis)
            else:
                self._grids[key] = quantizer.fit_to_inputs(sample, told, site.role, site.axis, moments)
        return self._grids[key]

    def input_block(self, site: Site, fmt: Format) -> int:
        """How long the blocks are whose inputs `grid` asks for; 0 where it asks for none."""
        return self._quantizer(fmt).input_block(fmt) if site.role is Role.WEIGHT and fmt != FP32 else 0

    def get(self, site: Site, fmt: Format) -> tuple[Tensor, Grid]:
        """The sample of `site` moved to its grid, and the grid. The tensor is shared: do not write to it."""
        key, grid = (site.name, fmt), self.grid(site, fmt)
        if key in self._tensors:
            self._tensors.move_to_end(key)
            return self._tensors[key], grid
        tensor = grid.round_trip(self._sample(site.name))
        if tensor.nbytes <= self._limit_bytes:
            self._tensors[key] = tensor
            self.held_bytes += tensor.nbytes
            while self.held_bytes > self._limit_bytes:
                _, gone = self._tensors.popitem(last=False)
                self.held_bytes -= gone.nbytes
        return tensor, grid

    def _quantizer(self, fmt: Format) -> Quantizer:
        if fmt.scheme not in self._quantizers:
            self._quantizers[fmt.scheme] = registry.load("quantizers", fmt.scheme)()
        return self._quantizers[fmt.scheme]
