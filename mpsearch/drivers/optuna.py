"""Optuna as a driver: one categorical parameter per choice, one objective per goal.

Optuna sees option *indices*, so a format may be renamed without changing a study, and *losses*, so nothing here knows
which goals are maximised. The study lives in memory: the ledger keeps the results, and a resumed run asks the same
questions again from the seed (`add_trial` would not bring back the random state of a sampler).

Source: Akiba et al., "Optuna: A Next-generation Hyperparameter Optimization Framework", KDD 2019. NSGA-II: Deb et al.,
IEEE Trans. Evol. Comput. 6(2), 2002. NSGA-III: Deb and Jain, IEEE Trans. Evol. Comput. 18(4), 2014.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import numpy as np
import optuna
from optuna import samplers
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.trial import Trial, TrialState

from mpsearch.core.assignment import Assignment
from mpsearch.core.errors import BadInput, nearest
from mpsearch.core.evaluation import Evaluation
from mpsearch.drivers.base import AskTell, Session

optuna.logging.set_verbosity(optuna.logging.ERROR)

SAMPLERS: dict[str, Callable[[int, int], samplers.BaseSampler]] = {
    "nsga2": lambda seed, population: samplers.NSGAIISampler(seed=seed, population_size=population),
    "nsga3": lambda seed, population: samplers.NSGAIIISampler(seed=seed, population_size=population),
    "tpe": lambda seed, _: samplers.TPESampler(seed=seed),
    "gp": lambda seed, _: samplers.GPSampler(seed=seed),
    "qmc": lambda seed, _: samplers.QMCSampler(seed=seed, scramble=True),
    "random": lambda seed, _: samplers.RandomSampler(seed=seed),
}
"""From seed and population to a sampler. TPE and GP model the losses (one costly ask each), the others are cheap."""

_WALK = 100
_GENETIC = ("nsga2", "nsga3")
_BATCH = {"tpe": 1, "gp": 1, "qmc": 16, "random": 16}


class Optuna(AskTell):
    """Optuna's samplers nsga2, nsga3, tpe, gp, qmc and random, by ask and tell.

    The controls that were evaluated first are its first questions.

    Samplers repeat themselves as they converge (TPE asked 26 distinct points of 81 in 60 asks). Repeats are free, and
    after each one an assignment near it that was not asked yet is next, so that the budget is spent. What a limit on a
    cost forbids is a failed trial at once, without an evaluation, and the sampler is asked again.

    Args:
        sampler: a key of `SAMPLERS`. `nsga2` for cheap evaluations or many choices, `tpe` where an evaluation takes
            seconds, `gp` only for few choices and very slow evaluations.
        batch: assignments asked before any is told; None for a generation (nsga), 1 (tpe, gp) or 16 (qmc, random).
        population: size of a generation of nsga2 and nsga3; None for an eighth of the budget, between 10 and 50.
    """

    def __init__(self, sampler: str = "nsga2", batch: int | None = None, population: int | None = None) -> None:
        if sampler not in SAMPLERS:
            raise BadInput(f"unknown sampler {sampler!r}.{nearest(sampler, SAMPLERS)}")
        if batch is not None and batch < 1:
            raise BadInput(f"batch={batch} is not possible; at least 1 assignment is asked at once.")
        if population is not None and sampler not in _GENETIC:
            raise BadInput(f"population={population} belongs to {' and '.join(_GENETIC)}, not to {sampler!r}.")
        if population is not None and population < 2:
            raise BadInput(f"population={population} is not possible; a generation has at least 2 members.")
        self._sampler, self._batch, self._population = sampler, batch, population

    def start(self, session: Session) -> None:
        self._space, self._goals, self._forbids = session.space, session.goals, session.forbids
        self._seen: set[tuple[int, ...]] = set()
        self._rng = np.random.default_rng(session.seed)
        left = session.budget_left
        population = self._population or (30 if left is None else min(50, max(10, left // 8)))
        self.batch = self._batch or _BATCH.get(self._sampler, population)
        self._options: dict[str, BaseDistribution] = {
            c.name: CategoricalDistribution(range(len(c.options))) for c in self._space.choices
        }
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)  # NSGA-III, since 3.2
            sampler = SAMPLERS[self._sampler](session.seed, population)
        self._study = optuna.create_study(directions=["minimize"] * len(self._goals), sampler=sampler)
        for known in session.evaluations:
            if known.failure is None and known.assignment in self._space:
                self._enqueue(self._space.encode(known.assignment))

    def ask(self, n: int) -> list[Assignment]:
        self._pending: list[Trial] = []
        asked: list[Assignment] = []
        refused = 0
        while len(asked) < n:
            trial = self._study.ask(self._options)
            indices = tuple(trial.params[name] for name in self._options)
            if indices in self._seen:
                self._enqueue(self._unseen_near(indices))
            self._seen.add(indices)
            assignment = self._space.decode(indices)
            if refused < _WALK and self._forbids(assignment):
                self._study.tell(trial, state=TrialState.FAIL)
                refused += 1
                continue
            refused = 0
            self._pending.append(trial)
            asked.append(assignment)
        return asked

    def tell(self, evaluations: Sequence[Evaluation]) -> None:
        for trial, done in zip(self._pending, evaluations, strict=True):
            if done.failure is None:
                self._study.tell(trial, [goal.loss(done.measures) for goal in self._goals])
            else:
                self._study.tell(trial, state=TrialState.FAIL)

    def _enqueue(self, indices: Sequence[int]) -> None:
        self._study.enqueue_trial(dict(zip(self._options, indices, strict=True)))

    def _unseen_near(self, indices: Sequence[int]) -> list[int]:
        """Where a walk from `indices`, one choice at a time, first leaves what was asked; its end if it never does."""
        walk = list(indices)
        free = [i for i, choice in enumerate(self._space.choices) if len(choice.options) > 1]
        for _ in range(_WALK if free else 0):
            i = int(self._rng.choice(free))
            walk[i] = int(self._rng.integers(len(self._space.choices[i].options)))
            if tuple(walk) not in self._seen:
                break
        return walk
