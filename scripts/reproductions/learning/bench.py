"""A float model of one seed and its trainings; what an earlier sitting trained is read from its folder."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from mpsearch.core.assignment import Assignment
from mpsearch.core.format import Format
from mpsearch.core.goal import Goal
from mpsearch.problem.build import assemble, make_objective
from mpsearch.problem.finetune import finetune, unwatched
from mpsearch.problem.model import ModelProblem
from mpsearch.spec.find import find_space
from mpsearch.spec.load import load_spec
from mpsearch.spec.schema import Recipe
from mpsearch.zoo.cache import write_atomically
from mpsearch.zoo.fashion import lenet5

GOAL = Goal("accuracy", True)
BATCH = 128
SPLITS = "calibration", "validation", "test"

Outcome = dict[str, Any]
"""Of one training: accuracies by split, weight bits, bytes, the best epoch, seconds of one core."""


class Bench:
    """Trainings of one seed.

    Args:
        seed: of the float model, and of what is trained from it.
        epochs: of each training.
        work: folder of what is done.
        only_kept: train nothing.
    """

    def __init__(self, seed: int, epochs: int, work: Path, only_kept: bool) -> None:
        self.seed, self.epochs = seed, epochs
        self._work, self._only_kept = work, only_kept
        spec = load_spec(find_space("fashion_lenet5"))
        options = {**spec.objective.options, "training_batch_size": BATCH}
        objective = spec.objective.model_copy(update={"options": options})
        self.spec = spec.model_copy(update={"objective": objective, "seed": seed})

    @cached_property
    def problem(self) -> ModelProblem:
        """Exported when it is first needed, weights in formats, values in float32."""
        objective = make_objective(self.spec)
        batches = {split: list(objective.batches(split)) for split in SPLITS}
        return assemble(self.spec, objective, self.model, batches, torch.device("cpu"))

    @cached_property
    def model(self) -> nn.Module:
        """The float model."""
        return lenet5(self.seed)

    @cached_property
    def untrained(self) -> Mapping[str, Tensor]:
        """Weights that nothing has trained, of another seed."""
        fresh = copy.deepcopy(self.model)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1000 + self.seed)
            for layer in fresh:
                if isinstance(layer, nn.Conv2d | nn.Linear):
                    layer.reset_parameters()
        return fresh.state_dict()

    def uniform(self, bits: int | None) -> Assignment:
        """All weights at `bits`; None for the float model."""
        if bits is None:
            return Assignment()
        return Assignment({name: Format.parse(f"int{bits}") for name in self.problem.space.choice_of})

    def kept(self, name: str, subject: str) -> Outcome | None:
        """What an earlier sitting found under `name`, of the same subject."""
        path = self._path(name)
        if not path.is_file():
            return None
        known: Outcome = json.loads(path.read_text())
        return known if known["subject"] == subject else None

    def keep(self, name: str, subject: str, outcome: Outcome) -> Outcome:
        """Write it, for a later sitting."""
        known = {"subject": subject, **outcome}
        write_atomically(self._path(name), json.dumps(known, indent=1).encode())
        return known

    def trained(
        self,
        name: str,
        assignment: Assignment | int | None,
        recipe: Recipe,
        start: Mapping[str, Tensor] = MappingProxyType({}),
    ) -> Outcome | None:
        """Finetune `assignment`, or all weights at so many bits; None where only what is kept counts, and nothing is.

        The epoch of best validation accuracy counts, the one before training too.
        """
        what = assignment.key if isinstance(assignment, Assignment) else assignment
        told = json.dumps(recipe.model_dump(exclude_defaults=True), sort_keys=True)
        subject = f"{self.seed} {what} {told} {BATCH} {bool(start)}"
        known = self.kept(name, subject)
        if known is not None or self._only_kept:
            return known
        formats = assignment if isinstance(assignment, Assignment) else self.uniform(assignment)
        trainer, began_s = self.problem.trainer, time.process_time()
        found = finetune(trainer, formats, recipe, self.seed, GOAL.loss, unwatched, start)
        seconds = time.process_time() - began_s
        scores = {split: self.problem.evaluate_trained(found, split).measures for split in ("validation", "test")}
        outcome = {
            **{split: measures["accuracy"] for split, measures in scores.items()},
            "bits": scores["test"]["weight_bits"],
            "bytes": scores["test"]["memory_bytes"],
            "epoch": found.best,
            "cpu_s": seconds,
            "formats": found.assignment.texts(),
        }
        print(f"seed {self.seed}, {name}: {outcome['test']:.4f}, {seconds:.0f} s of one core", flush=True)
        return self.keep(name, subject, outcome)

    def _path(self, name: str) -> Path:
        return self._work / f"{self.seed}-{name}.json"
