"""The exam that every quantizer sits. A new one is examined by one class:

@pytest.mark.parametrize("quantizer", [Mine()])
@pytest.mark.parametrize("text", ["mine2", "mine4:channel"])
@pytest.mark.parametrize("role", [Role.WEIGHT, Role.ACTIVATION])
class TestMine(QuantizerExam):
    pass
"""

from __future__ import annotations

import json
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from mpsearch.core.errors import BadInput
from mpsearch.core.format import Format
from mpsearch.core.site import Role
from mpsearch.cost.layout import stored_bits
from mpsearch.cost.workload import Held
from mpsearch.graph.grids import packed_size
from mpsearch.quant.grid import Grid, Quantizer
from mpsearch.quant.plain import described, rebuilt
from mpsearch.spec.card import Layout

SHAPES = ((1,), (7,), (6, 4, 3, 3), (5, 130))
CONSTANTS = (1.0, -0.3, 2.0**-20, 6e4, -1e-30)
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
WIDEST = 32
LAYOUTS = [
    Layout.model_validate({"weight_pack": p, "tile": (4, 8)}) for p in ("bit", "row", "word", "container", "tile")
]


def fit(quantizer: Quantizer, text: str, role: Role, x: Tensor, axis: int = 0) -> Grid:
    """The grid for `x` in the format that `text` names."""
    return quantizer.fit(x, quantizer.canonical(Format.parse(text), role), role, axis)


