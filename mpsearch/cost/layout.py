"""How many bits a tensor takes in the memory of a device, by the layout that its card names."""

from __future__ import annotations

from mpsearch.cost.memory import Packed
from mpsearch.cost.workload import Held
from mpsearch.spec.card import Layout


def stored_bits(layout: Layout, held: Held, packed: Packed | None) -> int:
    """Bits of `held`: its codes in `layout`, scales and the rest as its format stores them.

    Args:
        packed: what it takes in its format; None where it stays as it is.
    """
    return held.elements * held.float_bits if packed is None else packed.bits
