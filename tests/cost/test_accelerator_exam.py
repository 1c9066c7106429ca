"""Every bundled card sits the exam of accelerators, which bad ones fail, and low bits have the sign of its kind."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from accelerator_runs import CARDS, at, bundled, conv

from mpsearch.core.width import Width
from mpsearch.cost.accelerators.base import Accelerator
from mpsearch.cost.accelerators.systolic import Systolic
from mpsearch.cost.device import run
from mpsearch.cost.workload import Workload
from mpsearch.testing.accelerators import INTEGERS, AcceleratorExam, packed_in, zoo

NAMES = [path.stem for path in CARDS]
LAYER = conv(28, 128, 128, 3)  # bound by its products on every device but those that a card says
SIGN = {"bitfusion": -1, "bitserial": -1, "fpga": -1, "mcu": 1, "systolic": -1}
"""Of time, as weights and values go from 8 bits to 4. Kinds that are not here take no longer."""


@pytest.fixture(params=NAMES)
def accelerator(request: pytest.FixtureRequest) -> Accelerator:
    return bundled(request.param)


class TestBundledCards(AcceleratorExam):
    pass


@pytest.mark.parametrize("name", NAMES)
def test_low_bits_are_faster_or_slower_by_kind(name: str) -> None:
    made = bundled(name)
    wide, narrow = (made.seconds(at(LAYER, bits, bits)) for bits in (8, 4))
    expected = SIGN.get(made.kind)
    assert narrow <= wide if expected is None else (narrow > wide) - (narrow < wide) == expected


@pytest.mark.parametrize("name", [name for name in NAMES if bundled(name).kind in SIGN])
def test_low_bits_lie_in_less_also_where_they_are_slower(name: str) -> None:
    made, workload = bundled(name), zoo()
    stem = workload.operations[0]
    at_bits = [dict.fromkeys(workload.sites(stem), INTEGERS[bits - 1]) for bits in (2, 4, 8)]
    sizes = [run(made, workload, stem, packed_in(workload), formats).moved_bits for formats in at_bits]
    assert all(narrow < wide for narrow, wide in pairwise(sizes))


class Narrows(Systolic):
    def promote(self, kind, weight, value):
        return Width(2), Width(2)


class Wanders(Systolic):
    def promote(self, kind, weight, value):
        return Width(2 * weight.bits), Width(2 * value.bits)


class Forgets(Systolic):
    def seconds(self, run):
        return 0.0


class Learns(Systolic):
    def seconds(self, run):
        self.before = getattr(self, "before", 0) + 1
        return float(self.before)


class Rewards(Systolic):
    def seconds(self, run):
        return run.weight.bits * 1e-9


class Mumbles(Systolic):
    def refuses(self, measure):
        return "no" if measure == "energy_j" else None


@pytest.mark.parametrize(
    ("bad", "test"),
    [
        (Narrows, "test_promotion_holds_what_was_asked_and_is_idempotent"),
        (Wanders, "test_promotion_holds_what_was_asked_and_is_idempotent"),
        (Forgets, "test_time_is_finite_and_positive_and_the_same_each_time"),
        (Learns, "test_time_is_finite_and_positive_and_the_same_each_time"),
        (Rewards, "test_a_width_that_is_promoted_takes_as_long_as_what_it_runs_at"),
        (Mumbles, "test_energy_is_finite_and_positive_or_refused_with_what_is_missing"),
    ],
)
def test_bad_accelerators_fail(bad: type[Systolic], test: str) -> None:
    with pytest.raises(AssertionError):
        getattr(AcceleratorExam(), test)(bad(bundled("systolic-32x32-ws").card))


def test_a_card_without_sources_fails() -> None:
    made = bundled("systolic-32x32-ws")
    silent = type(made)(made.card.model_copy(update={"src": {"systolic": "?"}}))
    with pytest.raises(AssertionError):
        AcceleratorExam().test_the_card_says_where_its_numbers_are_from(silent)


def test_another_workload_can_be_named() -> None:
    class One(AcceleratorExam):
        def workload(self) -> Workload:
            return replace(zoo(), operations=zoo().operations[:1])

    found = list(One().runs(bundled("esb-zcu102")))
    assert {run.operation.name for run in found} == {"stem"}
