"""Fits of measured times: against published tables, against sums that are known, and against what they must not do."""

from __future__ import annotations

import numpy as np
import pytest
from hawq_v3 import NANOSECONDS_4, NANOSECONDS_8, PUBLISHED, table
from hypothesis import given
from hypothesis import strategies as st

from mpsearch.cost.calibrate import Runs, additive, line_through, quality

# How much faster than float a T4 ran networks at the settings of PUBLISHED, in the same order, and at 8 and 4 bits
# (model_zoo.md of github.com/Zhen-Dong/HAWQ, batch 8).
RESNET18_FLOAT_MS = 9.7
RESNET18_UNIFORM = (3.00, 4.44)
RESNET18 = {
    ("size", 0.25): 3.24, ("size", 0.50): 3.18, ("size", 0.75): 3.09,
    ("bops", 0.25): 4.05, ("bops", 0.50): 3.63, ("bops", 0.75): 3.36,
    ("latency", 0.25): 4.05, ("latency", 0.50): 3.57, ("latency", 0.75): 3.36,
}  # fmt: skip
RESNET50_FLOAT_MS = 26.2
RESNET50_UNIFORM = {11.86536417: 3.10, 7.65993237: 4.50}
"""Sum of the table in ms, to how much faster than float, at 8 and 4 bits."""
RESNET50_MIXED = {10.81213: 3.50, 9.73714: 3.81, 9.75894: 3.75}
"""At half of the way between 4 and 8 bits, by size, bit operations and latency."""


def test_a_line_through_two_anchors_predicts_published_mixed_models_to_a_percent() -> None:
    four, eight = table(NANOSECONDS_4, NANOSECONDS_8).T * 1e-6
    line = line_through([eight.sum(), four.sum()], [RESNET18_FLOAT_MS / faster for faster in RESNET18_UNIFORM])
    assert line.intercept == pytest.approx(0.680, abs=5e-4)
    assert line.slope == pytest.approx(0.478, abs=5e-4)
    sums = [np.where([bit == "8" for bit in PUBLISHED[key][0]], eight, four).sum() for key in RESNET18]
    measured = [RESNET18_FLOAT_MS / faster for faster in RESNET18.values()]
    found = quality(line(sums), measured)
    assert found.n == 9
    assert found.mape == pytest.approx(0.0100, abs=5e-5)
    assert found.worst == pytest.approx(0.0145, abs=5e-5)
    assert quality(sums, measured).mape > 0.33  # which the sums of the table are off by


def test_the_same_for_a_deeper_network() -> None:
    """Of its nine mixed settings the sums of three are known."""
    line = line_through(list(RESNET50_UNIFORM), [RESNET50_FLOAT_MS / faster for faster in RESNET50_UNIFORM.values()])
    assert line.intercept == pytest.approx(1.033, abs=5e-4)
    assert line.slope == pytest.approx(0.625, abs=5e-4)
    measured = [RESNET50_FLOAT_MS / faster for faster in RESNET50_MIXED.values()]
    found = quality(line(list(RESNET50_MIXED)), measured)
    assert found.mape == pytest.approx(0.0327, abs=5e-4)
    assert found.worst < 0.05


def test_a_line_needs_two_sums() -> None:
    with pytest.raises(ValueError, match="a line needs two different"):
        line_through([2.0, 2.0], [1.0, 3.0])


@given(
    st.floats(-1e3, 1e3).filter(lambda x: abs(x) > 1e-3), st.floats(-1e3, 1e3), st.floats(0.1, 1e3), st.floats(0.1, 1e3)
)
def test_a_line_goes_through_its_anchors(slope: float, intercept: float, a: float, more: float) -> None:
    sums = [a, a + more]
    line = line_through(sums, [intercept + slope * s for s in sums])
    np.testing.assert_allclose(line(sums), [intercept + slope * s for s in sums], rtol=1e-9, atol=1e-6)


