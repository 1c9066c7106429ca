"""Problems of the network that learners are examined on, for drivers that train."""

from __future__ import annotations

import torch

from mpsearch.problem.build import assemble
from mpsearch.problem.objective import Objective
from mpsearch.testing.learners import SPLITS, Largest

QUIET = {"show_progress": False, "bare": True}


def build_with(kind=Largest):
    """For `run`: the problem of an objective."""

    def build(spec, weights):
        objective = kind()
        data = {str(split): list(objective.batches(split)) for split in SPLITS}
        return assemble(spec, objective, objective.model().eval(), data, torch.device("cpu"))

    return build


class Untrained(Largest):
    training_batches = Objective.training_batches


class Lossless(Largest):
    loss = Objective.loss
