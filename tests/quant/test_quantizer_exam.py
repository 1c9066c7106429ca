"""Every registered quantizer sits the shipped exam."""

import math
from math import prod

import pytest
import torch
from torch import Tensor

from mpsearch.core.format import Format
from mpsearch.core.site import Role
from mpsearch.quant.bases import BasesGrid
from mpsearch.quant.block import BlockGrid
from mpsearch.quant.esb import Esb
from mpsearch.quant.floating import BrainFloat, Float
from mpsearch.quant.grid import Grid, Quantizer
from mpsearch.quant.integer import Integer
from mpsearch.quant.microscaling import Microscaling
from mpsearch.quant.multibit import Multibit
from mpsearch.quant.nvfp import Nvfp
from mpsearch.quant.planes import Planes
from mpsearch.quant.power import PowerOfTwo
from mpsearch.quant.product import CodebookGrid, Product
from mpsearch.quant.pruned import Pruned, PrunedGrid
from mpsearch.quant.rowrange import RowRange
from mpsearch.quant.rowscale import RowScale
from mpsearch.quant.sparse import Sparse
from mpsearch.quant.subtensor import Subtensor
from mpsearch.spec import registry
from mpsearch.testing.quantizers import SHAPES, QuantizerExam, fit, sample

BOTH = [Role.WEIGHT, Role.ACTIVATION]


NARROW = "int1 int1:affine int1:sym int2 int2:affine int2:sym:tensor int3 int3:mse int3:gain int4:affine:channel"
WIDE = "int4:tensor:p99.9 int5:max int6:tensor:entropy int7:channel int8 int8:affine:tensor:max"


@pytest.mark.parametrize("quantizer", [Integer()])
@pytest.mark.parametrize("text", [*NARROW.split(), *WIDE.split()])
@pytest.mark.parametrize("role", BOTH)
class TestInteger(QuantizerExam):
    pass


@pytest.mark.parametrize("quantizer", [Integer()])
@pytest.mark.parametrize(
    "text", ["int1:g4", "int2:g16", "int2:g16:mse", "int3:affine:g7", "int4:g32:max", "int4:affine:g1"]
)
@pytest.mark.parametrize("role", [Role.EMBEDDING])
class TestIntegerGroups(QuantizerExam):
    pass


@pytest.mark.parametrize("quantizer", [Integer()])
@pytest.mark.parametrize("text", ["int16", "int16:affine:channel:max"])
@pytest.mark.parametrize("role", BOTH)
class TestIntegerSixteen(QuantizerExam):
    pass


@pytest.mark.parametrize("quantizer", [Integer()])
@pytest.mark.parametrize("text", ["int2:stochastic", "int4:affine:channel:stochastic", "int8:tensor:max:stochastic"])
@pytest.mark.parametrize("role", BOTH)
class TestIntegerStochastic(QuantizerExam):
    pass


@pytest.mark.parametrize("quantizer", [Integer()])
@pytest.mark.parametrize("text", ["int1:rows", "int4:rows"])
@pytest.mark.parametrize("role", [Role.FEATURE])
class TestIntegerOverRows(QuantizerExam):
    pass


@pytest.mark.parametrize(("quantizer", "text"), [(Float(), "fp16"), (BrainFloat(), "bf16")])
@pytest.mark.parametrize("role", BOTH)
class TestFloats(QuantizerExam):
    pass


@pytest.mark.parametrize("quantizer", [Float()])
@pytest.mark.parametrize("text", ["fp4", "fp4:channel", "fp6:max", "fp6:e3m2", "fp8:tensor", "fp8:e5m2:gain"])
@pytest.mark.parametrize("role", BOTH)
class TestSmallFloats(QuantizerExam):
    pass


@pytest.mark.parametrize(("quantizer", "text", "role"), [(Float(), "fp4:g32", Role.WEIGHT)])
class TestSmallFloatGroups(QuantizerExam):
    pass


class _BlockExam(QuantizerExam):
    """Scales of blocks; those of values are made with them, so that they are code bits."""

    def code_bits(self, quantizer: Quantizer, text: str, role: Role, grid: Grid, x: Tensor) -> float:
        assert isinstance(grid, BlockGrid)
        rows, n = (1, x.numel()) if x.dim() < 2 else (len(x), x[0].numel())
        if not role.is_parameter and x.dim() > 1:
            rows, n = n, rows
        blocks = rows * math.ceil(n / grid.block)
        return super().code_bits(quantizer, text, role, grid, x) + (0 if role.is_parameter else 8 * blocks)

    def parts(self, grid: Grid, shape: tuple[int, ...]) -> int:
        return prod(shape)  # at most


