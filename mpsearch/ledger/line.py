"""One line of the ledger: an evaluation as JSON that proves itself by a checksum and by its digest."""

from __future__ import annotations

import json
import time
import zlib
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from mpsearch.core.assignment import Assignment
from mpsearch.core.errors import BadInput
from mpsearch.core.evaluation import Evaluation, Failure

SCHEMA = "mpsearch.ledger/1"
NOT_COMPARED = ("versions", "seconds", "time", "crc32")
"""Fields in which two equal ledgers may differ."""

_FIELDS = (
    *("seq", "key", "assignment", "variant", "recipe", "split", "fidelity", "n"),
    *("measures", "stderr", "failure", "asked_by", "seconds", "time", "crc32"),
)


def dump_header(spec_sha256: str, versions: Mapping[str, str]) -> bytes:
    """The first line, newline included."""
    return _dump({"schema": SCHEMA, "spec_sha256": spec_sha256, "versions": dict(versions)}) + b"\n"


def load_header(text: bytes) -> dict[str, Any]:
    """Inverse of `dump_header`. Raises `ValueError` with the reason."""
    record = _load(text)
    if record.get("schema") != SCHEMA:
        raise ValueError(f"schema is {record.get('schema')!r}, this version reads {SCHEMA!r}")
    if not isinstance(record.get("spec_sha256"), str):
        raise ValueError("spec_sha256 is missing")
    return record


def dump(seq: int, evaluation: Evaluation) -> bytes:
    """Line number `seq` (from 1), newline included. Raises `ValueError` on NaN and infinity."""
    failure = evaluation.failure
    record = {
        "seq": seq,
        "key": evaluation.key,
        "assignment": evaluation.assignment.texts(),
        "variant": evaluation.variant,
        "recipe": evaluation.recipe,
        "split": evaluation.split,
        "fidelity": evaluation.fidelity,
        "n": evaluation.n,
        "measures": dict(evaluation.measures),
        "stderr": dict(evaluation.stderr),
        "failure": None if failure is None else {"kind": failure.kind, "message": failure.message},
        "asked_by": evaluation.asked_by,
        "seconds": evaluation.seconds,
        "time": datetime.fromtimestamp(time.time(), UTC).isoformat(timespec="milliseconds"),
    }
    return _dump(record | {"crc32": zlib.crc32(_dump(record))}) + b"\n"


def load(text: bytes, seq: int) -> Evaluation:
    """Inverse of `dump`. Raises `ValueError` with the reason if this is not the untouched line `seq`."""
    record = _load(text)
    if tuple(record) != _FIELDS:
        raise ValueError(f"the fields are {', '.join(record) or '(none)'}")
    crc32 = record.pop("crc32")
    if crc32 != zlib.crc32(_dump(record)):
        raise ValueError("the checksum does not match the content")
    if record["seq"] != seq:
        raise ValueError(f"seq is {record['seq']}, expected {seq}")
    try:
        assignment = Assignment.parse(record["assignment"])
    except BadInput as error:
        raise ValueError(str(error)) from None
    failure = record["failure"]
    found = Evaluation(
        assignment,
        measures=record["measures"],
        stderr=record["stderr"],
        split=record["split"],
        fidelity=record["fidelity"],
        n=record["n"],
        variant=record["variant"],
        recipe=record["recipe"],
        asked_by=record["asked_by"],
        seconds=record["seconds"],
        failure=None if failure is None else Failure(failure["kind"], failure["message"]),
    )
    if found.key != record["key"]:
        raise ValueError(f"key {record['key']} is not the digest of the assignment ({found.key})")
    return found


def compared(text: bytes) -> dict[str, Any]:
    """The part of a line (of the header too) in which equal ledgers agree."""
    return {name: value for name, value in _load(text).items() if name not in NOT_COMPARED}


def _dump(record: Mapping[str, Any]) -> bytes:
    return json.dumps(record, allow_nan=False, separators=(", ", ": ")).encode()


def _load(text: bytes) -> dict[str, Any]:
    try:
        record = json.loads(text)
    except ValueError:
        raise ValueError("it is not JSON") from None
    if not isinstance(record, dict):
        raise ValueError("it is not a JSON object")
    return record
