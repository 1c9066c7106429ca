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
        density: share of the numbers that is not zero, where the places of zeros are settled beforehand.
        group: how many consecutive numbers of a sum have that share each; 0 where zeros lie anywhere.
    """

    bits: int
    kind: str = "int"
    significant: float = 0
    is_binary: bool = False
    code: str = ""
    density: float = 1.0
    group: int = 0

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
    def stored_bits(self) -> float:
        """Of one number as it lies in memory: where groups have zeros, of what is kept, and of its places."""
        return self.density * (self.bits + (self.group - 1).bit_length()) if self.group else self.bits

    @property
    def dense(self) -> Width:
        """The same for a multiplier that takes zeros as it takes other numbers."""
        return self if self.density == 1 else Width(self.bits, self.kind)

    @property
    def shift(self) -> int:
        """Most places an integer is shifted by: 2^e - 2 with e bits of exponent, as the lowest two share one."""
        return 0 if self.is_float or self.is_binary else max(0, (1 << round(self.bits - self.significant)) - 2)

    @property
    def fixed_bits(self) -> int:
        """Bits of the integer that holds it: an exact one, but for floats, which have as many bits as they are."""
        return self.bits if self.is_float or self.significant == self.bits else round(self.significant) + self.shift + 1


FLOAT32 = Width(32, "fp")
