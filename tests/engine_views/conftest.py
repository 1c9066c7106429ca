"""A made-up search with a known shape: quality falls smoothly with the bits of twelve sites, bytes are counted."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mpsearch.core.assignment import Assignment
from mpsearch.core.evaluation import Evaluation, Failure
from mpsearch.core.format import Format
from mpsearch.core.front import Front, Scale
from mpsearch.core.goal import Goal, Limit
from mpsearch.core.space import Choice, Space
from mpsearch.engine.result import RunResult
from mpsearch.spec.schema import Spec

LAYERS = {
    "stem": 144,
    "block1.conv1": 2304,
    "block1.conv2": 2304,
    "block2.conv1": 4608,
    "block2.conv2": 9216,
    "head": 640,
}
OPTIONS = tuple(map(Format.parse, ("int2", "int4", "int8")))
WEIGHTS = tuple(Choice(f"{layer}.weight", (f"{layer}.weight",), OPTIONS) for layer in LAYERS)
VALUES = tuple(Choice(f"{layer}:in", (f"{layer}:in",), OPTIONS[1:]) for layer in LAYERS)
SPACE = Space(WEIGHTS + VALUES)
GOALS = (Goal("accuracy", True), Goal("memory_bytes"), Goal("activation_sum_bytes"))


def score(assignment: Assignment, split: str = "validation", n: int = 1000) -> Evaluation:
    """Accuracy with a stable made-up error, bytes by counting."""
    rng = np.random.default_rng(int(assignment.key, 16) % 2**32 + (split == "test"))
    weights = {layer: assignment.at(f"{layer}.weight").bits for layer in LAYERS}
    values = {layer: assignment.at(f"{layer}:in").bits for layer in LAYERS}
    harm = sum(0.6 * 2.0 ** (-1.5 * b) for b in weights.values()) + sum(
        0.25 * 2.0 ** (-1.2 * b) for b in values.values()
    )
    accuracy = float(np.clip(0.975 - 0.35 * harm + rng.normal(0, 0.002), 0.1, 1.0))
    measures = {
        "accuracy": accuracy,
        "log_loss": 0.1 + harm,
        "memory_bytes": float(sum(size * weights[layer] // 8 for layer, size in LAYERS.items()) + 480),
        "activation_sum_bytes": float(sum(1024 * bits // 8 for bits in values.values())),
        "weight_bits": sum(size * weights[layer] for layer, size in LAYERS.items()) / sum(LAYERS.values()),
    }
    stderr = {"accuracy": float(np.sqrt(accuracy * (1 - accuracy) / n))}
    return Evaluation(assignment, measures, stderr, split, n=n, asked_by="optuna", seconds=0.05)


def make(folder: Path, evaluations: int = 120, goals: int = 2, limit: str | None = None, seed: int = 0,
         status: str = "complete", tested: bool = True, sites: bool = True) -> RunResult:  # fmt: skip
    """A result whose front is really computed from its evaluations."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    chosen = list(GOALS[:goals])
    if limit:
        chosen[0] = replace(chosen[0], limit=Limit.parse(limit))
    spec = Spec.model_validate({
        "schema": "mpsearch.space/1", "name": "made-up", "objective": {"use": "classification"},
        "sites": [{"match": "*.weight", "formats": [str(f) for f in OPTIONS]},
                  {"match": "*:in", "formats": [str(f) for f in OPTIONS[1:]]}],
        "goals": [{"name": g.name, "maximise": g.maximise, "limit": limit if g is chosen[0] else None} for g in chosen],
        "driver": {"use": "random", "budget": max(evaluations, 1)}, "seed": seed,
    })  # fmt: skip
    (folder / "spec.yaml").write_text("schema: mpsearch.space/1\nname: made-up\n", encoding="utf-8")
    if sites:
        entries = [
            {"name": f"{k}.weight", "role": "weight", "shape": [n], "choice": f"{k}.weight"} for k, n in LAYERS.items()
        ]
        entries += [{"name": f"{k}:in", "role": "activation", "shape": [8, 128], "choice": f"{k}:in"} for k in LAYERS]
        (folder / "sites.json").write_text(json.dumps(entries), encoding="utf-8")
    baseline = replace(score(Assignment()), asked_by="baseline")
    uniform = {name: replace(score(a), asked_by="uniform") for name, a in SPACE.uniform().items()}
    done = {e.key: e for e in [baseline, *uniform.values()]}
    while len(done) < evaluations:
        mixed = score(SPACE.sample(rng))
        done.setdefault(mixed.key, mixed)
    broken = SPACE.decode([0] * 12)
    rows = [
        replace(e, measures={}, stderr={}, failure=Failure("nan", "log_loss is NaN")) if e.assignment == broken else e
        for e in done.values()
    ]
    front = Front.of(rows, chosen, baseline.measures)
    controls = {name: e for name, e in uniform.items() if e.assignment != broken}
    scale = Scale.of(rows, [baseline, *controls.values()], chosen)
    test = (
        {e.key: score(e.assignment, "test", 500) for e in [*front.members, baseline, *controls.values()]}
        if tested
        else {}
    )
    return RunResult(
        folder,
        spec,
        "infeasible" if not front.members else status,
        tuple(rows),
        baseline,
        controls,
        front,
        scale,
        test,
        3,
        41.5,
        12.0,
    )


@pytest.fixture
def make_result() -> Callable[..., RunResult]:
    return make
