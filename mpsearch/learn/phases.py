"""Phases of adaptive loss-aware quantization: which one an epoch belongs to, and its share of the learning rate.

Numbers are those for LeNet-5 in the code of Qu et al. (arXiv 1912.08883), zqu1992/ALQ; that fewer epochs are shared out
in proportion, with an epoch of pruning at the end of each round, is our own.
"""

from __future__ import annotations

from math import ceil

BASIS, COORDINATE, PRUNE, FLOAT = "basis", "coordinate", "prune", "float"
ROUNDS = 4
_IN_ROUND = {BASIS: 20, COORDINATE: 10, PRUNE: 1}
_AFTER = {FLOAT: 50, COORDINATE: 20}
_ENDS = {BASIS: 0.8**20, COORDINATE: 0.8**10, FLOAT: 0.95**50}  # rate at the end of a phase over that at its start


def schedule(epochs: int, rounds: int = ROUNDS) -> list[tuple[str, float]]:
    """Phase of each epoch, and the share of the learning rate that it has."""
    after, whole = sum(_AFTER.values()), rounds * sum(_IN_ROUND.values())
    last = min(epochs - 1, round(epochs * after / (after + whole)))
    rounds = max(1, min(rounds, (epochs - last) // len(_IN_ROUND)))
    found = []
    for i in range(rounds):
        begin, end = ((epochs - last) * (i + k) // rounds for k in (0, 1))
        train = end - begin - 1
        basis = ceil(train * _IN_ROUND[BASIS] / (_IN_ROUND[BASIS] + _IN_ROUND[COORDINATE]))
        found += _falling(BASIS, basis) + _falling(COORDINATE, train - basis) + [(PRUNE, _ENDS[COORDINATE])]
    moved = ceil(last * _AFTER[FLOAT] / after)
    return found + _falling(FLOAT, moved) + _falling(COORDINATE, last - moved)


def _falling(phase: str, epochs: int) -> list[tuple[str, float]]:
    return [(phase, _ENDS[phase] ** (i / epochs)) for i in range(epochs)]
