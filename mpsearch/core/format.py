"""A number format, named by a short text such as `int4`, `int8:affine:tensor:p99.99` or `fp32`.

A `Format` knows how it is written, not what it means: the quantizer registered under its scheme decides which
bits and options exist and which of them are the defaults of a role (`Quantizer.canonical`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from mpsearch.core.errors import BadInput

_TEXT = re.compile(r"(?P<scheme>[a-z][a-z_]*?)(?P<bits>\d+(\.\d+)?)(?P<options>(:[a-z0-9.]+)*)")


@dataclass(frozen=True, order=True)
class Format:
    """One number format.

    Args:
        scheme: name of the quantizer, for example `int`.
        bits: code bits per element; fractional for formats that drop bases or share codes.
        options: further words of the text, in the order the scheme defines; defaults are left out.
    """

    scheme: str
    bits: float
    options: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Format:
        """Read `scheme bits[:option ...]`. Raises `BadInput` on any other text."""
        match = _TEXT.fullmatch(text) if isinstance(text, str) else None
        if match is None:
            raise BadInput(
                f"format {text!r} is not of the form 'scheme bits[:option...]'; for example int4, int8:affine."
            )
        bits = float(match["bits"])
        return cls(match["scheme"], int(bits) if bits.is_integer() else bits, tuple(match["options"].split(":")[1:]))

    def __str__(self) -> str:
        return ":".join((f"{self.scheme}{self.bits:g}", *self.options))

    @property
    def is_float32(self) -> bool:
        """Whether this is the identity: values are stored as the 32-bit floats they are."""
        return self == FP32


FP32 = Format("fp", 32)
