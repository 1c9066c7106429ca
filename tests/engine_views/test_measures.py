"""Names, units and ticks of measures, with and without an accelerator."""

from __future__ import annotations

import re
from math import log2

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mpsearch.core.assignment import Assignment
from mpsearch.core.errors import BadInput
from mpsearch.core.evaluation import Evaluation
from mpsearch.engine.measures import (
    cost_stem,
    digits_apart,
    is_cost,
    linear_ticks,
    log_ticks,
    meant,
    number,
    ratio_name,
    spoken,
    with_error,
)

PREFIX = {"": 0, "f": -15, "p": -12, "n": -9, "µ": -6, "m": -3, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "a": -18}


@pytest.mark.parametrize(
    ("measure", "value", "text"),
    [
        ("memory_bytes", 512, "512 B"),
        ("memory_bytes", 1024, "1 KiB"),
        ("memory_bytes@nvidia-t4", 1023 * 1024, "1023 KiB"),
        ("memory_bytes", 3 * 2**20, "3 MiB"),
        ("kv_cache_bytes", 5 * 2**40, "5 TiB"),
        ("memory_bytes", 0, "0 B"),
        ("accuracy", 0.95194, "0.9519"),
        ("perplexity", 123.456, "123.46"),
        ("latency_s", 0.00123, "1.23 ms"),
        ("latency_s@nvidia-t4", 4.5e-5, "45 µs"),
        ("latency_s@a.b_bytes", 999.6e-6, "1 ms"),
        ("latency_s", 0, "0 s"),
        ("latency_s", 1234.4, "1234 s"),
        ("energy_j@esb-zcu102", 3.25e-9, "3.25 nJ"),
        ("energy_j", 0.0421, "42.1 mJ"),
        ("bops", 67.23e9, "67.2 G"),
        ("bops_baskin", 12.0, "12"),
        ("macs_bits", 1.5e6, "1.5 M"),
        ("weight_bits", 2.1875, "2.19 bits"),
    ],
)
def test_numbers_carry_their_unit(measure: str, value: float, text: str) -> None:
    assert number(measure, value) == text


@given(st.sampled_from(["latency_s@x", "energy_j", "bops"]), st.floats(1e-12, 9e14))
@example("bops", 999.5)
@example("energy_j", 9.995e-10)
def test_three_digits_and_a_prefix_tell_the_value(measure: str, value: float) -> None:
    found = re.fullmatch(r"(\d+(?:\.\d+)?(?:e-\d+)?)(?: ([afpnµmkMGTP]?)([sJ]?))?", number(measure, value))
    assert found is not None
    digits, prefix, unit = found.groups()
    assert unit == {"latency_s@x": "s", "energy_j": "J"}.get(measure, unit)
    told = float(digits) * 10.0 ** PREFIX[prefix or ""]
    assert told == pytest.approx(value, rel=6e-3)
    if (value >= 1) == (measure == "bops"):
        assert 1 <= float(digits) < 1000


@pytest.mark.parametrize(
    ("measure", "values", "texts"),
    [
        ("latency_s@nvidia-t4", [77.31e-6, 77.32e-6, 1.5e-3], ["77.31 µs", "77.32 µs", "1.5 ms"]),
        ("memory_bytes", [22_118, 22_119, 1024], ["21.6 KiB", "21.601 KiB", "1 KiB"]),
        ("accuracy", [0.98, 0.98, 0.97], ["0.9800", "0.9800", "0.9700"]),
        ("log_loss", [0.062341, 0.062349], ["0.06234", "0.06235"]),
        ("energy_j", [999.95e-3, 1.0], ["999.95 mJ", "1 J"]),
        ("latency_s", [1234.4, 1234.5], ["1234.4 s", "1234.5 s"]),
        ("weight_bits", [2.0, 2.0 + 1e-12], ["2 bits", "2 bits"]),
    ],
)
def test_different_values_look_different(measure: str, values: list[float], texts: list[str]) -> None:
    assert [number(measure, value, digits_apart(measure, values)) for value in values] == texts


