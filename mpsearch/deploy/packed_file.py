"""A packed file: safetensors whose header holds a manifest, checked to the last bit before anything is made of it.

The manifest is one text of JSON under the name of the schema. It tells of every tensor its type, shape and SHA-256, and
is followed by its own. So a file that was cut, edited or put together from two is refused, with a message; nothing in
it is executed, whoever wrote it. The digests tell of damage, not of who made the file.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Tensor

from mpsearch.core.errors import BadInput, OutOfResources

SCHEMA = "mpsearch.packed/1"
FILE = "packed.safetensors"
_FAMILY = SCHEMA.partition("/")[0]
_LENGTH_BYTES = 8


@dataclass(frozen=True)
class Sizes:
    """What a packed file takes.

    Args:
        tensor_bytes: of all tensors.
        header_bytes: of everything else: names, places, the manifest.
    """

    tensor_bytes: int
    header_bytes: int


def write(folder: Path, manifest: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Sizes:
    """Write the packed file of a new or empty place in `folder`.

    Args:
        manifest: ready for JSON; the facts of tensors are added here.
        tensors: contiguous, on the CPU, none sharing memory with another.

    Raises:
        BadInput: there is such a file.
        OutOfResources: the folder cannot be written.
    """
    path = folder / FILE
    if path.exists():
        raise BadInput(f"{path} exists and is kept; name another folder.")
    whole = {**manifest, "schema": SCHEMA, "tensors": {name: _facts(tensor) for name, tensor in tensors.items()}}
    text = _text({"manifest": whole, "sha256": _digest(_text(whole).encode())})
    beside = path.with_name(path.name + ".tmp")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        save_file(dict(tensors), beside, {SCHEMA: text})
        with beside.open("rb") as written:
            os.fsync(written.fileno())
        beside.replace(path)
    except (OSError, SafetensorError) as error:
        with suppress(OSError):
            beside.unlink()
        reason = error.strerror if isinstance(error, OSError) else error
        raise OutOfResources(f"{path}: cannot be written ({reason}); name another folder, or make room.") from error
    return _sizes(path.stat().st_size, tensors)


def read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor], Sizes]:
    """Manifest, tensors and sizes of a packed file, or of the one in a folder.

    Raises `BadInput` where there is none, or it is not to the last bit what was written.
    """
    path = path / FILE if path.is_dir() else path
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise BadInput(
            f"{path}: there is no packed file; make one: mpsearch export RUN --pick knee --format packed --to DIR"
        ) from None
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror}).") from error
    manifest = _manifest(path, data)
    try:
        tensors = load(data)
    except Exception as error:  # whatever the library says of bytes that are no such file
        raise _damaged(path, f"its tensors cannot be read: {' '.join(str(error).split())[:120]}") from error
    told = manifest["tensors"]
    if set(told) != set(tensors):
        odd = min(set(told) ^ set(tensors))
        raise _damaged(path, f"tensor {odd!r} is {'missing' if odd in told else 'not in the manifest'}")
    for name, tensor in tensors.items():
        if _facts(tensor) != told[name]:
            raise _damaged(path, f"tensor {name!r} is not the one that was written")
    return manifest, tensors, _sizes(len(data), tensors)


def _manifest(path: Path, data: bytes) -> dict[str, Any]:
    """The manifest, whole: its digest is right. Nothing more is known of what stands in it."""
    size = int.from_bytes(data[:_LENGTH_BYTES], "little")
    if len(data) < _LENGTH_BYTES or size > len(data) - _LENGTH_BYTES:
        raise _damaged(path, "it is cut short, or no safetensors file")
    try:
        metadata = json.loads(data[_LENGTH_BYTES : _LENGTH_BYTES + size])["__metadata__"]
        names = [name for name in metadata if name.startswith(f"{_FAMILY}/")]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _damaged(path, "its header cannot be read, or is that of another kind of file") from error
    if SCHEMA not in metadata and names:
        raise BadInput(
            f"{path}: it is of version {names[0]}, and this is {SCHEMA}; load it with the mpsearch that wrote it, or "
            "export it again."
        )
    try:
        text = metadata[SCHEMA]
        found = json.loads(text)
        manifest = found["manifest"]
        good = _text(found) == text and found["sha256"] == _digest(_text(manifest).encode())
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _damaged(path, "it has no manifest") from error
    if not good or manifest.get("schema") != SCHEMA or not isinstance(manifest.get("tensors"), dict):
        raise _damaged(path, "its manifest is not the one that was written")
    return dict(manifest)


def _damaged(path: Path, what: str) -> BadInput:
    return BadInput(f"{path}: not a packed file as it was written: {what}. Restore it, or export it again.")


def _facts(tensor: Tensor) -> dict[str, Any]:
    plain = tensor.reshape(-1).view(torch.uint8) if tensor.numel() else tensor.new_zeros(0, dtype=torch.uint8)
    return {
        "dtype": str(tensor.dtype).removeprefix("torch."),
        "shape": list(tensor.shape),
        "sha256": _digest(plain.numpy().tobytes()),
    }


def _sizes(whole: int, tensors: Mapping[str, Tensor]) -> Sizes:
    tensor_bytes = sum(tensor.nbytes for tensor in tensors.values())
    return Sizes(tensor_bytes, whole - tensor_bytes)


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
