"""Where data files are: under `MPSEARCH_DATA`, else downloaded once, else an error says what to fetch."""

from __future__ import annotations

import hashlib
import os
import urllib.error
import urllib.request
from pathlib import Path

from mpsearch.core.errors import BadInput
from mpsearch.zoo.cache import folder, write_atomically

TIMEOUT_S = 10.0


def data_file(relative: str, what: str, url: str | None = None, sha256: str | None = None) -> Path:
    """The path of a data file.

    Args:
        relative: its place under the data folder, for example `cnn/cifar10/resnet20.safetensors`.
        what: what it is and where it comes from, for the error message.
        url: a public address that serves these very bytes; None if it has none.
        sha256: digest that a download must have.

    Raises:
        BadInput: the file is in neither place and could not be downloaded.
    """
    root = os.environ.get("MPSEARCH_DATA")
    given = Path(root) / relative if root else None
    if given and given.is_file():
        return given
    kept = folder() / "data" / relative
    if kept.is_file():
        return kept
    tried = f"looked at {given}" if given else "MPSEARCH_DATA is not set"
    if url and sha256:
        problem = _download(url, sha256, kept)
        if problem is None:
            return kept
        tried += f"; {problem}"
    source = f" from {url}" if url else ""
    raise BadInput(
        f"data file {relative!r} is missing ({what}): {tried}. Fetch it{source} and put it at"
        f" {given or '$MPSEARCH_DATA/' + relative}."
    )


def _download(url: str, sha256: str, to: Path) -> str | None:
    """Fetch a file; what went wrong, or None."""
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer:
            content = answer.read()
    except (OSError, urllib.error.URLError) as error:
        return f"downloading {url} failed: {error}"
    if hashlib.sha256(content).hexdigest() != sha256:
        return f"what {url} serves now is not the expected file (sha256 differs)"
    if not write_atomically(to, content):
        return f"the download could not be written to {to}"
    return None
