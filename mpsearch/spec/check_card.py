"""Checks of a card that need no knowledge of its kind: names, sources, and peaks that are not what they should be."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from mpsearch.core.errors import nearest
from mpsearch.spec.explain import Faults

DENSE = "peaks are dense MAC/s = dense TOPS / 2 (a multiplication and an addition are one MAC)"
_HEAD = ("schema", "name", "kind", "status", "src", "note")
_SPARSE = re.compile(r"spars|\b[24]:[248]\b", re.IGNORECASE)
_NOT_SPARSE = re.compile(r"\b(no|not|non|without|un)[- ]?(structured )?spars\w*", re.IGNORECASE)
_OPERATIONS = re.compile(
    r"(?<![a-z])(?:(?:[kmgtpe]|mega|giga|tera|peta)-?(?:fl)?ops?|flops?)(?![a-z])|operations per s", re.IGNORECASE
)
_HALVED = re.compile(r"/ ?2\b|\bhal(f|ved|ves)\b|divided by (2|two)", re.IGNORECASE)
_IS_CALLED = {
    "bandwidth": "read_bytes_per_s",
    "bw": "read_bytes_per_s",
    "capacity": "bytes",
    "clock": "freq_hz",
    "frequency": "freq_hz",
    "macs": "peak_mac_per_s",
    "overhead": "launch_s",
    "peaks": "peak_mac_per_s",
    "power": "static_w",
    "rate": "peak_mac_per_s",
    "size": "bytes",
    "tdp": "static_w",
    "throughput": "peak_mac_per_s",
}


def check_card(data: Mapping[str, Any], name: str, known: Collection[str]) -> Faults:
    """Faults of a card's plain data.

    Args:
        name: of its file, without the suffix.
        known: keys that its kind has; the rest are faults by themselves.
    """
    faults: Faults = []
    own = data.get("name")
    if isinstance(own, str) and own != name:
        faults.append((("name",), f"{own!r} is not the name of the file; write {name}, or call the file {own}.yaml."))
    blocks = [key for key, value in data.items() if key in known and key not in _HEAD and any(_numbers(value))]
    src = data.get("src")
    if not src:
        needed = ", ".join(blocks) or "precision, memory, ..."
        return [*faults, (("src",), f"is missing: a card names the source of every block that has numbers: {needed}.")]
    if not isinstance(src, dict):
        return faults
    for key in blocks:
        if not src.get(key):
            message = f"has numbers and no source; write src.{key}: where they are from."
            faults.append(((key,), message))
    note = data.get("note")
    if isinstance(note, str) and any("mac_per_s" in key for key in _keys(data)):
        fault = _sparse(note)
        faults += [(("note",), fault)] if fault else []
    for key, text in src.items():
        if key not in data or key in _HEAD:
            hint = "" if key in known else nearest(key, [block for block in data if block not in _HEAD])
            faults.append((("src", key), f"the card has no block {key!r}.{hint}"))
        elif isinstance(text, str) and any("mac_per_s" in inner for inner in _keys(data[key])):
            fault = _not_dense(text)
            faults += [(("src", key), fault)] if fault else []
    return faults


def hint(key: str, allowed: list[str]) -> str | None:
    """What an unknown key is called here, where it has no unit, another unit, or names another quantity."""
    if _SPARSE.search(key) or _OPERATIONS.search(key):
        rates = [name for name in allowed if "mac_per_s" in name]
        if not rates and "rows" in allowed:
            return f"the rate of an array follows from its size and clock; write {', '.join(sorted(allowed))}."
        return f"{DENSE}; write {' or '.join(rates) or 'peak_mac_per_s'}, never a sparse figure."
    stem = key.lower().partition("_")[0]
    found = [name for name in allowed if name.partition("_")[0] == stem or name == _IS_CALLED.get(stem)]
    return f"units stand in names, without prefixes such as giga; write {' or '.join(found)}." if found else None


def _sparse(text: str) -> str | None:
    if _SPARSE.search(_NOT_SPARSE.sub("", text)) is None:
        return None
    return (
        f"speaks of sparse peaks: {DENSE}; a sparse figure counts products that are skipped and is up to twice "
        "the dense one. Write the dense figures, and say 'not sparse' where the source gives both."
    )


def _not_dense(text: str) -> str | None:
    if fault := _sparse(text):
        return fault
    if _OPERATIONS.search(text) and not _HALVED.search(text):
        return f"speaks of operations per second: {DENSE}. Halve the figures, and say 'halved'."
    return None


def _numbers(value: object) -> Iterator[float]:
    """Every number in plain data."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _numbers(inner)


def _keys(value: object) -> Iterator[str]:
    """Every key in plain data."""
    if isinstance(value, dict):
        yield from map(str, value)
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _keys(inner)
