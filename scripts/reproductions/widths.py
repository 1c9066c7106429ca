"""Few bits at a greater width beside more bits: a perceptron on digits, finetuned at each.

Weights and hidden values have so many bits, the image 8. Every width has float weights of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from mpsearch.core.assignment import Assignment
from mpsearch.core.format import Format
from mpsearch.core.goal import Goal
from mpsearch.engine.variants import build_variants
from mpsearch.problem.build import build_problem
from mpsearch.problem.model import ModelProblem
from mpsearch.spec.load import load_spec
from mpsearch.spec.schema import Recipe
from mpsearch.zoo.cache import folder as cache_folder

DOCS = Path(__file__).resolve().parents[2] / "docs/results/widths.md"
WIDTHS, BITS = (1.0, 1.5, 2.0, 4.0), (1, 2)
RECIPE = Recipe(epochs=40, learning_rate=3e-3)
GOAL = Goal("accuracy", maximise=True)
SPLITS = ("validation", "test")
Point = Mapping[str, Any]


def main(arguments: list[str]) -> dict[str, Any]:
    parser = argparse.ArgumentParser(prog="scripts/reproduce widths", description=__doc__)
    parser.add_argument("--work", type=Path, default=cache_folder() / "widths", help="what is done is kept there")
    parser.add_argument("--write-docs", action="store_true", help=f"into docs/results/{DOCS.name}")
    asked = parser.parse_args(arguments)
    torch.set_num_threads(1)
    asked.work.mkdir(parents=True, exist_ok=True)
    formats = ", ".join(f"int{bits}" for bits in BITS)
    offered = [f"sites[0].formats=[{formats}]", f"sites[1].formats=[{formats}, int8]"]
    spec = load_spec("digits_widths.yaml", [f"variants.values={list(WIDTHS)}", *offered])
    problems = build_variants(spec, build_problem)
    found = [_floats(width, problem) for width, problem in zip(WIDTHS, problems.values(), strict=True)]
    for bits in BITS:
        for width, problem in zip(WIDTHS, problems.values(), strict=True):
            found.append(_trained(asked, width, bits, problem))
    page = _page(asked, found)
    print("\n".join(page))
    if asked.write_docs:
        DOCS.write_text("\n".join(page) + "\n", encoding="utf-8")
    return {f"{one['bits']} bits, width {one['width']:g}": round(one["test"], 4) for one in found}


def _floats(width: float, problem: ModelProblem) -> Point:
    scores = {split: next(problem.evaluate([Assignment()], split)).measures["accuracy"] for split in SPLITS}
    return {"width": width, "bits": 32, "fitted": scores["test"], **scores, **problem.costs(Assignment())}


def _trained(asked: argparse.Namespace, width: float, bits: int, problem: ModelProblem) -> Point:
    """Accuracies before and after a training; read from a file where that was done before."""
    few, eight = Format("int", bits), Format("int", 8)
    sites = problem.space.choice_of
    assignment = Assignment({name: eight if name == problem.sites[0].name else few for name in sites})
    path = asked.work / f"{width:g}-{bits}-{RECIPE.digest}-{problem.fingerprint[:16]}.json"
    if not path.is_file():
        fitted = next(problem.evaluate([assignment], "test")).measures["accuracy"]
        trained = problem.finetune(assignment, RECIPE, 0, GOAL)
        scores = {split: problem.evaluate_trained(trained, split).measures["accuracy"] for split in SPLITS}
        path.write_text(json.dumps({"fitted": fitted, **scores}, indent=1))
    known = json.loads(path.read_text())
    return {"width": width, "bits": bits, **known, **problem.costs(assignment)}


def _page(asked: argparse.Namespace, found: Sequence[Point]) -> list[str]:
    versions = ", ".join(f"{name} {version(name)}" for name in ("mpsearch", "torch"))
    columns = ("bits", "width", "memory_bytes", "bops", "test, fitted", "test, finetuned", "validation, finetuned")
    lines = [
        "# Bits or width",
        "",
        f"Made by `scripts/reproduce widths --write-docs`: {versions}, "
        f"Python {platform.python_version()}, {platform.machine()}, {os.cpu_count()} cores, one used.",
        "",
        "A perceptron on scikit-learn's 8x8 digits, 64-32-32-10 at width 1: accuracy in percent of 450 images each "
        "(one is 0.22; the standard error at 97 is 0.8). Finetuned by learned step sizes, "
        f"{RECIPE.epochs} epochs at {RECIPE.learning_rate:g}, not tuned; nothing in that is random, so there is one "
        "training each. Weights and hidden values have so many bits, the image 8. Each width has float weights of its "
        "own, from one training. `bops` are those of a batch.",
        "",
        f"| {' | '.join(columns)} |",
        f"|{' --- |' * len(columns)}",
    ]
    for one in found:
        scores = [f"{100 * one[split]:.2f}" if one["bits"] < 32 else "" for split in ("test", "validation")]
        costs = [f"{one['memory_bytes']:,.0f}", f"{one['bops'] / 1e6:.1f} M"]
        cells = [str(one["bits"]), f"{one['width']:g}", *costs, f"{100 * one['fitted']:.2f}", *scores]
        lines.append(f"| {' | '.join(cells)} |")
    return lines
