"""DropBits-style search: bits are learned by gradient, one training for each penalty on what they cost.

Each training starts from the float weights at the widest options of all choices and ends at an assignment with weights
of its own (`mpsearch.learn.gates`, which says what of the papers could not be verified). Penalties rise in equal
ratios, so the trainings together are a front: the first ones keep bits, the last ones give them away.
"""

from __future__ import annotations

import logging
import math

from mpsearch.core.assignment import Assignment
from mpsearch.core.errors import BadInput
from mpsearch.core.format import Format
from mpsearch.drivers.base import Driver, Session
from mpsearch.learn.gates import HARDEN, NESTINGS, WARM_UP, Gates, ladder
from mpsearch.spec.schema import Recipe

log = logging.getLogger("mpsearch.drivers")

STEPS, EPOCHS = 1500, (20, 400)
"""Of a training: about so many steps, within these numbers of epochs; on a whole graph an epoch is one step."""
TRAVEL = 10.0
"""How far phi of a gate may go at most while gates are learned. It starts at 2.5, and is closed below 0."""


class DropBits(Driver):
    """Trains once for each of several penalties, as many as the budget allows.

    Args:
        cost: what is penalised, by name: any cost that follows from the formats; None for the first such goal.
        least, most: penalties at the ends: what is added to the loss at the cost of the widest options.
        trainings: how many penalties at most.
        epochs: of each training; None for as many as make 1,500 steps, from 20 to 400.
        learning_rate: of weights and steps.
        gate_rate: how many times as fast gates are learned; None for what lets them close in the steps there are.
        distill: share of the loss that is the divergence from the float model's outputs.
        nesting: what one bit less does to a grid: `resolution` doubles its step, `range` halves its range.
    """

    def __init__(
        self,
        cost: str | None = None,
        least: float = 0.1,
        most: float = 100.0,
        trainings: int = 6,
        epochs: int | None = None,
        learning_rate: float = 1e-3,
        gate_rate: float | None = None,
        distill: float = 0.0,
        nesting: str = NESTINGS[0],
    ) -> None:
        for name, penalty in (("least", least), ("most", most)):
            Gates(penalty, nesting=nesting, gate_rate=1.0 if gate_rate is None else gate_rate)  # refuses bad ones
            if not penalty > 0 or penalty < least:
                raise BadInput(f"dropbits: {name} is {penalty!r}; penalties are above 0, and most is at least least.")
        for name, count, fewest in (("trainings", trainings, 1), ("epochs", epochs, 4)):
            if count is not None and (isinstance(count, bool) or not isinstance(count, int) or count < fewest):
                raise BadInput(f"dropbits: {name} is {count!r}; it is a whole number of at least {fewest}.")
        self._cost, self._ends, self._trainings, self._epochs = cost, (float(least), float(most)), trainings, epochs
        self._nesting, self._gate_rate = nesting, gate_rate
        self._recipe = {"learning_rate": learning_rate, "distill": distill, "method": "gates"}
        try:
            self._rate = Recipe.model_validate(self._recipe).learning_rate
        except ValueError as error:
            raise BadInput(f"dropbits: {' '.join(str(error).split())}") from error

    def check(self, session: Session) -> None:
        session.problem.require_training()
        self._penalised(session)
        for choice in session.space.choices:
            learned = ladder(choice)
            left = [str(fmt) for fmt in choice.options if fmt not in learned]
            if left:
                kept = ", ".join(map(str, learned))
                log.warning("dropbits learns %s between %s; left out: %s", choice.name, kept, ", ".join(left))

    def search(self, session: Session) -> None:
        ladders = [ladder(choice) for choice in session.space.choices]
        if all(len(options) == 1 for options in ladders):
            log.warning("dropbits has no bits to learn: every choice has one option; finetune trains such a space")
            return
        start = _at(session, [options[-1] for options in ladders])
        lowest = _at(session, [options[0] for options in ladders])
        cost = self._penalised(session)
        ends = {
            session.problem.costs(lowest)[cost]: ("lowest", "lower least"),
            session.problem.costs(start)[cost]: ("highest", "raise most"),
        }
        steps = session.problem.steps_per_epoch()
        epochs = self._epochs or _epochs(steps)
        gate_rate = self._gate_rate or TRAVEL / (self._rate * (HARDEN - WARM_UP) * epochs * steps)
        for penalty in self._penalties(session.budget_left):
            options = {"nesting": self._nesting, "gate_rate": gate_rate, "cost": cost, "penalty": penalty}
            recipe = Recipe.model_validate({**self._recipe, "epochs": epochs, "options": options})
            done = session.learn(recipe, start, f"penalty {penalty:.3g}")
            if done.failure is None and done.measures[cost] in ends:
                end, advice = ends[done.measures[cost]]
                log.warning("dropbits: penalty %.3g drives every choice to its %s format; %s", penalty, end, advice)

    def _penalised(self, session: Session) -> str:
        """Name of the cost. Raises `BadInput` where there is none."""
        names = [self._cost] if self._cost else [goal.name for goal in session.goals if not goal.maximise]
        found = next((name for name in names if session.problem.cost(name) is not None), None)
        if found is None:
            raise BadInput(
                f"dropbits penalises a cost that follows from the formats, but {', '.join(names) or 'no goal'} does "
                "not; add one to the goals (weight_bits, memory_bytes, bops, latency_s of an accelerator), or name it "
                "as the option cost."
            )
        return found

    def _penalties(self, budget: int | None) -> list[float]:
        """From least to most in equal ratios."""
        least, most = self._ends
        n = self._trainings if budget is None else min(self._trainings, budget)
        if n == 1:
            return [math.sqrt(least * most)]
        return [least * (most / least) ** (i / (n - 1)) for i in range(n)]


def _at(session: Session, formats: list[Format]) -> Assignment:
    pairs = zip(session.space.choices, formats, strict=True)
    return Assignment({site: fmt for choice, fmt in pairs for site in choice.sites})


def _epochs(steps: int) -> int:
    fewest, most = EPOCHS
    return min(most, max(fewest, math.ceil(STEPS / steps)))
