"""The exam that every accelerator sits, one card at a time. A card of yours is examined by one class:

@pytest.mark.parametrize("accelerator", [load_accelerator(Path("mine.yaml"))])
class TestMine(AcceleratorExam):
    pass
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cache
from itertools import pairwise, product

import numpy as np
import pytest

from mpsearch.core.assignment import Assignment
from mpsearch.core.format import Format
from mpsearch.core.space import Choice, Space
from mpsearch.core.width import Width
from mpsearch.cost.accelerators.base import Accelerator, Run
from mpsearch.cost.accelerators.precision import holds
from mpsearch.cost.device import energy, latency, run
from mpsearch.cost.memory import Packed, PackedAt
from mpsearch.cost.width import width
from mpsearch.cost.workload import Access, Gemm, Held, Kind, Operation, Workload

INTEGERS = (*(Format("int", bits) for bits in range(1, 9)), Format("int", 16))
FORMATS = (*INTEGERS, Format("fp", 16), Format("bf", 16), Format("fp", 32))
_CODES = "fp8 mx4 nvfp4 esb4 pow4 planes2 multibit1.5 pq2 sparse8 pruned4 pruned2:2of4"
CODES = tuple(map(Format.parse, _CODES.split()))
"""What few devices have kernels for."""
SAMPLES = 4


@cache
def zoo() -> Workload:
    """One operation of every kind and shape that models have, in a chain; each tensor has a site."""
    made = _Zoo()
    made.product("stem", Kind.CONV, Gemm(m=4 * 64, n=16, k=27, window=9), values=4 * 3 * 64, is_first=True)
    made.product("conv", Kind.CONV, Gemm(m=4 * 64, n=32, k=144, window=9), values=4 * 16 * 64)
    made.product("grouped", Kind.CONV, Gemm(m=4 * 16, n=8, k=72, count=4, window=9, stride=4), values=4 * 32 * 64)
    made.product("depthwise", Kind.CONV, Gemm(m=4 * 16, n=1, k=9, count=32, window=9), values=4 * 32 * 16)
    made.product("pointwise", Kind.CONV, Gemm(m=4 * 16, n=64, k=32), values=4 * 32 * 16)
    made.product("transposed", Kind.CONV_TRANSPOSED, Gemm(m=4 * 16, n=4 * 8, k=64), values=4 * 64 * 16)
    made.product("linear", Kind.LINEAR, Gemm(m=4, n=100, k=512), values=4 * 512)
    made.product("one_sample", Kind.LINEAR, Gemm(m=1, n=1000, k=100), values=100)
    made.product("scores", Kind.MATMUL, Gemm(m=12, n=12, k=16, count=8), values=8 * 12 * 16, is_parameter=False)
    made.product("lstm", Kind.RECURRENT, Gemm(m=40, n=4 * 32, k=48), values=40 * 16)
    made.other("edges", Kind.SCALE, reads=640, writes=640, macs=640, weights=40)
    made.other("propagate", Kind.SPMM, reads=640, writes=160, macs=640, weights=40)
    made.other("embedding", Kind.EMBEDDING, reads=128, writes=128)
    for kind in (Kind.GATHER, Kind.SCATTER, Kind.ELEMENTWISE, Kind.POOL, Kind.NORM, Kind.SOFTMAX, Kind.COPY):
        made.other(str(kind), kind, reads=1024, writes=256)
    return Workload(tuple(made.tensors), tuple(made.operations), SAMPLES)


class _Zoo:
    """Each operation reads the result of the one before, as if reshaped to what it needs."""

    def __init__(self) -> None:
        self.tensors = [Held("input", 4 * 3 * 64, 4, site="input")]
        self.operations: list[Operation] = []

    def product(self, name: str, kind: Kind, gemm: Gemm, values: int, **more: bool) -> None:
        results = gemm.count * gemm.m * gemm.n
        self.other(name, kind, values, results, results * gemm.k, gemm.count * gemm.n * gemm.k, gemm, **more)

    def other(
        self,
        name: str,
        kind: Kind,
        reads: int,
        writes: int,
        macs: int = 0,
        weights: int = 0,
        gemm: Gemm | None = None,
        is_first: bool = False,
        is_parameter: bool = True,
    ) -> None:
        touched = [Access(len(self.tensors) - 1, reads)]
        if weights:
            rows = gemm.count * gemm.n if gemm else 1
            touched.insert(0, Access(len(self.tensors), weights))
            self.tensors.append(Held(f"{name}.weight", weights, rows, site=f"{name}.weight", is_parameter=is_parameter))
        write = Access(len(self.tensors), writes)
        self.tensors.append(Held(name, writes, site=name))
        weight, value = (0, 1) if weights else (None, None)
        made = Operation(name, kind, tuple(touched), write, macs, weight, value, gemm, is_first)
        self.operations.append(made)


def packed_in(workload: Workload) -> PackedAt:
    """What the tensors of `workload` take: codes, and a scale of 32 bits for those that are integers."""
    elements = {held.site: held.elements for held in workload.tensors}

    def packed(site: str, fmt: Format) -> Packed:
        codes, scale = math.ceil(elements[site] * fmt.bits), 32 if fmt.scheme == "int" else 0
        return Packed(codes + scale, codes, scale)

    return packed


class AcceleratorExam:
    """Every test takes `accelerator`. A card that knows one model only overrides `workload`."""

    def workload(self) -> Workload:
        """What it is examined on."""
        return zoo()

    def runs(self, accelerator: Accelerator) -> Iterator[Run]:
        """Every operation with weights and values in every pair of formats, results as the values."""
        workload = self.workload()
        packed = packed_in(workload)
        for operation, weight, value in product(workload.operations, FORMATS, FORMATS):
            held = workload.operand(operation, operation.weight)
            at = dict.fromkeys(workload.sites(operation), value)
            if held is not None and held.site is not None:
                at[held.site] = weight
            elif weight != value:
                continue
            yield run(accelerator, workload, operation, packed, at)

    def test_the_card_says_where_its_numbers_are_from(self, accelerator: Accelerator) -> None:
        card = accelerator.card
        assert isinstance(card, accelerator.card_type)
        assert card.kind == accelerator.kind
        assert all(len(text) > 10 for text in card.src.values())
        assert card.status != "analytic" or not card.calibration.n_anchors

    def test_promotion_holds_what_was_asked_and_is_idempotent(self, accelerator: Accelerator) -> None:
        widths = [width(fmt) for fmt in FORMATS]
        beside = [(code, other) for code in map(width, CODES) for other in (code, widths[7], widths[-1])]
        for kind, (weight, value) in product(Kind, (*product(widths, widths), *beside)):
            promoted = accelerator.promote(kind, weight, value)
            assert all(_stands_in(p, asked) for p, asked in zip(promoted, (weight, value), strict=True))
            assert accelerator.promote(kind, *promoted) == promoted

    def test_time_is_finite_and_positive_and_the_same_each_time(self, accelerator: Accelerator) -> None:
        assert accelerator.refuses("latency_s") is None
        for found in self.runs(accelerator):
            seconds = accelerator.seconds(found)
            assert 0 < seconds < math.inf
            assert accelerator.seconds(found) == seconds
            assert 0 < accelerator.moved_bits(found) < math.inf

    def test_energy_is_finite_and_positive_or_refused_with_what_is_missing(self, accelerator: Accelerator) -> None:
        refused = accelerator.refuses("energy_j")
        if refused is not None:
            assert len(refused) > 10
            return
        for found in self.runs(accelerator):
            joules = accelerator.joules(found)
            assert 0 < joules < math.inf
            assert accelerator.joules(found) == joules

    def test_fewer_bits_never_lie_or_move_in_more(self, accelerator: Accelerator) -> None:
        workload = self.workload()
        packed = packed_in(workload)
        for operation in workload.operations:
            at = [dict.fromkeys(workload.sites(operation), fmt) for fmt in (*INTEGERS, FORMATS[-1])]
            moved = [run(accelerator, workload, operation, packed, formats) for formats in at]
            for narrow, wide in pairwise(moved):
                assert narrow.write_bits <= wide.write_bits
                assert all(n <= w for n, w in zip(narrow.read_bits, wide.read_bits, strict=True))

    def test_a_width_that_is_promoted_takes_as_long_as_what_it_runs_at(self, accelerator: Accelerator) -> None:
        """Its products gain nothing: only bits that are moved may."""
        workload = self.workload()
        packed = packed_in(workload)
        for operation in workload.operations:
            if operation.weight is None or operation.value is None:
                continue
            at = dict.fromkeys(workload.sites(operation), FORMATS[-1])
            plain = run(accelerator, workload, operation, packed, at)
            for fmt in INTEGERS:
                asked = Run(operation, width(fmt), width(fmt), plain.read_bits, plain.write_bits)
                weight, value = accelerator.promote(operation.kind, asked.weight, asked.value)
                if not (weight.is_float or value.is_float):  # a float kernel may add conversions
                    runs = Run(operation, weight, value, plain.read_bits, plain.write_bits)
                    assert accelerator.seconds(asked) == accelerator.seconds(runs)

    @pytest.mark.parametrize("measure", [latency, energy])
    def test_tables_equal_the_measure(self, accelerator: Accelerator, measure) -> None:
        if accelerator.refuses({latency: "latency_s", energy: "energy_j"}[measure]) is not None:
            pytest.skip("refused")
        workload = self.workload()
        found = measure(accelerator, workload, packed_in(workload))
        sites = list(dict.fromkeys(held.site for held in workload.tensors if held.site is not None))
        rng = np.random.default_rng(0)
        choices = []
        for tied in (sites[i : i + 2] for i in range(0, len(sites), 2)):
            options = rng.choice(len(FORMATS), 3, replace=False)
            choices.append(Choice(tied[0], tuple(tied), tuple(FORMATS[i] for i in options)))
        space = Space(tuple(choices))
        indices = rng.integers(0, 3, (20, len(choices)))
        measured = [found.measure(space.decode(row)) for row in indices.tolist()]
        np.testing.assert_array_equal(found.cost(space)(indices), measured)
        assert found.measure(Assignment()) > 0


def _stands_in(promoted: Width, asked: Width) -> bool:
    """Whether it holds the same numbers, has as many binary vectors, or is the fixed point that floats run as."""
    whole = asked.significant if asked.is_binary else asked.fixed_bits
    return holds(promoted, asked) or (not promoted.is_float and promoted.bits >= whole)
