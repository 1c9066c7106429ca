"""Whether an assignment that has scored on some batches is surely no member of the front."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from mpsearch.core.evaluation import Evaluation
from mpsearch.core.goal import Goal
from mpsearch.engine.confidence import Numbers, log_capital
from mpsearch.problem.base import Scores

BEST = {True: 1.0, False: 0.0}
"""The best possible score of a sample, by whether more is better."""

Claim = Mapping[str, float]
"""Mean losses by goal: who belongs on the front is below at least one of them."""


def losses(goal: Goal, scores: Numbers) -> Numbers:
    """Distances of scores from the best possible one; what is negative is beyond it."""
    return 1.0 - scores if goal.maximise else scores


@dataclass
class Known:
    """Losses in one goal of those that saw all data: sums over them, of each sample; and the mean of each, by key."""

    count: int = 0
    total: Numbers = field(default_factory=lambda: np.zeros(1))
    squares: Numbers = field(default_factory=lambda: np.zeros(1))
    means: dict[str, float] = field(default_factory=dict)

    def add(self, key: str, found: Numbers) -> None:
        self.count += 1
        self.total = self.total + found
        self.squares = self.squares + found**2
        self.means[key] = float(found.mean())

    @property
    def usual(self) -> Numbers:
        """Mean loss of each sample."""
        return self.total / self.count

    @property
    def deviation(self) -> float:
        """Of one evaluation from the usual losses: the root of the mean square, over all of them and all samples."""
        return math.sqrt(max(0.0, float(np.mean(self.squares / self.count - self.usual**2))))


class Judge:
    """Of one assignment. All it depends on is fixed before the first batch is scored.

    Args:
        goals: those that are measured.
        claims: as few as say it all; see `strongest`.
        usual: by goal, the usual loss of every sample, in the order in which the assignment will see them.
        deviation: by goal, of one evaluation from the usual losses: a guess.
        alpha: probability, at most, with which a member of the front is beaten.
    """

    def __init__(
        self,
        goals: Sequence[Goal],
        claims: Sequence[Claim],
        usual: Mapping[str, Numbers],
        deviation: Mapping[str, float],
        alpha: float,
    ) -> None:
        self._goals, self._claims, self._usual, self._deviation = goals, claims, usual, deviation
        self._needed = math.log(1 / alpha)

    def beats(self, scores: Scores) -> bool:
        """Whether an assignment with these scores so far surely meets none of some claim."""
        ours = {g.name: losses(g, scores[g.name]) for g in self._goals if g.name in scores}
        if not self._claims or len(ours) < len(self._goals):
            return False
        if not all(found.min() >= 0 for found in ours.values()):  # a score beyond the best, or NaN
            return False
        capitals = [self._against(claim, ours) for claim in self._claims]
        together = np.logaddexp.reduce(np.broadcast_arrays(*capitals)) - math.log(len(capitals))
        return float(together.max()) >= self._needed

    def _against(self, claim: Claim, ours: Mapping[str, Numbers]) -> Numbers:
        """Logarithm of the capital after each sample: as much as in the goal where there is least of it."""
        capitals = [np.full(1, np.inf)]  # that of a claim on no goal, which nobody meets
        for name, mean in claim.items():
            usual = self._usual[name]
            drawn = ours[name] - usual[: len(ours[name])]
            capitals.append(log_capital(drawn, mean - usual.mean(), len(usual), -usual.max(), self._deviation[name]))
        return np.minimum.reduce(np.broadcast_arrays(*capitals))

    def estimated(self, done: Evaluation, scores: Scores) -> Evaluation:
        """`done`, which saw some batches, with what it would measure on all data.

        The batches seen may be easy or hard: the mean of the usual losses, plus that of the differences seen, does not
        depend on it. So who is beaten by a member also measures worse.
        """
        measures, stderr = dict(done.measures), dict(done.stderr)
        for goal in self._goals:
            usual, ours = self._usual[goal.name], losses(goal, scores[goal.name])
            differences = ours - usual[: len(ours)]
            loss = float(usual.mean() + differences.mean())
            left = 1 - len(ours) / len(usual)
            measures[goal.name] = 1.0 - loss if goal.maximise else loss
            stderr[goal.name] = float(differences.std() * math.sqrt(left / len(ours)))
        return replace(done, measures=measures, stderr=stderr)


def strongest(claims: Sequence[Claim]) -> list[Claim]:
    """Those that no other one implies."""
    found: list[Claim] = []
    for claim in sorted(claims, key=lambda c: (len(c), sum(c.values()))):
        if not any(all(name in claim and mean <= claim[name] for name, mean in f.items()) for f in found):
            found.append(claim)
    return found
