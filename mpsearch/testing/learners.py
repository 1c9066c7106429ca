"""The exam that every learner sits. A new one is examined by one class:

@pytest.mark.parametrize(("method", "options"), [("mine", {}), ("mine", {"stages": 3})])
@pytest.mark.parametrize("formats", [("int2", "int4"), ("mine2", "fp32")])
class TestMine(LearnerExam):
    pass

`formats` are those of weights and of values. A method that chooses formats may go down to those in `beside`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mpsearch.core.assignment import Assignment
from mpsearch.core.format import Format
from mpsearch.core.goal import Goal
from mpsearch.deploy.packed import load_packed, write_packed
from mpsearch.problem.base import Step
from mpsearch.problem.build import assemble
from mpsearch.problem.finetune import restored, unwatched
from mpsearch.problem.frozen import frozen_trained
from mpsearch.problem.model import ModelProblem
from mpsearch.problem.objective import Batch, Objective, Scores, Split
from mpsearch.problem.trained import Trained
from mpsearch.spec.schema import Recipe, Spec

_EPOCHS, _SIZE, _CLASSES = 4, 8, 3
_ROWS: dict[Split, int] = {"calibration": 30, "validation": 60, "test": 60}


SPLITS: tuple[Split, ...] = ("calibration", "validation", "test")


class Largest(Objective):
    """Which of the first three of eight inputs is largest."""

    def model(self) -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(_SIZE, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, _CLASSES))

    def batches(self, split: Split) -> Iterable[Batch]:
        return [_batch(_ROWS[split], seed) for seed in range(len(split), len(split) + 2)]

    def training_batches(self, epoch: int) -> Iterable[Batch]:
        return (_batch(30, 100 + 3 * epoch + i) for i in range(3))

    def loss(self, output: Tensor, batch: Batch) -> Tensor:
        return F.cross_entropy(output, batch.target)

    def metric(self, outputs: Iterable[Tensor], targets: Iterable[Tensor]) -> Scores:
        pairs = zip(outputs, targets, strict=True)
        return {"log_loss": torch.cat([F.cross_entropy(o, t, reduction="none") for o, t in pairs])}


def _batch(n: int, seed: int) -> Batch:
    x = torch.randn(n, _SIZE, generator=torch.Generator().manual_seed(seed))
    return Batch((x,), x[:, :_CLASSES].argmax(1), n)


@cache
def problem(weights: str, values: str, beside: tuple[str, ...] = ("fp32",)) -> ModelProblem:
    """Of `Largest`, every site with the choice between a format and those `beside` it."""

    def offered(text: str) -> list[str]:
        return [text, *(other for other in beside if other != text)] + ["int8"] * (text == "fp32")

    sites = [
        {"match": {"role": "weight"}, "formats": offered(weights)},
        {"match": {"role": "activation"}, "formats": offered(values)},
    ]
    spec = Spec.model_validate(
        {"name": "exam", "objective": {"use": "largest"}, "sites": sites, "goals": [{"name": "log_loss"}]}
    )
    objective = Largest()
    model = objective.model().eval()
    data = {str(split): list(objective.batches(split)) for split in SPLITS}
    return assemble(spec, objective, model, data, torch.device("cpu"))


def assigned(weights: str, values: str) -> Assignment:
    """`weights` at all parameters, `values` at all values."""
    sites = [site for site in problem(weights, values).sites if site.name in problem(weights, values).space.choice_of]
    return Assignment({s.name: Format.parse(weights if s.role.is_parameter else values) for s in sites})


class LearnerExam:
    """Every test takes `method` (a name of the registry), its `options` and `formats`."""

    learning_rate: ClassVar[float] = 0.02
    beside: ClassVar[tuple[str, ...]] = ("fp32",)

    def recipe(self, method: str, options: Mapping[str, Any]) -> Recipe:
        """Of all tests."""
        rate = self.learning_rate
        return Recipe(epochs=_EPOCHS, learning_rate=rate, method=method, options=dict(options))

    def test_trains_to_the_same_weights_and_restores_bit_for_bit(
        self, method: str, options: Mapping[str, Any], formats: tuple[str, str], tmp_path: Path
    ) -> None:
        of, assignment, recipe = problem(*formats, self.beside), assigned(*formats), self.recipe(method, options)
        one, two = (of.finetune(assignment, recipe, 3, Goal("log_loss")) for _ in range(2))
        assert one.history == two.history
        assert one.best > 0, "training must lower the validation loss"
        assert all(torch.equal(one.tensors[name], two.tensors[name]) for name in one.tensors)
        done = of.evaluate_trained(one)
        assert done.measures["log_loss"] == pytest.approx(one.history[one.best].score, abs=1e-12)
        one.save(tmp_path / "weights")
        assert of.evaluate_finetuned(tmp_path / "weights").measures == done.measures

    @pytest.mark.parametrize("after", [1, _EPOCHS - 1])
    def test_goes_on_from_a_checkpoint_to_the_same_weights(
        self, method: str, options: Mapping[str, Any], formats: tuple[str, str], after: int, tmp_path: Path
    ) -> None:
        def dies(step: Step) -> None:
            if (step.epoch, step.step) == (after + 1, 2):
                raise KeyboardInterrupt

        of, assignment, recipe = problem(*formats, self.beside), assigned(*formats), self.recipe(method, options)
        whole, file = of.finetune(assignment, recipe, 3), tmp_path / "checkpoint.pt"
        seen: list[Step] = []
        with pytest.raises(KeyboardInterrupt):
            of.finetune(assignment, recipe, 3, None, dies, file)
        resumed = of.finetune(assignment, recipe, 3, None, seen.append, file)
        assert seen[0].epoch == after + 1
        assert resumed.history == whole.history
        assert all(torch.equal(resumed.tensors[name], whole.tensors[name]) for name in whole.tensors)
        other = of.finetune(assignment, recipe, 4, None, unwatched, file)
        assert len(other.history) == _EPOCHS + 1, "a checkpoint of another seed is not gone on from"

    def test_computes_the_same_each_time_once_it_is_trained_and_from_a_packed_file(
        self, method: str, options: Mapping[str, Any], formats: tuple[str, str], tmp_path: Path
    ) -> None:
        of = problem(*formats, self.beside)
        trained: Trained = of.finetune(assigned(*formats), self.recipe(method, options), 3)
        learner = restored(of.trainer, trained)
        one, two = (list(of.trainer.outputs("validation", learner)) for _ in range(2))
        assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
        again = list(of.trainer.outputs("validation", restored(of.trainer, trained)))
        assert all(torch.equal(a, b) for a, b in zip(one, again, strict=True))
        sizes = write_packed(tmp_path, frozen_trained(of, trained), {})
        assert sizes.tensor_bytes == of.costs(trained.assignment)["memory_bytes"]
        module = load_packed(tmp_path)
        stored = [module(*batch.args) for batch in of.objective.batches("validation")]
        assert all(torch.equal(a, b) for a, b in zip(one, stored, strict=True))
