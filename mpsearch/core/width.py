"""A width: what a multiplier sees of a number, whatever it is stored as."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Width:
    """How wide an operand is where it is multiplied. Scales that multiply whole sums are left out.

    Args:
        bits: of a number: of its code, or of the float that it is looked up as.
        kind: `int`; `fp`, or `bf` with the range of float32 and fewer digits; `mx`, `mxint` and `nvfp`, whose blocks
            have a scale of their own inside a sum.
        significant: bits that enter products; all of them where it is 0. An integer with fewer than `bits` is those,
            with their sign, shifted by what the other bits say. An average may be a fraction.
        is_binary: whether it is a sum of `significant` numbers that have two values each, and stored as such: a product
            with another one can be taken bit by bit.
        code: what it is stored as, where only kernels made for that multiply it as it lies; empty where its code is the
            number.
    """

    bits: int
    kind: str = "int"
    significant: float = 0
    is_binary: bool = False
    code: str = ""

    def __post_init__(self) -> None:
        if not self.significant:
            object.__setattr__(self, "significant", self.bits)
        if self.kind == "int" and self.bits == 1:
            object.__setattr__(self, "is_binary", True)

    def __str__(self) -> str:
        return self.code or f"{self.kind}{self.bits}"

    @property
    def is_float(self) -> bool:
        """Whether it is a floating-point number."""
        return self.kind != "int"

    @property
    def shift(self) -> int:
        """Most places an integer is shifted by: 2^e - 2 with e bits of exponent, as the lowest two share one."""
        return 0 if self.is_float or self.is_binary else max(0, (1 << round(self.bits - self.significant)) - 2)

    @property
    def fixed_bits(self) -> int:
        """Bits of the integer that holds it: an exact one, but for floats, which have as many bits as they are."""
        return self.bits if self.is_float or self.significant == self.bits else round(self.significant) + self.shift + 1


FLOAT32 = Width(32, "fp")
