"""What finetuning costs: an epoch of ResNet-20 on 2,000 images with learned steps, in float epochs of the same model.

One thread. Float epochs are those of the model as it is (BatchNorm frozen, as in finetuning) in the faster of its two
memory formats. Steps of all are taken in turns within this run, the optimizer included; ratios are of sums of medians.
ResNet-20 has random weights and images: only time counts.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mpsearch.core.assignment import Assignment
from mpsearch.core.format import Format
from mpsearch.graph.memo import keep_freed_memory
from mpsearch.problem.build import assemble
from mpsearch.problem.finetune import placed, refit
from mpsearch.problem.objective import Batch, Objective, Scores, Split
from mpsearch.spec.schema import Spec
from mpsearch.zoo.resnet import ResNet20

IMAGES, BATCH = 2000, 100


def main(arguments: list[str]) -> dict[str, Any]:
    parser = argparse.ArgumentParser(prog="scripts/bench finetune", description=__doc__)
    parser.add_argument("--turns", type=int, default=12, help="steps of each kind that are timed")
    parser.add_argument("--formats", nargs="+", default=["int4", "int8"])
    asked = parser.parse_args(arguments)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    keep_freed_memory()  # as every run does; the float model gains from it too
    model = ResNet20().eval()
    batch = _batch(BATCH)
    steps: dict[str, Callable[[], object]] = {}
    for layout in (torch.contiguous_format, torch.channels_last):
        steps[f"float {layout}"] = _plain(copy.deepcopy(model).to(memory_format=layout), batch, layout)
    objective = _Images(model)
    for text in asked.formats:
        steps[text] = _trained(objective, batch, text)
    times: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(asked.turns + 2):
        for name, step in steps.items():
            began = time.perf_counter()
            step()
            if turn >= 2:  # the first ones find caches empty
                times[name].append(time.perf_counter() - began)
    median = {name: statistics.median(found) for name, found in times.items()}
    plain = min(value for name, value in median.items() if name.startswith("float"))
    return {
        "float_epoch_s": round(plain * IMAGES / BATCH, 2),
        **{f"{text}_over_float": round(median[text] / plain, 3) for text in asked.formats},
    }


class _Images(Objective):
    """A model, and images of noise."""

    def __init__(self, model: nn.Module) -> None:
        self.net = model

    def model(self) -> nn.Module:
        return self.net

    def batches(self, split: Split) -> Sequence[Batch]:
        return [_batch(32)]

    def training_batches(self, epoch: int) -> Iterable[Batch]:
        return [_batch(BATCH)]

    def loss(self, output: Tensor, batch: Batch) -> Tensor:
        return F.cross_entropy(output, batch.target)

    def metric(self, outputs: Iterable[Tensor], targets: Iterable[Tensor]) -> Scores:
        return {"loss": sum(float(F.cross_entropy(o, t)) for o, t in zip(outputs, targets, strict=True))}


def _batch(n: int) -> Batch:
    x = torch.randn(n, 3, 32, 32, generator=torch.Generator().manual_seed(n))
    return Batch((x,), x.flatten(1)[:, :10].argmax(1), n)


def _plain(model: nn.Module, batch: Batch, layout: torch.memory_format) -> Callable[[], object]:
    optimizer = torch.optim.Adam(model.parameters(), 1e-4)
    x = batch.args[0].contiguous(memory_format=layout)

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(x), batch.target).backward()
        optimizer.step()

    return step


def _trained(objective: _Images, batch: Batch, text: str) -> Callable[[], object]:
    """A step of finetuning with all weights and values in the format `text`, steps learned."""
    goals = [{"name": "loss"}, {"name": "memory_bytes"}]
    sites = [{"match": "*", "formats": [text, "fp32"]}]
    spec = Spec.model_validate({"name": "bench", "objective": {"use": "bench"}, "sites": sites, "goals": goals})
    data = {split: list(objective.batches(split)) for split in ("calibration", "validation", "test")}
    problem = assemble(spec, objective, objective.net, data, torch.device("cpu"))
    trainer = problem.trainer
    assignment = Assignment({site: Format.parse(text) for choice in problem.space.choices for site in choice.sites})
    learner = placed(trainer, assignment, "lsq", {})
    refit(trainer, learner)
    optimizer = torch.optim.Adam([*trainer.trainable.parameters.values(), *learner.parameters()], 1e-4)

    def step() -> None:
        learner.training = True
        loss = trainer.loss(batch, learner)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        learner.stepped()

    return step
