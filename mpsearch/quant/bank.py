"""The bank: each site is fitted once per format, and quantized parameters are kept for the next evaluation."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from torch import Tensor

from mpsearch.core.format import Format
from mpsearch.core.site import Site
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
    """

    def __init__(self, sample: Callable[[str], Tensor], limit_bytes: int) -> None:
        self._sample = sample
        self._limit_bytes = limit_bytes
        self._quantizers: dict[str, Quantizer] = {}
        self._grids: dict[_Key, Grid] = {}
        self._tensors: OrderedDict[_Key, Tensor] = OrderedDict()
        self.held_bytes = 0

    def grid(self, site: Site, fmt: Format) -> Grid:
        """The grid of `site` in `fmt`. Raises `BadInput` on an unknown format, `ValueError` on NaN or infinity."""
        key = site.name, fmt
        if key not in self._grids:
            told = counted(fmt, site.gates)
            self._grids[key] = self._quantizer(fmt).fit(self._sample(site.name), told, site.role, site.axis)
        return self._grids[key]

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
