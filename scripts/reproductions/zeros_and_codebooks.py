"""Pruned weights and codebooks, finetuned: what training them gives over fitting them, on networks of digits.

Zeros: is it better to prune while a network trains at few bits (Hawks et al., arXiv 2102.11289), or to prune while it
trains at 8 bits and then quantize? Layers have the zeros that global magnitude pruning gives them. Codebooks: members
of a front of product quantization, and the same with their centroids trained (Stock et al., arXiv 1907.05686).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from importlib.metadata import version
from pathlib import Path
from statistics import mean, stdev
from tempfile import TemporaryDirectory
from typing import Any

import torch

from mpsearch.core.assignment import Assignment
from mpsearch.core.evaluation import Evaluation
from mpsearch.core.format import Format
from mpsearch.core.goal import Goal
from mpsearch.engine.run import run
from mpsearch.problem.build import build_problem
from mpsearch.problem.model import ModelProblem
from mpsearch.problem.trained import Trained
from mpsearch.quant.pattern import Pattern, joint_shares
from mpsearch.spec.load import load_spec
from mpsearch.spec.schema import Recipe, Spec
from mpsearch.spec.source import dump
from mpsearch.zoo.cache import folder as cache_folder

DOCS = Path(__file__).resolve().parents[2] / "docs/results/zeros_and_codebooks.md"
CASES, MOST_ZEROS = ((3, 0.8), (3, 0.9)), 0.99
"""Bits of pruned weights and share of zeros of all of them; the most that one layer may have."""
ZEROS = Recipe(epochs=12, learning_rate=2e-3, method="prune", distill=0.5)
CODEBOOKS = ("pq0.5:d8", "pq0.75:d8", "pq1:d4", "pq1:d8", "pq1.5", "pq2")
TAUGHT = Recipe(epochs=10, learning_rate=2e-3, method="pq", distill=1.0)
LOSS = Goal("log_loss")
Measures = dict[str, float]
Found = Mapping[str, Sequence[Measures]]
"""By what was done, the measures of each training."""


def main(arguments: list[str]) -> dict[str, Any]:
    parser = argparse.ArgumentParser(prog="scripts/reproduce zeros_and_codebooks", description=__doc__)
    parser.add_argument("--seeds", type=int, default=3, help="of the trainings; the float network is one")
    parser.add_argument("--work", type=Path, default=cache_folder() / "zeros_and_codebooks", help="what is kept")
    parser.add_argument("--write-docs", action="store_true", help=f"into docs/results/{DOCS.name}")
    asked = parser.parse_args(arguments)
    torch.set_num_threads(1)
    asked.work.mkdir(parents=True, exist_ok=True)
    kept = Kept(asked.work / "figures.json")
    zeros, codebooks = _zeros(kept, range(asked.seeds)), _codebooks(kept, range(asked.seeds))
    page = _page(asked.seeds, zeros, codebooks)
    print("\n".join(page))
    if asked.write_docs:
        DOCS.write_text("\n".join(page) + "\n", encoding="utf-8")
    return {name: {k: mean(m[k] for m in every) for k in every[0]} for name, every in {**zeros, **codebooks}.items()}


class Kept:
    """Figures by name, as a file: what is there is not worked out again."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}

    def get(self, name: str, made: Callable[[], Any]) -> Any:
        if name not in self._known:
            self._known[name] = made()
            self._path.write_text(json.dumps(self._known, indent=1))
        return self._known[name]


def _problem(model: str, weights: Sequence[str], goals: Sequence[str]) -> tuple[Spec, ModelProblem]:
    """The network, with values in 8 bits, and its spec."""
    space = {
        "schema": "mpsearch.space/1",
        "name": model.replace("_", "-"),
        "objective": {"use": "image_classification", "options": {"model": model}},
        "sites": [
            {"match": {"role": "weight"}, "formats": list(weights)},
            {"match": {"role": "activation"}, "formats": ["int8"]},
        ],
        "goals": [{"name": name} for name in goals],
        "driver": {"use": "frontier", "budget": 60},
    }
    with TemporaryDirectory() as folder:
        path = Path(folder, "space.yaml")
        path.write_text(dump(space))
        spec = load_spec(path)
        return spec, build_problem(spec)


def _measures(found: Evaluation) -> Measures:
    assert found.is_full, found.failure
    return {name: found.measures[name] for name in ("accuracy", "log_loss", "memory_bytes", "bops")}


def _with(problem: ModelProblem, weights: Mapping[str, str]) -> Assignment:
    own = {site.name for site in problem.sites} & set(problem.space.choice_of)
    return Assignment({name: Format.parse(weights.get(name, "int8")) for name in own})


def _finetuned(problem: ModelProblem, assignment: Assignment, recipe: Recipe, seed: int) -> Trained:
    """Without dropout a seed changes nothing but the order of the images, which is drawn anew for each."""
    objective = problem.trainer.objective
    in_order = type(objective).training_batches
    setattr(objective, "training_batches", lambda epoch: in_order(objective, epoch + 1000 * seed))  # noqa: B010
    return problem.finetune(assignment, recipe, seed, LOSS)


