"""Offsets of values in one block of memory: what a runtime without an allocator needs, gaps included.

The peak of liveness is a lower bound of it that adds up over choices; which offsets reach it is only worked out for
an assignment that somebody wants to know more of.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mpsearch.core.assignment import Assignment
from mpsearch.cost.layout import device_peak, overwrites
from mpsearch.cost.memory import PackedAt, Value
from mpsearch.spec.card import InPlace, Layout


@dataclass(frozen=True)
class Block:
    """Memory that is needed for some time.

    Args:
        bytes: how much. born, dies: first and last step, both inclusive.
    """

    bytes: int
    born: int
    dies: int


def arena_bytes(
    layout: Layout, in_place: InPlace, values: Sequence[Value], packed: PackedAt, assignment: Assignment
) -> int:
    """Bytes of an arena that holds every value of `assignment` while it is needed: at least the peak of liveness.

    A value that is made in place and what it overwrites share their offset, and so one block of the larger size.
    """
    sizes = [part.at(assignment) for part in device_peak(layout, in_place, values, packed).parts]
    blocks: dict[int, Block] = {}
    block_of: dict[int, int] = {}
    for i in sorted(range(len(values)), key=lambda i: values[i].born):
        value, over = values[i], values[i].overwrites
        if over is not None and overwrites(in_place, value):
            at = block_of[i] = block_of[over]
            known = blocks[at]
            blocks[at] = Block(max(known.bytes, sizes[i]), known.born, max(known.dies, value.dies))
        else:
            block_of[i] = i
            blocks[i] = Block(sizes[i], value.born, value.dies)
    found = list(blocks.values())
    return extent(found, plan(found))


def plan(blocks: Sequence[Block]) -> list[int]:
    """An offset in bytes for each block, such that no two that are needed at the same step overlap.

    The better of two plans: the largest block first, each as low as it can lie (the planner of TensorFlow Lite Micro);
    and in the order of time, blocks in turn at the two ends of the arena, which loses nothing on a chain.
    """
    by_size = sorted(range(len(blocks)), key=lambda i: (-blocks[i].bytes, blocks[i].born))
    by_time = sorted(range(len(blocks)), key=lambda i: (blocks[i].born, -blocks[i].bytes))
    ceiling = most_at_once(blocks)
    plans = [_placed(blocks, by_size, ()), _placed(blocks, by_time, by_time[1::2], ceiling)]
    return min(plans, key=lambda offsets: extent(blocks, offsets))


def extent(blocks: Sequence[Block], offsets: Sequence[int]) -> int:
    """Bytes of the arena that a plan needs."""
    return max((block.bytes + offset for block, offset in zip(blocks, offsets, strict=True)), default=0)


def most_at_once(blocks: Iterable[Block]) -> int:
    """Bytes needed at the worst step, which no plan can stay below."""
    blocks = list(blocks)
    return max((sum(b.bytes for b in blocks if b.born <= at.born <= b.dies) for at in blocks), default=0)


def _placed(blocks: Sequence[Block], order: Sequence[int], high: Iterable[int], ceiling: int = 0) -> list[int]:
    """Offsets, given one after the other: the lowest that is free, or, for those in `high`, the highest below
    `ceiling` where there is one.
    """
    offsets: dict[int, int] = {}
    tops = set(high)
    for i in order:
        block = blocks[i]
        taken = sorted(
            (offsets[j], offsets[j] + blocks[j].bytes)
            for j in offsets
            if blocks[j].born <= block.dies and block.born <= blocks[j].dies
        )
        gaps, end = [], 0
        for low, top in taken:
            if low - end >= block.bytes:
                gaps.append((end, low))
            end = max(end, top)
        if i in tops and ceiling - end >= block.bytes:
            gaps.append((end, ceiling))
        if i in tops and gaps:
            offsets[i] = gaps[-1][1] - block.bytes
        else:
            offsets[i] = gaps[0][0] if gaps else end
    return [offsets[i] for i in range(len(blocks))]
