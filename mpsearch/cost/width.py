"""How wide the numbers of a format are where they are multiplied: asked of its scheme, nothing here knows one."""

from __future__ import annotations

from functools import cache

from mpsearch.core.format import FP32, Format
from mpsearch.core.width import FLOAT32, Width
from mpsearch.spec import registry


@cache
def width(fmt: Format) -> Width:
    """What a multiplier sees of a number in `fmt`, as its quantizer says. Raises `BadInput` on an unknown scheme."""
    if fmt == FP32:
        return FLOAT32
    found = registry.load("quantizers", fmt.scheme)().width(fmt)
    assert isinstance(found, Width)
    return found