def sample(*shape: int) -> Tensor:
    """Normal numbers with a few far ones, the same at each call."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))
    return torch.where(x > 1.5, 3 * x, x)


def squared_error(grid: Grid, x: Tensor) -> float:
    """Mean squared error of `x` on `grid`."""
    return float((grid.round_trip(x) - x).square().mean())


class QuantizerExam:
    """Every test takes `quantizer`, `text` (a format) and `role`. What follows says where a scheme is special.

    Args:
        constant_error: how far from a constant, relative to it, the grid may be that is fitted on it. Power-of-two
            scales cannot meet every constant.
    """

    constant_error: ClassVar[float] = 2.0**-6

    def code_bits(self, quantizer: Quantizer, text: str, role: Role, grid: Grid, x: Tensor) -> float:
        """What `grid.code_bits` must be for `x`: its elements times the bits of the text."""
        del quantizer, role, grid
        return Format.parse(text).bits * x.numel()

    def parts(self, grid: Grid, shape: tuple[int, ...]) -> int:
        """How many parts of a tensor have levels of their own: as many as there are scales."""
        return max(1, (grid.nbits(shape) - grid.code_bits(shape)) // 32)

    def test_is_idempotent_and_leaves_its_input(self, quantizer: Quantizer, text: str, role: Role) -> None:
        for shape in SHAPES:
            x = sample(*shape)
            grid, before = fit(quantizer, text, role, x), x.clone()
            once = grid.round_trip(x)
            assert torch.equal(x, before), shape
            assert torch.equal(grid.round_trip(once), once), shape
            assert torch.equal(grid.round_trip_(x), once), shape
            assert torch.equal(x, once), f"{shape}: round_trip_ works in place"
            assert torch.isfinite(once).all(), shape

    def test_has_at_most_two_to_the_bits_levels(self, quantizer: Quantizer, text: str, role: Role) -> None:
        x = sample(1, 4096)
        grid = fit(quantizer, text, role, x)
        levels = len(set(grid.round_trip(x).flatten().tolist()))
        assert levels <= self.parts(grid, x.shape) * 2 ** Format.parse(text).bits

    def test_error_does_not_grow_with_bits(self, quantizer: Quantizer, text: str, role: Role) -> None:
        x, fmt = sample(8, 512), Format.parse(text)
        wider = next(filter(None, (_exists(quantizer, fmt, role, b) for b in range(int(fmt.bits) + 1, WIDEST))), None)
        if wider is None:
            pytest.skip(f"{text} is the widest of its kind")
        narrow, wide = (squared_error(fit(quantizer, t, role, x), x) for t in (text, str(wider)))
        assert wide <= 1.05 * narrow

    def test_zeros_stay_zero(self, quantizer: Quantizer, text: str, role: Role) -> None:
        for shape in SHAPES:
            x = torch.zeros(shape)
            grid = fit(quantizer, text, role, x)
            assert torch.equal(grid.round_trip(x), x), shape
            assert torch.isfinite(grid.round_trip(sample(*shape))).all(), shape

    def test_a_constant_is_met(self, quantizer: Quantizer, text: str, role: Role) -> None:
        for value in CONSTANTS:
            x = torch.full((3, 5), value)
            met = fit(quantizer, text, role, x).round_trip(x)
            assert torch.isfinite(met).all(), value
            assert (met - x).abs().max() <= abs(value) * self.constant_error + 2.0**-24, value

    def test_refuses_what_is_not_finite(self, quantizer: Quantizer, text: str, role: Role) -> None:
        x = sample(4, 6)
        grid = fit(quantizer, text, role, x)
        for bad in (float("nan"), float("inf"), -float("inf")):
            x[1, 2] = bad
            with pytest.raises(ValueError, match="NaN or infinity"):
                fit(quantizer, text, role, x)
            with pytest.raises(ValueError, match="NaN or infinity"):
                grid.pack(x)
        with pytest.raises(ValueError, match="without elements"):
            fit(quantizer, text, role, torch.zeros(3, 0))

    def test_keeps_shape_dtype_and_memory_format(self, quantizer: Quantizer, text: str, role: Role) -> None:
        for dtype in DTYPES:
            plain = sample(6, 4, 3, 3).to(dtype)
            grid = fit(quantizer, text, role, plain)
            expected = grid.round_trip(plain)
            last = plain.contiguous(memory_format=torch.channels_last)
            for x in (plain, last, plain.transpose(1, 2).contiguous().transpose(1, 2)):
                y = grid.round_trip(x)
                assert (y.shape, y.dtype, y.stride()) == (x.shape, x.dtype, x.stride())
                assert torch.equal(y, expected), (dtype, x.stride())
            strided = torch.zeros(6, 4, 3, 6, dtype=dtype)[..., ::2].copy_(plain)
            assert torch.equal(grid.round_trip(strided), expected), dtype
            assert torch.equal(grid.round_trip_(strided), expected), dtype

    def test_gives_no_gradient(self, quantizer: Quantizer, text: str, role: Role) -> None:
        x = torch.nn.Parameter(sample(3, 5))
        assert not fit(quantizer, text, role, x).round_trip(x).requires_grad

    def test_packs_exactly(self, quantizer: Quantizer, text: str, role: Role) -> None:
        for shape in SHAPES:
            x = sample(*shape)
            grid = fit(quantizer, text, role, x)
            stored = grid.pack(x)
            got, expected = grid.unpack(stored, shape), grid.round_trip(x)
            assert got.dtype == torch.float32
            assert torch.equal(got, expected), shape
            assert torch.equal(got.signbit(), expected.signbit()), f"{shape}: bit for bit, -0.0 is not 0.0"
            assert 8 * sum(t.nbytes for t in stored.values()) == grid.nbits(shape) == 8 * grid.nbytes(shape), shape
            assert grid.code_bits(shape) == self.code_bits(quantizer, text, role, grid, x), shape
            packed, static = packed_size(grid, shape), grid.static()
            assert 8 * sum(t.nbytes for t in static.values()) == packed.static_bits, shape
            fmt = quantizer.canonical(Format.parse(text), role)
            again = rebuilt(json.loads(json.dumps(described(grid))), fmt, static, shape)
            assert torch.equal(again.unpack(stored, shape), expected), f"{shape}: from what is stored alone"
            if not role.is_parameter:
                other = 1.7 * x.flip(0)
                assert torch.equal(again.round_trip(other), grid.round_trip(other)), f"{shape}: values to come"
            for layout in LAYOUTS:
                held = Held("x", x.numel(), shape[0], site="x", is_parameter=role.is_parameter)
                laid = stored_bits(layout, held, packed)
                assert laid == packed.bits if layout.weight_pack == "bit" else laid >= packed.bits, shape

    def test_fits_the_same_grid_twice(self, quantizer: Quantizer, text: str, role: Role) -> None:
        x = sample(6, 4, 3, 3)
        first, second = (fit(quantizer, text, role, x) for _ in range(2))
        assert torch.equal(first.round_trip(x), second.round_trip(x))
        assert torch.equal(first.to("cpu").round_trip(x), second.round_trip(x))

    def test_canonical_text_is_short_and_stable(self, quantizer: Quantizer, text: str, role: Role) -> None:
        short = quantizer.canonical(Format.parse(text), role)
        assert quantizer.canonical(short, role) == short
        assert Format.parse(str(short)) == short
        assert len(str(short)) <= len(text)
        x = sample(4, 9)
        assert torch.equal(quantizer.fit(x, short, role, 0).round_trip(x), fit(quantizer, text, role, x).round_trip(x))

    def test_refuses_unknown_options(self, quantizer: Quantizer, text: str, role: Role) -> None:
        with pytest.raises(BadInput, match="Allowed"):
            quantizer.canonical(Format.parse(f"{text}:nonsense"), role)


def _exists(quantizer: Quantizer, fmt: Format, role: Role, bits: int) -> Format | None:
    try:
        return quantizer.canonical(Format(fmt.scheme, bits, fmt.options), role)
    except BadInput:
        return None
