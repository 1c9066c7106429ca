"""The two interfaces of quantization: a quantizer fits a grid once, the grid is applied a thousand times."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any, ClassVar, Self, cast

import torch
from torch import Tensor

from mpsearch.core.codes import Codes
from mpsearch.core.format import Format
from mpsearch.core.site import Role
from mpsearch.core.width import Width


class Grid(ABC):
    """The values one tensor may take, and how they are stored. A frozen dataclass; its tensors are fields."""

    @abstractmethod
    def round_trip(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """`x` moved to the nearest values of the grid. Same shape, dtype and memory format; carries no
        gradient.

        `x` is not changed, unless it is given as `out`, the tensor the result is written to.
        """

    @abstractmethod
    def arrays(self, shape: tuple[int, ...]) -> tuple[Codes, ...]:
        """What a tensor of `shape` is stored as: its codes, as many as it has elements unless they are shared or left
        out; then scales, indices or pointers, if they are worked out from each tensor that comes.

        The rest of `nbits` is `static`: what a quantized value stores once, with the model.
        """

    @abstractmethod
    def nbits(self, shape: tuple[int, ...]) -> int:
        """Bits that a tensor of `shape` takes when packed: codes padded to bytes, scales, zero points, codebooks."""

    @abstractmethod
    def pack(self, x: Tensor) -> dict[str, Tensor]:
        """Stored tensors by name, on the CPU. Their bytes times 8 equal `nbits(x.shape)`.

        Raises `ValueError` on NaN or infinity.
        """

    @abstractmethod
    def unpack(self, stored: dict[str, Tensor], shape: tuple[int, ...]) -> Tensor:
        """Inverse of `pack`: contiguous float32 on the CPU, equal bit for bit to `round_trip` of the float32 `x`."""

    def static(self) -> dict[str, Tensor]:
        """What is stored whatever tensor comes, by the names it has in `pack`, on the CPU: scales, codebooks."""
        named = ((field.name, getattr(self, field.name)) for field in fields(cast(Any, self)))
        return {name: value.cpu().contiguous() for name, value in named if isinstance(value, Tensor)}

    @classmethod
    def from_static(cls, static: Mapping[str, Tensor], shape: tuple[int, ...], **plain: Any) -> Self:
        """The grid again, for tensors of `shape`: what comes out of it, and of what it packed, is the same.

        Args:
            static: what `static` gave.
            plain: fields that hold no tensor.
        """
        del shape
        return cls(**plain, **{f.name: static[f.name] for f in fields(cast(Any, cls)) if f.name in static})

    def round_trip_(self, x: Tensor) -> Tensor:
        """`round_trip` in place, for callers that own `x` and have no other use for it. Returns `x`."""
        return self.round_trip(x, out=x)

    @property
    def absorbs_relu(self) -> bool:
        """Whether `round_trip(relu(x))` is `round_trip(x)` for every x: the lowest value is zero, for all alike."""
        return False

    def code_bits(self, shape: tuple[int, ...]) -> int:
        """Bits of all `arrays`, without padding."""
        return sum(codes.total_bits for codes in self.arrays(shape))

    def nbytes(self, shape: tuple[int, ...]) -> int:
        """Bytes that a tensor of `shape` takes when packed."""
        return self.nbits(shape) // 8

    def to(self, device: torch.device | str) -> Self:
        """The same grid with its tensors on `device`."""
        grid = cast(Any, self)  # a dataclass, which the type checker cannot know of every subclass
        tensors = ((f.name, getattr(grid, f.name)) for f in fields(grid))
        moved = {name: value.to(device) for name, value in tensors if isinstance(value, Tensor)}
        return cast(Self, replace(grid, **moved))


class Quantizer(ABC):
    """One scheme of formats. Stateless: the same sample and format give the same grid."""

    scheme: ClassVar[str]
    menu: ClassVar[tuple[str, ...]] = ()
    """Formats, as texts, that a space offers by the scheme's name alone; a role is offered those that exist for it."""

    @abstractmethod
    def canonical(self, fmt: Format, role: Role) -> Format:
        """`fmt` with the options that are defaults of `role` left out. Raises `BadInput` if it does not exist."""

    @abstractmethod
    def fit(self, sample: Tensor, fmt: Format, role: Role, axis: int) -> Grid:
        """The grid for `sample`: the parameter itself, or a value on the calibration batch.

        Args:
            sample: float tensor of any shape, finite. Raises `ValueError` on NaN, infinity or no elements.
            fmt: a canonical format of this scheme.
            role: decides the defaults.
            axis: channel axis of `sample`, along which per-channel scales run.
        """

    def input_block(self, fmt: Format) -> int:
        """How many consecutive weights of a channel `fit_to_inputs` takes together; 0 where it would change nothing."""
        del fmt
        return 0

    def fit_to_inputs(self, sample: Tensor, fmt: Format, role: Role, axis: int, moments: Tensor) -> Grid:
        """`fit`, to change what a layer puts out least, and not the weight itself.

        Args:
            moments: second moments [d, d], E[x x^T], of the inputs x that blocks of d = `input_block` weights are
                multiplied with; of as many as a channel has, where it is shorter.
        """
        del moments
        return self.fit(sample, fmt, role, axis)

    @abstractmethod
    def width(self, fmt: Format) -> Width:
        """What a multiplier sees of a number in `fmt`, a canonical format of this scheme. Costs are made of it."""


def finite(sample: Tensor) -> Tensor:
    """`sample`, detached. Raises `ValueError` where it has NaN, infinity or no elements."""
    if sample.numel() == 0:
        raise ValueError(f"cannot quantize a tensor without elements, got shape {tuple(sample.shape)}.")
    low, high = (float(end) for end in torch.aminmax(sample.detach()))
    if not (abs(low) < float("inf") and abs(high) < float("inf")):
        raise ValueError(f"cannot quantize NaN or infinity, got values from {low} to {high}.")
    return sample.detach()
