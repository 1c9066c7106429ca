"""The cache of a causal language model: keys and values of all tokens so far, kept so as not to compute them again."""

from __future__ import annotations

from collections.abc import Sequence

from mpsearch.cost.memory import Packed, PackedAt, part
from mpsearch.cost.model import Measure
from mpsearch.cost.sums import Sum
from mpsearch.cost.workload import Held


def cache_measures(cached: Sequence[Held], packed: PackedAt) -> dict[str, Measure]:
    """`kv_cache_bytes` of one batch at its full length; nothing where the model has no cache.

    2 * layers * batch * key heads * tokens * head size * bits, and the scales of both.

    Args:
        cached: keys and values of each causal attention, heads that several queries share once.
    """
    return {"kv_cache_bytes": Sum([part(held, packed, _bits) for held in cached], per=8, whole=True)} if cached else {}


def _bits(held: Held, packed: Packed | None) -> int:
    return held.elements * held.float_bits if packed is None else packed.bits