@given(
    st.sampled_from(["latency_s@x", "memory_bytes", "bops", "weight_bits"]),
    st.lists(st.integers(1, 10**6), min_size=1, max_size=6),
    st.integers(-6, 6),
)
def test_no_more_digits_than_needed(measure: str, values: list[int], power: int) -> None:
    scaled = [value * (1024.0 if "bytes" in measure else 10.0**power) for value in values]
    digits = digits_apart(measure, scaled)
    assert len({number(measure, value, digits) for value in scaled}) == len(set(scaled))
    assert digits == 3 or len({number(measure, value, digits - 1) for value in scaled}) < len(set(scaled))


def test_an_error_has_the_unit_too() -> None:
    done = Evaluation(Assignment(), {"latency_s": 1.2e-3, "accuracy": 0.9}, {"latency_s": 4e-5, "accuracy": 0.01})
    assert with_error(done, "latency_s") == "1.2 ms ± 40 µs"
    assert with_error(done, "accuracy") == "0.9000 ± 0.0100"


@pytest.mark.parametrize(
    ("measure", "cost", "stem", "ratio", "said"),
    [
        ("memory_bytes", True, "memory", "memory_ratio", "memory"),
        ("latency_s@nvidia-t4", True, "latency@nvidia-t4", "latency_ratio@nvidia-t4", "latency @ nvidia-t4"),
        ("memory_bytes@a_s", True, "memory@a_s", "memory_ratio@a_s", "memory @ a_s"),
        ("macs_bits", True, "macs_bits", "macs_bits_ratio", "macs bits"),
        ("accuracy", False, "accuracy", "accuracy_ratio", "accuracy"),
        ("log_loss@5", False, "log_loss@5", "log_loss_ratio@5", "log loss @ 5"),
    ],
)
def test_names(measure: str, cost: bool, stem: str, ratio: str, said: str) -> None:
    assert (is_cost(measure), cost_stem(measure), ratio_name(measure), spoken(measure)) == (cost, stem, ratio, said)


KNOWN = ["accuracy", "latency_s@a", "energy_j@a", "energy_j@b", "memory_bytes", "memory_bytes@a"]


@pytest.mark.parametrize(
    ("name", "full"),
    [("latency_s", "latency_s@a"), ("energy_j@b", "energy_j@b"), *zip(KNOWN, KNOWN, strict=True)],
)
def test_the_short_form_means_the_only_accelerator(name: str, full: str) -> None:
    assert meant(name, KNOWN) == full


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("energy_j", "'energy_j' is known of several accelerators; write one of energy_j@a, energy_j@b."),
        ("latency_s@c", "no measure 'latency_s@c'. Did you mean 'latency_s@a'?"),
        ("latencys", "no measure 'latencys'. Did you mean 'latency_s@a'?"),
    ],
)
def test_a_name_that_means_nothing_or_too_much(name: str, message: str) -> None:
    with pytest.raises(BadInput) as error:
        meant(name, KNOWN)
    assert str(error.value).startswith(message)


@given(st.sampled_from(["memory_bytes", "latency_s@x", "energy_j", "bops", "weight_bits"]), st.floats(-59, 50),
       st.floats(0.3, 40))  # fmt: skip
def test_ticks_are_in_range_rising_and_enough(measure: str, low: float, width: float) -> None:
    ticks = log_ticks(measure, low, low + width)
    assert 2 <= len(ticks) <= 10
    assert all(low - 1e-9 <= log2(tick) <= low + width + 1e-9 for tick in ticks)
    assert ticks == sorted(set(ticks))


@pytest.mark.parametrize(
    ("low", "high", "texts"),
    [
        (0.99e-4, 1.01e-2, ["100 µs", "1 ms", "10 ms"]),
        (2.2e-4, 4e-3, ["300 µs", "1 ms", "3 ms"]),
        (1.1e-3, 1.9e-3, ["1.2 ms", "1.4 ms", "1.6 ms", "1.8 ms"]),
    ],
)
def test_ticks_of_seconds_are_decimal(low: float, high: float, texts: list[str]) -> None:
    assert [number("latency_s", tick) for tick in log_ticks("latency_s", log2(low), log2(high))] == texts


@given(st.sampled_from(["memory_bytes", "latency_s@x", "bops"]), st.floats(1e-12, 1e15))
def test_linear_ticks_start_at_nothing(measure: str, high: float) -> None:
    ticks = linear_ticks(measure, high)
    assert ticks[0] == 0
    assert 4 <= len(ticks) <= 8
    assert high * 2 / 3 < ticks[-1] <= high * (1 + 1e-9)