def _zeros(kept: Kept, seeds: Sequence[int]) -> dict[str, list[Measures]]:
    _, problem = _problem("cnn", ["int3", "pruned3"], ["log_loss", "bops"])
    trainer = problem.trainer
    names = [site.name for site in problem.sites if site.role.is_parameter and site.name in problem.space.choice_of]
    tensors = {name: trainer.program.tensors[name] for name in names}
    learned = ZEROS.model_copy(update={"method": "lsq"})

    def trained(assignment: Assignment, recipe: Recipe, seed: int, then: Assignment | None = None) -> Measures:
        done = _finetuned(problem, assignment, recipe, seed)
        done = done if then is None else replace(done, assignment=then, recipe=learned)
        return _measures(problem.evaluate_trained(done, "test"))

    def tested(assignment: Assignment) -> Measures:
        return _measures(next(problem.evaluate([assignment], "test")))

    found = {"float": [kept.get("float", lambda: tested(Assignment({})))]}
    for bits, share in CASES:
        dense, what = _with(problem, dict.fromkeys(names, f"int{bits}")), f"{bits} bits, no zeros, trained"
        found[what] = [kept.get(f"{what} {s}", lambda a=dense, s=s: trained(a, learned, s)) for s in seeds]
        shares = {name: min(part, MOST_ZEROS) for name, part in joint_shares(tensors, share).items()}

        def pruned(bits: int, shares: Mapping[str, float] = shares) -> Assignment:
            words = {name: f":{Pattern(part).word}" for name, part in shares.items() if part}
            return _with(problem, {n: f"pruned{bits}{words[n]}" if n in words else f"int{bits}" for n in names})

        few, many = pruned(bits), pruned(8)
        title = f"{share:.0%} zeros, {bits} bits"
        found[f"{title}, not trained"] = [kept.get(title, lambda a=few: tested(a))]
        ways = {
            "pruned while trained at 8 bits, then quantized": (many, few),
            f"pruned while trained at {bits} bits": (few, None),
        }
        for way, (first, then) in ways.items():
            name = f"{title}, {way}"
            found[name] = [
                kept.get(f"{name} {seed}", lambda a=first, b=then, s=seed: trained(a, ZEROS, s, b)) for seed in seeds
            ]
    return found


def _codebooks(kept: Kept, seeds: Sequence[int]) -> dict[str, list[Measures]]:
    front = kept.get("front", _front)
    found: dict[str, list[Measures]] = {"float, codebooks": [front["float"]["test"]]}
    for title in list(front)[1:]:
        member = Assignment.parse(front[title]["formats"])

        def trained(seed: int, member: Assignment = member) -> Measures:
            problem = _of_codebooks()[1]
            return _measures(problem.evaluate_trained(_finetuned(problem, member, TAUGHT, seed), "test"))

        found[f"{title}, fitted"] = [front[title]["test"]]
        name = f"{title}, trained"
        found[name] = [kept.get(f"{name} {seed}", lambda s=seed, t=trained: t(s)) for seed in seeds]
    return found


@cache
def _of_codebooks() -> tuple[Spec, ModelProblem]:
    return _problem("digits_resnet10", CODEBOOKS, ["log_loss", "memory_bytes"])


def _front() -> dict[str, Any]:
    """Float, the member of least memory, and the one a third of the way along the front."""
    spec, problem = _of_codebooks()
    with TemporaryDirectory() as folder:
        result = run(spec, Path(folder, "run"), build=lambda *_: problem, show_progress=False, bare=True)
    members = sorted(result.front.members, key=lambda e: e.measures["memory_bytes"])
    members = [member for member in members if member.key != result.baseline.key]
    chosen = {"float": result.baseline, "front member of the least memory": members[0]}
    chosen["front member of more memory"] = members[round(0.34 * (len(members) - 1))]
    return {
        name: {"formats": e.assignment.texts(), "test": _measures(result.test[e.key])} for name, e in chosen.items()
    }


def _page(seeds: int, zeros: Found, codebooks: Found) -> list[str]:
    versions = ", ".join(f"{name} {version(name)}" for name in ("mpsearch", "torch", "numpy"))
    return [
        "# Zeros and codebooks, finetuned",
        "",
        f"Made by `scripts/reproduce zeros_and_codebooks --seeds {seeds} --write-docs`: {versions}, Python "
        f"{platform.python_version()}, {platform.machine()}, {os.cpu_count()} cores, one used. Accuracy and log-loss "
        "of the test split, mean and standard deviation over trainings of one float network, which differ in the "
        "order of the images; values in 8 bits. Epochs are chosen by the log-loss of the validation split.",
        "",
        "## Zeros",
        "",
        f"The 10-layer ResNet on 8 x 8 digits. {ZEROS.epochs} epochs, Adam at {ZEROS.learning_rate:g}, half of the "
        "loss from the float model, zeros rising over the first half. Each layer has the zeros that global magnitude "
        f"pruning of the float network gives it, at most {MOST_ZEROS:.0%}.",
        "",
        *_table(zeros),
        "",
        "## Codebooks",
        "",
        "The 10-layer ResNet on 16 x 16 digits, searched with `frontier` among "
        f"{', '.join(f'`{text}`' for text in CODEBOOKS)} for each weight; two members of its front, as the search "
        f"fitted them and after {TAUGHT.epochs} epochs (Adam at {TAUGHT.learning_rate:g}, all of the loss from the "
        "float model).",
        "",
        *_table(codebooks),
    ]


def _table(found: Found) -> list[str]:
    lines = ["| weights | test accuracy, % | log-loss | KiB | bit operations, % of float |", f"|{' --- |' * 5}"]
    most = max(every[0]["bops"] for every in found.values())
    for name, every in found.items():
        cells = [_spread([100 * m["accuracy"] for m in every], 2), _spread([m["log_loss"] for m in every], 3)]
        cells += [f"{every[0]['memory_bytes'] / 1024:.1f}", f"{100 * every[0]['bops'] / most:.2f}"]
        lines.append(f"| {name.removesuffix(', codebooks')} | {' | '.join(cells)} |")
    return lines


def _spread(numbers: Sequence[float], digits: int) -> str:
    return f"{mean(numbers):.{digits}f}" + (f" ± {stdev(numbers):.{digits}f}" if len(numbers) > 1 else "")
