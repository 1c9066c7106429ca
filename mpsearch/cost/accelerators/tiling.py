"""How a matrix product is cut into tiles that fit the memories of an accelerator, and how often its tensors are loaded.

The search is that of the simulator of BitFusion (hsharma35/bitfusion @ 04ec1c87): tiles halve each loop, half of each
memory holds the tile that is computed and half the next, and what still fits when a loop turns stays. It differs in
three ways: positions are one loop, tiles share their borders, and partial sums are moved only where they are spilled.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]
_DEPENDS = {"weight": (1, 2), "value": (0, 2), "sum": (0, 1)}
"""Loops over positions, output channels and the length of the sum that each operand has an index of."""
_SLACK = 1.01


@dataclass(frozen=True)
class Room:
    """Bits of each memory that one tile may take."""

    weight: float
    value: float
    sum: float


@dataclass(frozen=True)
class Matmul:
    """One product to cut.

    Args:
        m, n, steps: positions, output channels, and input channels (or products, once unrolled).
        lanes: steps that are computed at once; weights are padded to them. window: products per step.
        columns: output channels that are computed at once; partial sums are padded to them.
        weight_bits, value_bits, sum_bits: width of a weight, all values of the product, width of a partial sum.
    """

    m: int
    n: int
    steps: int
    lanes: int
    window: int
    columns: int
    weight_bits: int
    value_bits: float
    sum_bits: int


@dataclass(frozen=True)
class Tiling:
    """What the chosen tiles make of the tensors.

    Args:
        weights, values: how many times the bits of each are loaded; weights with their padding.
        spilled_bits: partial sums that go out and come back.
        first_weights, first_values, last_results: shares that nothing overlaps with: first loads, and the last store.
    """

    weights: float = 1.0
    values: float = 1.0
    spilled_bits: float = 0.0
    first_weights: float = 1.0
    first_values: float = 1.0
    last_results: float = 1.0


def best_tiling(matmul: Matmul, room: Room, compute_cycles: float, bits_per_cycle: float) -> Tiling:
    """The tiles and order of loops that move least, among those within 1 % of the least time.

    Where even the smallest tiles do not fit, the product is taken as one tile.
    """
    sizes = [_halves(extent) for extent in (matmul.m, matmul.n, matmul.steps)]
    tile = np.meshgrid(*sizes, indexing="ij")
    counts = [np.ceil(e / t) for e, t in zip((matmul.m, matmul.n, matmul.steps), tile, strict=True)]
    padded = np.ceil(tile[2] * matmul.window / matmul.lanes) * matmul.lanes
    bits = {
        "weight": padded * tile[1] * matmul.weight_bits,
        "value": matmul.value_bits / (counts[0] * counts[2]),
        "sum": tile[0] * np.ceil(tile[1] / matmul.columns) * matmul.columns * matmul.sum_bits,
    }
    fits = np.all([bits[name] <= getattr(room, name) for name in bits], axis=0)
    if not fits.any():
        return Tiling()
    plain_weights = matmul.steps * matmul.window * matmul.n * matmul.weight_bits
    plain_sums = matmul.m * matmul.n * matmul.sum_bits
    found: list[tuple[Numbers, ...]] = []
    for order in permutations(range(3)):
        loads = {name: _loads(bits[name], getattr(room, name), order, counts, name) for name in bits}
        turns = loads["sum"] / (bits["sum"] * counts[0] * counts[1])
        spilled = 2 * (turns - 1) * plain_sums
        moved = loads["weight"] + loads["value"] + spilled + plain_sums
        ends = bits["weight"] + bits["value"] + plain_sums / (counts[0] * counts[1])
        time = np.maximum(compute_cycles, (moved - ends) / bits_per_cycle) + ends / bits_per_cycle
        found.append((np.where(fits, time, np.inf), moved, loads["weight"], loads["value"], spilled))
    time, moved, weights, values, spilled = (np.stack(column) for column in zip(*found, strict=True))
    at = np.unravel_index(np.argmin(np.where(time <= _SLACK * time.min(), moved, np.inf)), time.shape)
    here = at[1:]
    return Tiling(
        float(weights[at] / plain_weights),
        float(values[at] / matmul.value_bits) if matmul.value_bits else 1.0,
        float(spilled[at]),
        float(bits["weight"][here] / plain_weights),
        float(1 / (counts[0] * counts[2])[here]),
        float(1 / (counts[0] * counts[1])[here]),
    )


def _halves(extent: int) -> Numbers:
    """Tile sizes: the whole, half of it, and so on down to one."""
    return np.unique(np.ceil(extent / 2.0 ** np.arange(extent.bit_length() + 1)))


def _loads(tile: Numbers, room: float, order: tuple[int, ...], counts: list[Numbers], name: str) -> Numbers:
    """Bits of one operand that are loaded in all, its loops nested in `order` from the outermost."""
    loads, stays = tile, np.ones(tile.shape, dtype=bool)
    for axis in reversed(order):
        grows = axis in _DEPENDS[name]
        loads = loads * counts[axis] if grows else np.where(stays, loads, loads * counts[axis])
        stays &= loads <= room
    return loads
