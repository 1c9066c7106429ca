"""A trained model made ready to be evaluated at any assignment."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor

from mpsearch.core.assignment import Assignment
from mpsearch.core.errors import BadInput
from mpsearch.core.evaluation import Evaluation, Failure
from mpsearch.core.goal import Goal
from mpsearch.core.site import Site
from mpsearch.core.space import Space
from mpsearch.cost.model import CostModel
from mpsearch.cost.terms import Cost
from mpsearch.graph.memo import nbytes
from mpsearch.graph.runner import GraphRunner, Runner
from mpsearch.problem.base import GoesOn, Problem, Watch
from mpsearch.problem.finetune import finetune, restored, unwatched
from mpsearch.problem.inputs import Inputs
from mpsearch.problem.model_probe import ModelProbe
from mpsearch.problem.objective import Batch, Objective
from mpsearch.problem.trained import Trained
from mpsearch.problem.trainer import Trainer, refuse_to_train
from mpsearch.spec.schema import Recipe

CHUNK_SECONDS = 2.0
"""How long the batches of a split may take together before results are handed on: progress, and what a kill loses."""


CHUNK_BYTES = 256 << 20
"""How much the outputs of a chunk may hold."""


class ModelProblem(Problem):
    """Runs the model of an objective at assignments, and adds up their costs.

    Args:
        objective: scores outputs.
        runner: runs the model at an assignment.
        space: the choices.
        sites: every site, those without a choice too.
        cost_model: every measure that follows from an assignment by arithmetic.
        batches: by split: `validation` and `test`.
        weights: float weights by name, for the fingerprint and for keeping.
        limits: what this way of running the model cannot do, one sentence each; empty for the exported graph.
        make_trainer: exports the model for training; None where it cannot be exported.
        inputs: makes batches ready for the graph; None where there is none.
    """

    def __init__(
        self,
        objective: Objective,
        runner: Runner,
        space: Space,
        sites: Sequence[Site],
        cost_model: CostModel,
        batches: Mapping[str, Sequence[Batch]],
        weights: Mapping[str, Tensor],
        limits: Sequence[str] = (),
        make_trainer: Callable[[], Trainer] | None = None,
        inputs: Inputs | None = None,
    ) -> None:
        self.objective = objective
        self.runner = runner
        self.space = space
        self.sites = tuple(sites)
        self.cost_model = cost_model
        self.status, self.notes = cost_model.status, cost_model.notes
        self.limits = tuple(limits)
        self.threads = torch.get_num_threads()
        self.keeps_weights = objective.trains
        self.fingerprint = fingerprint(weights)
        self._batches = {split: list(found) for split, found in batches.items()}
        self.batch_sizes = tuple(batch.n for batch in self._batches.get("validation", ()))
        self._weights = dict(weights)
        self._chunk = 1
        self._probe: ModelProbe | None = None
        self._make_trainer = make_trainer
        self.inputs = inputs
        self._trainer: Trainer | None = None

    @property
    def forwards(self) -> float:
        return self.runner.forwards

    @property
    def work(self) -> Sequence[float]:
        return self.runner.work([choice.sites for choice in self.space.choices])

    def save_weights(self, path: Path) -> None:
        save_file({name: tensor.contiguous().cpu() for name, tensor in self._weights.items()}, path)

    def forget(self) -> None:
        self.runner.forget()

    def costs(self, assignment: Assignment) -> dict[str, float]:
        return self.cost_model.at(assignment)

    def cost(self, name: str) -> Cost | None:
        return self.cost_model.cost(name, self.space)

    def shares(self, name: str, assignment: Assignment) -> dict[str, float]:
        return self.cost_model.shares(name, assignment)

    def arena_bytes(self, assignment: Assignment) -> int | None:
        planned = self.cost_model.arena_bytes
        return None if planned is None else planned(assignment)

    def probe(self) -> ModelProbe:
        if not isinstance(self.runner, GraphRunner):
            raise BadInput(
                "the driver looks into the exported model, and this one runs by module hooks (see the limits of the "
                "run); search with driver frontier or sensitivity."
            )
        if self._probe is None:
            self._probe = ModelProbe(self.objective, self.runner, self.space, self._batches["calibration"])
        return self._probe

    def require_training(self) -> None:
        if self._make_trainer is None:
            raise BadInput(
                "training needs the exported model, and this one runs by module hooks; leave out finetune, and drivers "
                "that train."
            )
        refuse_to_train(self.objective)

    def steps_per_epoch(self) -> int:
        return sum(1 for _ in self.trainer.training_batches(0))

    @property
    def trainer(self) -> Trainer:
        """The model ready to be trained, exported when first asked for. Raises `BadInput` where it cannot be."""
        if self._trainer is None:
            self.require_training()
            assert self._make_trainer is not None
            self._trainer = self._make_trainer()
        return self._trainer

    def finetune(
        self,
        assignment: Assignment,
        recipe: Recipe,
        seed: int,
        goal: Goal | None = None,
        watch: Watch = unwatched,
        checkpoint: Path | None = None,
    ) -> Trained:
        score, trainer = None if goal is None else goal.loss, self.trainer
        assert isinstance(self.runner, GraphRunner)
        start = self.runner.corrected_biases(assignment)
        return finetune(trainer, assignment, recipe, seed, score, watch, start, checkpoint)

    def evaluate_finetuned(self, weights: Path, split: str = "validation") -> Evaluation:
        return self.evaluate_trained(Trained.load(weights), split)

    def evaluate_trained(self, trained: Trained, split: str = "validation") -> Evaluation:
        """Score `trained`: the interpreter's biases are not corrected, for training did that."""
        began = time.perf_counter()
        attempt = _Attempt(trained.assignment)
        try:
            outputs = self.trainer.outputs(split, restored(self.trainer, trained))
            attempt.outputs = dict(enumerate(outputs))
        except (ArithmeticError, LookupError, MemoryError, RuntimeError, TypeError, ValueError) as error:
            attempt.error = error
        done = self._score(attempt, split, time.perf_counter() - began)
        return replace(done, recipe=trained.recipe.digest)

    def evaluate(self, assignments: Sequence[Assignment], split: str = "validation") -> Iterator[Evaluation]:
        batches = self._batches[split]
        todo = iter(assignments)
        # with one batch every assignment is finished before the next is begun; with several, a chunk of them goes
        # through batch by batch, so that the cache holds the values of one batch at a time
        while now := list(islice(todo, 1 if len(batches) == 1 else self._chunk)):
            began = time.perf_counter()
            attempts = [_Attempt(assignment) for assignment in now]
            self._run(attempts, split, self.runner.order(split, len(batches)))
            share = (time.perf_counter() - began) / len(now)
            if len(batches) > 1:
                held = max(1, nbytes(list(attempts[0].outputs.values())))
                self._chunk = max(1, min(64, round(CHUNK_SECONDS / max(share, 1e-9)), CHUNK_BYTES // held))
            for attempt in attempts:
                yield self._score(attempt, split, share)

    def race(self, assignment: Assignment, order: Sequence[int], goes_on: GoesOn) -> Evaluation:
        began = time.perf_counter()
        attempt = _Attempt(assignment)
        for batch in order:
            self._run([attempt], "validation", [batch])
            if attempt.error is not None or not goes_on(self._scores(attempt, "validation")):
                break
        return self._score(attempt, "validation", time.perf_counter() - began)

    def _run(self, attempts: Sequence[_Attempt], split: str, order: Sequence[int]) -> None:
        for batch in order:
            for attempt in attempts:
                if attempt.error is not None:
                    continue
                try:
                    attempt.outputs[batch] = self.runner.run(attempt.assignment, split, batch)
                except (ArithmeticError, LookupError, MemoryError, RuntimeError, TypeError, ValueError) as error:
                    attempt.error = error

    def _scores(self, attempt: _Attempt, split: str) -> dict[str, NDArray[np.float64]]:
        """Of the batches that `attempt` ran, in that order; empty where the metric cannot score batches one by one."""
        parts: dict[str, list[NDArray[np.float64]]] = {}
        for number, output in attempt.outputs.items():
            batch = self._batches[split][number]
            if number not in attempt.scores:
                try:
                    found = self.objective.metric([output], [batch.target])
                    attempt.scores[number] = {
                        name: score.double().cpu().numpy()
                        for name, score in found.items()
                        if isinstance(score, Tensor) and score.shape == (batch.n,)
                    }
                except Exception:  # it may need all batches at once, or fail on all of them: `_score` tells
                    attempt.scores[number] = {}
            for name, values in attempt.scores[number].items():
                parts.setdefault(name, []).append(values)
        return {name: np.concatenate(v) for name, v in parts.items() if len(v) == len(attempt.outputs)}

    def _score(self, attempt: _Attempt, split: str, seconds: float) -> Evaluation:
        began = time.perf_counter()
        batches = self._batches[split]
        assignment = attempt.assignment
        seen = range(len(batches)) if attempt.error is not None else sorted(attempt.outputs)
        n = sum(batches[i].n for i in seen)
        measures: dict[str, float] = {}
        stderr: dict[str, float] = {}
        failure = None
        try:
            if attempt.error is not None:
                raise attempt.error
            measures.update(self.costs(assignment))
            scores = self.objective.metric([attempt.outputs[i] for i in seen], [batches[i].target for i in seen])
            if not isinstance(scores, Mapping):
                raise TypeError(f"metric gave {scores!r:.40}; it gives a dict of numbers or tensors by name")
            for name, score in scores.items():
                measures[name], error = _mean(score)
                if error is not None:
                    stderr[name] = error
        except MemoryError as error:
            failure = Failure("memory", str(error) or "out of memory")
        except Exception as error:  # the objective is the user's code: whatever it raises is this evaluation's failure
            failure = Failure("error", f"{type(error).__name__}: {error}")
        bad = [name for name, value in measures.items() if not math.isfinite(value)]
        if failure is None and bad:
            failure = Failure("nan", f"{', '.join(bad)} is not a finite number")
        if failure is not None:
            measures, stderr = {}, {}
        seconds += time.perf_counter() - began
        share = len(seen) / len(batches)
        return Evaluation(assignment, measures, stderr, split, share, n, seconds=seconds, failure=failure)


@dataclass
class _Attempt:
    """An assignment on its way through the batches: outputs and scores by number of the batch, as they were run."""

    assignment: Assignment
    outputs: dict[int, Any] = field(default_factory=dict)
    scores: dict[int, dict[str, NDArray[np.float64]]] = field(default_factory=dict)
    error: Exception | None = None


def _mean(score: float | Tensor) -> tuple[float, float | None]:
    """A measure and, where it is a mean over samples, its standard error."""
    if not isinstance(score, Tensor) or score.ndim == 0:
        return float(score), None
    values = score.double()
    n = values.numel()
    return values.mean().item(), values.std().item() / math.sqrt(n) if n > 1 else None


def fingerprint(state: Mapping[str, Tensor]) -> str:
    """SHA-256 of the float weights: names, types, shapes and bytes."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
