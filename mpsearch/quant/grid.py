"""The two interfaces of quantization: a quantizer fits a grid once, the grid is applied a thousand times."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor

from mpsearch.core.format import Format
from mpsearch.core.site import Role


class Grid(ABC):
    """The values one tensor may take, and how they are stored."""

    @abstractmethod
    def round_trip(self, x: Tensor) -> Tensor:
        """`x` moved to the nearest values of the grid. Same shape, dtype and memory format; `x` is not changed."""

    @abstractmethod
    def nbits(self, shape: tuple[int, ...]) -> int:
        """Bits that a tensor of `shape` takes when packed: codes padded to bytes, scales, zero points, codebooks."""

    @abstractmethod
    def pack(self, x: Tensor) -> dict[str, Tensor]:
        """Stored tensors by name. Their bytes times 8 equal `nbits(x.shape)`."""

    @abstractmethod
    def unpack(self, stored: dict[str, Tensor], shape: tuple[int, ...]) -> Tensor:
        """Inverse of `pack`: equals `round_trip(x)` bit for bit."""

    def nbytes(self, shape: tuple[int, ...]) -> int:
        """Bytes that a tensor of `shape` takes when packed."""
        return self.nbits(shape) // 8



class Quantizer(ABC):
    """One scheme of formats. Stateless: the same sample and format give the same grid."""

    scheme: ClassVar[str]

    @abstractmethod
    def canonical(self, fmt: Format, role: Role) -> Format:
        """`fmt` with the options that are defaults of `role` left out. Raises `BadInput` if it does not exist."""

    @abstractmethod
    def fit(self, sample: Tensor, fmt: Format, role: Role, axis: int) -> Grid:
        """The grid for `sample`: the parameter itself, or a value on the calibration batch.

        Args:
            sample: float tensor of any shape, finite. Raises `ValueError` on NaN or infinity.
            fmt: a canonical format of this scheme.
            role: decides the defaults.
            axis: channel axis of `sample`, along which per-channel scales run.
        """