def test_quality_by_hand() -> None:
    found = quality([1.1, 1.8, 4.0], [1.0, 2.0, 4.0])
    assert (found.mape, found.worst, found.bias) == pytest.approx((0.2 / 3, 0.1, 0.0))
    assert (found.spearman, found.n) == (1.0, 3)
    assert quality([3.0, 2.0, 1.0], [1.0, 2.0, 3.0]).spearman == -1.0
    assert quality([1.0, 1.0], [1.0, 2.0]).spearman == 1.0  # nothing to rank
    with pytest.raises(ValueError, match="cannot compare 2 predictions with 0"):
        quality([1.0, 2.0], [])


def drawn(seed: int, noise: float = 0.0, n: int = 80) -> tuple[Runs, np.ndarray, list[int], Runs]:
    """Runs of ten operations in four classes, one of which is slower on integers, with two conversions."""
    rng = np.random.default_rng(seed)
    alike = [0, 0, 0, 1, 1, 1, 2, 2, 3, 3]
    wide = np.array([5.0, 3.0, 2.0, 1.0])[alike] * rng.uniform(0.97, 1.03, 10)
    narrow = wide * np.array([0.3, 0.4, 0.5, 1.7])[alike]
    rows = (rng.random((n, 10)) < rng.uniform(0.1, 0.9, (n, 1))).astype(float)
    rows[0], rows[1] = 0, 1
    switches = rng.integers(0, 1000, (n, 2)).astype(float) * (rows.sum(1) > 0)[:, None]
    seconds = 4.0 + rows @ narrow + (1 - rows) @ wide + switches @ [1e-3, 4e-3]
    measured = Runs(rows, switches, seconds * (1 + noise * rng.standard_normal(n)))
    half = n // 2
    parts = np.arange(half), np.arange(half, n)
    return measured.at(parts[0]), wide, alike, Runs(rows[parts[1]], switches[parts[1]], seconds[parts[1]])


@pytest.mark.parametrize("seed", range(4))
def test_exact_sums_are_found_again(seed: int) -> None:
    train, wide, alike, test = drawn(seed)
    found = additive(train, 1.3 * wide, alike)  # alone, operations take longer than in a chain
    assert quality(found(test.narrow, test.switches), test.seconds).worst < 1e-3
    np.testing.assert_allclose(found.switch_s, [1e-3, 4e-3], rtol=0.02)
    gains = (found.wide_s - found.narrow_s).reshape(-1)
    assert (gains[:8] > 0).all()
    assert (gains[8:] < 0).all()  # slower on integers, as depthwise convolutions are


@pytest.mark.parametrize("seed", range(4))
def test_noise_averages_out_and_no_time_is_below_zero(seed: int) -> None:
    train, wide, alike, test = drawn(seed, noise=0.03)
    found = additive(train, wide, alike)
    assert quality(found(test.narrow, test.switches), test.seconds).mape < 0.02
    parts = (np.array([found.fixed_s]), found.wide_s, found.narrow_s, found.switch_s)
    assert all((part >= 0).all() for part in parts)


def test_operations_that_are_alike_help_each_other() -> None:
    """Hardly more runs than operations do where classes are known."""

    def error(seed: int, known: bool) -> float:
        train, wide, alike, test = drawn(seed, noise=0.02, n=32)
        found = additive(train, wide, alike if known else list(range(10)))
        return quality(found(test.narrow, test.switches), test.seconds).mape

    together, apart = (np.mean([error(seed, known) for seed in range(6)]) for known in (True, False))
    assert together < 0.02
    assert together < apart / 2


def test_what_never_occurs_costs_nothing() -> None:
    train, wide, alike, _ = drawn(0)
    never = np.zeros((len(train.seconds), 1))
    found = additive(Runs(train.narrow, np.hstack([train.switches, never]), train.seconds), wide, alike)
    assert found.switch_s[2] == pytest.approx(0, abs=1e-9)


def test_times_of_single_operations_share_out_what_no_run_tells_apart() -> None:
    train, wide, alike, _ = drawn(0)
    found = additive(train, wide, alike)
    ratios = found.wide_s / wide
    assert ratios.max() / ratios.min() < 1.2
    assert found.fixed_s == pytest.approx(4.0, rel=0.2)