@pytest.mark.parametrize("quantizer", [Microscaling()])
@pytest.mark.parametrize("text", ["mx4", "mx4:max", "mx4:up", "mx6", "mx6:e3m2", "mx8", "mx8:e5m2", "mx8:int"])
@pytest.mark.parametrize("role", BOTH)
class TestMicroscaling(_BlockExam):
    constant_error = 0.25


@pytest.mark.parametrize("quantizer", [Nvfp()])
@pytest.mark.parametrize("text", ["nvfp4", "nvfp4:max"])
@pytest.mark.parametrize("role", BOTH)
class TestNvfp(_BlockExam):
    pass


@pytest.mark.parametrize("quantizer", [Esb()])
@pytest.mark.parametrize("text", ["esb2", "esb3:k0", "esb4:align", "esb4:k2:tensor", "esb5:k1", "esb6:max", "esb8:k6"])
@pytest.mark.parametrize("role", BOTH)
class TestEsb(QuantizerExam):
    pass


@pytest.mark.parametrize("quantizer", [PowerOfTwo()])
@pytest.mark.parametrize("text", ["pow2", "pow3:channel:max", "pow3", "pow4:tensor", "pow4:mse"])
@pytest.mark.parametrize("role", BOTH)
class TestPowersOfTwo(QuantizerExam):
    pass


@pytest.mark.parametrize("quantizer", [Esb()])
@pytest.mark.parametrize("text", ["esb4:g32", "esb3:g8:align"])
@pytest.mark.parametrize("role", [Role.EMBEDDING])
class TestEsbGroups(QuantizerExam):
    pass


class _MultibitExam(QuantizerExam):
    def code_bits(self, quantizer: Quantizer, text: str, role: Role, grid: Grid, x: Tensor) -> float:
        """Averages are met from below, and never by chance: each group has as many digits as it has bases."""
        assert isinstance(grid, BasesGrid)
        most = super().code_bits(quantizer, text, role, grid, x)
        digits = int((grid.counts * grid.groups.sizes()).sum())
        assert digits == most or (grid.most is not None and digits < most)
        return digits

    def parts(self, grid: Grid, shape: tuple[int, ...]) -> int:
        assert isinstance(grid, BasesGrid)
        return 8 * len(grid.counts)  # up to 2 bases above the average, rounded up


@pytest.mark.parametrize("quantizer", [Multibit()])
@pytest.mark.parametrize(
    "text",
    ["multibit1", "multibit2", "multibit3:kernel", "multibit2:pixel:a16", "multibit4:g16", "multibit2:adaptive:g8",
     "multibit1.5:g16"],
)  # fmt: skip
@pytest.mark.parametrize("role", [Role.WEIGHT, Role.EMBEDDING])
class TestMultibit(_MultibitExam):
    pass


@pytest.mark.parametrize(("quantizer", "text", "role"), [(Multibit(), "multibit0.6:g4:adaptive:a16", Role.WEIGHT)])
class TestMultibitBelowOne(_MultibitExam):
    constant_error = 1.0  # some groups are dropped


@pytest.mark.parametrize("quantizer", [Product()])
@pytest.mark.parametrize("text", ["pq2", "pq4:d1", "pq0.444:d9", "pq0.25:d4:c32", "pq0.5:d6"])
@pytest.mark.parametrize("role", [Role.WEIGHT, Role.EMBEDDING])
class TestProduct(QuantizerExam):
    def code_bits(self, quantizer: Quantizer, text: str, role: Role, grid: Grid, x: Tensor) -> float:
        """An index per block; the last block of a row may be shorter, and no block is longer than a row."""
        fmt = quantizer.canonical(Format.parse(text), role)
        block = next((int(word[1:]) for word in fmt.options if word.startswith("d")), 4)
        rows, n = (1, x.numel()) if x.dim() < 2 else (len(x), x[0].numel())
        return round(fmt.bits * block) * rows * math.ceil(n / min(block, n))

    def parts(self, grid: Grid, shape: tuple[int, ...]) -> int:
        assert isinstance(grid, CodebookGrid)
        return grid.codebook.numel()


@pytest.mark.parametrize("quantizer", [Planes()])
@pytest.mark.parametrize(
    "text", ["planes1", "planes1:sym:tensor", "planes2", "planes3:affine:channel:max", "planes4:sym:mse", "planes8"]
)
@pytest.mark.parametrize("role", BOTH)
class TestPlanes(QuantizerExam):
    pass


@pytest.mark.parametrize("quantizer", [Planes()])
@pytest.mark.parametrize("text", ["planes2:g16", "planes3:affine:g7"])
@pytest.mark.parametrize("role", [Role.EMBEDDING])
class TestPlanesGroups(QuantizerExam):
    pass


@pytest.mark.parametrize("quantizer", [Subtensor()])
@pytest.mark.parametrize("text", ["sub2", "sub3:n2:affine", "sub4:n1", "sub8:n3:blocks:affine:max", "sub5:n100:mse"])
@pytest.mark.parametrize("role", [Role.WEIGHT, Role.EMBEDDING])
class TestSubtensor(QuantizerExam):
    pass


