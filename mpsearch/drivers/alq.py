"""Adaptive loss-aware quantization over all layers: pruning by loss decides how many bases each layer keeps.

Source: Qu et al., "Adaptive Loss-aware Quantization for Multi-bit Networks" (CVPR 2020, arXiv 1912.08883). Published is
that coordinates of all layers are pruned in one list, by what the loss would rise by, from many bases everywhere. Our
own: a training per target average, from the float weights each time, makes a front of it; and each layer ends at the
offered format with the least bits that holds the bases it was left. So the formats' average lies above the target, by
little where fractions close to each other are offered (`multibit0.4:g50`). The learner `alq` says how it trains.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

from mpsearch.core.assignment import Assignment
from mpsearch.core.errors import BadInput
from mpsearch.core.format import Format
from mpsearch.core.space import Choice
from mpsearch.drivers.base import Driver, Session
from mpsearch.learn.alq import SCHEME
from mpsearch.learn.alq import Alq as Learner
from mpsearch.spec.schema import Recipe

log = logging.getLogger("mpsearch.drivers")

STEPS, EPOCHS = 2000, (12, 194)
"""Of a training: about so many steps, within these numbers of epochs; the second one is published for LeNet-5."""
_TRAININGS = 8


class Alq(Driver):
    """One training per target, from the widest formats; what has no binary bases stays at its widest format.

    Ends when all targets were trained for.

    Args:
        averages: bases per weight of the layers that have some, below one too; None for widths that are offered, from
            the widest to the narrowest, as many as the budget allows, at most 8.
        epochs: of each training; None for as many as make 2,000 steps, from 12 to 194.
        learning_rate: of everything but bases.
        distill: share of the loss that is the divergence from the float model's outputs.
        rate: learning rate of bases.
        rounds: of training and pruning.
    """

    def __init__(
        self,
        averages: Sequence[float] | None = None,
        epochs: int | None = None,
        learning_rate: float = 1e-3,
        distill: float = 0.0,
        rate: float = 1e-3,
        rounds: int = 4,
    ) -> None:
        if averages is not None and not averages:
            raise BadInput("alq: averages is empty; give bases per weight, for example [0.5, 1, 2], or leave it out.")
        if epochs is not None and (isinstance(epochs, bool) or not isinstance(epochs, int) or epochs < 1):
            raise BadInput(f"alq: epochs is {epochs!r}; it is a whole number of at least 1.")
        for average in averages or ():
            Learner(rate=rate, rounds=rounds, average=average)  # refuses what is no option
        self._averages, self._epochs = averages, epochs
        self._options = {"rate": rate, "rounds": rounds}
        self._recipe = {"learning_rate": learning_rate, "distill": distill, "method": "alq"}
        try:
            Recipe.model_validate(self._recipe)
        except ValueError as error:
            raise BadInput(f"alq: {' '.join(str(error).split())}") from error

    def check(self, session: Session) -> None:
        session.problem.require_training()
        if session.space.choices and not any(map(_bases, session.space.choices)):
            raise BadInput(
                "alq: no site offers binary bases; add formats such as multibit0.5, multibit1:adaptive and multibit2 "
                "to the rule for weights, or choose another driver."
            )

    def search(self, session: Session) -> None:
        choices = session.space.choices
        if all(len(_bases(choice)) <= 1 for choice in choices):
            log.warning("alq has no bits to choose: no site offers several multibit formats; finetune trains such ones")
            return
        widest = [max(_bases(choice) or choice.options, key=lambda fmt: fmt.bits) for choice in choices]
        start = Assignment({site: fmt for c, fmt in zip(choices, widest, strict=True) for site in c.sites})
        epochs = self._epochs or min(EPOCHS[1], max(EPOCHS[0], math.ceil(STEPS / session.problem.steps_per_epoch())))
        for average in self._averages or _spread(choices, session.budget_left):
            options = {**self._options, "average": average}
            recipe = Recipe.model_validate({**self._recipe, "epochs": epochs, "options": options})
            session.learn(recipe, start, f"average {average:g}")


def _bases(choice: Choice) -> list[Format]:
    return [fmt for fmt in choice.options if fmt.scheme == SCHEME]


def _spread(choices: Sequence[Choice], budget: int | None) -> list[float]:
    """Widths that are offered, evenly by rank, the widest first."""
    widths = sorted({fmt.bits for choice in choices for fmt in _bases(choice)}, reverse=True)
    n = min(len(widths), _TRAININGS if budget is None else max(1, min(budget, _TRAININGS)))
    return [widths[round(i * (len(widths) - 1) / max(1, n - 1))] for i in range(n)]