@pytest.mark.parametrize(
    ("quantizer", "text", "role"), [(RowScale(), "rowscale1", role) for role in (Role.FEATURE, Role.ACTIVATION)]
)
class TestRowScale(QuantizerExam):
    def code_bits(self, quantizer: Quantizer, text: str, role: Role, grid: Grid, x: Tensor) -> float:
        """The exam's channel axis is the first one; values of rows are made with them."""
        return x.numel() + 32 * (1 if x.dim() < 2 else x[0].numel())

    def parts(self, grid: Grid, shape: tuple[int, ...]) -> int:
        return prod(shape)


@pytest.mark.parametrize("quantizer", [RowRange()])
@pytest.mark.parametrize("text", ["rowrange1", "rowrange4", "rowrange16"])
@pytest.mark.parametrize("role", [Role.FEATURE])
class TestRowRange(QuantizerExam):
    @pytest.mark.parametrize("shape", SHAPES)
    def test_is_idempotent_and_leaves_its_input(
        self, quantizer: Quantizer, text: str, role: Role, shape: tuple[int, ...]
    ) -> None:
        """But for rounding: the range is found again each time."""
        x = sample(*shape)
        grid, before = fit(quantizer, text, role, x), x.clone()
        once = grid.round_trip(x)
        assert torch.equal(x, before)
        torch.testing.assert_close(grid.round_trip(once), once)
        assert torch.equal(grid.round_trip_(x), once)
        assert torch.equal(x, once)

    def code_bits(self, quantizer: Quantizer, text: str, role: Role, grid: Grid, x: Tensor) -> float:
        """The exam's channel axis is the first one; two floats of each row are made with it."""
        codes = super().code_bits(quantizer, text, role, grid, x)
        return codes + 64 * (1 if x.dim() < 2 else x[0].numel())

    def parts(self, grid: Grid, shape: tuple[int, ...]) -> int:
        return prod(shape)


@pytest.mark.parametrize("quantizer", [Sparse()])
@pytest.mark.parametrize("text", ["sparse1", "sparse3:max", "sparse8", "sparse16", "sparse32"])
@pytest.mark.parametrize("role", [*BOTH, Role.FEATURE])
class TestSparse(QuantizerExam):
    def code_bits(self, quantizer: Quantizer, text: str, role: Role, grid: Grid, x: Tensor) -> float:
        """Pointers, indices, codes of what is not zero once it is quantized."""
        rows, n = (1, x.numel()) if x.dim() < 2 else (len(x), x[0].numel())
        if not role.is_parameter and x.dim() > 1:
            rows, n = n, rows
        entries = int(grid.round_trip(x).count_nonzero())
        return 32 * (rows + 1) + entries * (max(1, math.ceil(math.log2(n))) + Format.parse(text).bits)


@pytest.mark.parametrize("quantizer", [Pruned()])
@pytest.mark.parametrize("text", ["pruned1", "pruned1:s97", "pruned2:s25", "pruned4", "pruned4:2of4", "pruned8:1of16"])
@pytest.mark.parametrize("role", [Role.WEIGHT, Role.EMBEDDING])
class TestPruned(QuantizerExam):
    constant_error = 1.0  # some of it is zero

    def code_bits(self, quantizer: Quantizer, text: str, role: Role, grid: Grid, x: Tensor) -> float:
        """Codes of what is kept, and the least of what says where: a bit each, indices and pointers, or places."""
        assert isinstance(grid, PrunedGrid)
        bits, kept, of = Format.parse(text).bits, int(grid.kept.sum()), grid.pattern.of
        rows, n = (1, x.numel()) if x.dim() < 2 else (len(x), x[0].numel())
        forms = [kept * bits + x.numel(), kept * (bits + max(1, math.ceil(math.log2(n)))) + 32 * (rows + 1)]
        forms += [kept * (bits + math.ceil(math.log2(of)))] if of else []
        return min(forms + ([x.numel() * bits] if bits > 1 else []))

    def parts(self, grid: Grid, shape: tuple[int, ...]) -> int:
        return super().parts(grid, shape) + 1  # zero is a level of its own


def test_all_that_are_registered_are_examined() -> None:
    examined = {
        Integer,
        Float,
        BrainFloat,
        Microscaling,
        Nvfp,
        Esb,
        PowerOfTwo,
        Multibit,
        Product,
        Planes,
        Subtensor,
        RowRange,
        RowScale,
        Sparse,
        Pruned,
    }
    assert {registry.load("quantizers", name) for name in registry.names("quantizers")} == examined
    assert {q.scheme for q in examined} == set(registry.names("quantizers"))
