"""Adaptive loss-aware quantization on Fashion-MNIST: a network of LeNet-5's size below one bit per weight.

After Qu et al. (CVPR 2020, arXiv 1912.08883), whose LeNet-5 on MNIST has 0.40 bits per weight and loses nothing; here
the harder images, fewer of them and fewer epochs. Coordinates of all layers are pruned in one list to an average;
biases and values stay float32. What is trained is kept under `--work`: what was interrupted goes on from there.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import mean
from typing import Any

from learning.bench import BATCH, GOAL, Bench, Outcome
from learning.common import RATE, Found, accuracy, figures

from mpsearch.core.assignment import Assignment
from mpsearch.learn.alq import Alq
from mpsearch.problem.finetune import restored, unwatched
from mpsearch.quant.bases import BasesGrid, stored_bits
from mpsearch.spec.schema import Recipe, Spec
from mpsearch.zoo.cache import folder as cache_folder
from mpsearch.zoo.fashion import rows as images

DOCS = Path(__file__).parents[2] / "docs" / "results" / "alq.md"
AVERAGES = 0.8, 0.5
OFFERED = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.25, 1.5, 2.0, 2.5, 3.0, 4.0)
WORDS = (
    ("[03].weight", "kernel:adaptive:a16"),
    ("7.weight", "g200:adaptive:a16"),
    ("*.weight", "adaptive:a16"),
)
"""Groups as published for LeNet-5: kernels of convolutions, halves of the rows of the largest linear layer, rows."""


def main(arguments: list[str]) -> dict[str, Any]:
    asked = _asked(arguments)
    benches = [[Bench(seed, asked.epochs, asked.work, asked.kept) for _ in range(2)] for seed in range(asked.seeds)]
    for plain, bases in benches:
        bases.spec = _with_bases(plain.spec)
    found: dict[str, list[Outcome]] = {}
    for name, train in _rows(asked).items():
        for plain, bases in benches:
            outcome = train(plain, bases)
            if outcome is not None:
                found.setdefault(name, []).append(outcome)
    lines = [*_head(asked), *_table(found)]
    print("\n".join(lines))
    if asked.write:
        asked.write.write_text("\n".join(lines) + "\n")
    lost = {name: round(_lost(outcomes, found["float"]), 2) for name, outcomes in found.items()}
    return {name: {**figures(outcomes), "lost": lost[name]} for name, outcomes in found.items()}


def _rows(asked: argparse.Namespace) -> dict[str, Callable[[Bench, Bench], Outcome | None]]:
    """Of the table, by name: how one seed is trained, by a bench with integers or by one with bases."""
    still = Recipe(epochs=1, learning_rate=1e-12, optimizer="sgd")
    taught = Recipe(epochs=asked.epochs, learning_rate=RATE, distill=1.0)

    def pruned(average: float, distill: float) -> Callable[[Bench, Bench], Outcome | None]:
        return lambda plain, bases: _pruned(bases, average, distill, asked)

    return {
        "float": lambda plain, bases: plain.trained("float", None, still),
        **{f"alq{average:g}": pruned(average, 1.0) for average in asked.averages},
        "lsq1": lambda plain, bases: plain.trained("lsq1", 1, taught),
        f"alq{asked.averages[0]:g} by labels": pruned(asked.averages[0], 0.0),
    }


def _with_bases(spec: Spec) -> Spec:
    """Every weight may have any of the averages; two bytes for a coordinate."""
    rules = [{"match": match, "formats": [f"multibit{bits:g}:{words}" for bits in OFFERED]} for match, words in WORDS]
    fields = spec.model_dump(mode="json", by_alias=True, exclude_unset=True) | {"sites": rules}
    return Spec.model_validate(fields)


def _pruned(bench: Bench, average: float, distill: float, asked: argparse.Namespace) -> Outcome | None:
    """Trained from the widest formats to `average`; what it takes as it is stored, and as its formats say."""
    options = {"average": average}
    recipe = Recipe(epochs=bench.epochs, distill=distill, method="alq", options=options)
    name = f"alq{average:g}" + ("" if distill else "-labels")
    facts = f"{bench.seed} {recipe.digest} {BATCH} {WORDS} {OFFERED}"
    subject = hashlib.sha256(facts.encode()).hexdigest()[:16]
    known = bench.kept(name, subject)
    if known is not None or asked.kept:
        return known
    choices, began_s = bench.problem.space.choices, time.process_time()
    start = Assignment({site: max(c.options, key=lambda fmt: fmt.bits) for c in choices for site in c.sites})
    checkpoint = asked.work / f"{bench.seed}-{name}.pt"
    trained = bench.problem.finetune(start, recipe, bench.seed, GOAL, unwatched, checkpoint)
    seconds = time.process_time() - began_s
    learner = restored(bench.problem.trainer, trained)
    assert isinstance(learner, Alq)
    shapes = {site.name: site.shape for site in bench.problem.sites}
    grids = {name: (grid, shapes[name]) for name, grid in learner.grids().items()}
    weights = sum(int(grid.groups.sizes().sum()) for grid, _ in grids.values())
    scores = {split: bench.problem.evaluate_trained(trained, split).measures for split in ("validation", "test")}
    rest = sum(t.numel() for name, t in trained.tensors.items() if "/" not in name and name not in grids)
    outcome = {
        **{split: measures["accuracy"] for split, measures in scores.items()},
        "bits": scores["test"]["weight_bits"],
        "bytes": 4 * rest + sum(grid.nbits(shape) for grid, shape in grids.values()) // 8,
        "formula_bytes": 4 * rest + sum(map(_formula_bits, (grid for grid, _ in grids.values()))) / 8,
        "bases": sum(grid.code_bits(shape) for grid, shape in grids.values()) / weights,
        "epoch": trained.best,
        "cpu_s": seconds,
        "formats": trained.assignment.texts(),
    }
    print(f"seed {bench.seed}, {name}: {outcome['test']:.4f}, {seconds:.0f} s of one core", flush=True)
    checkpoint.unlink(missing_ok=True)
    return bench.keep(name, subject, outcome)


def _formula_bits(grid: BasesGrid) -> int:
    """By the formula of the source, with as many bits for a coordinate and a group's number of bases as are stored."""
    return stored_bits(grid.counts.tolist(), grid.groups.sizes().tolist(), grid.coordinate_bits, grid.most)


def _asked(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/reproduce alq", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=20, help="of each training")
    parser.add_argument("--averages", type=float, nargs="*", default=list(AVERAGES), help="bases per weight")
    parser.add_argument("--kept", action="store_true", help="train nothing; show what earlier calls have trained")
    parser.add_argument("--work", type=Path, default=cache_folder() / "alq", help="what is trained is kept there")
    parser.add_argument("--write", type=Path, help=f"where to write the table as Markdown, for example {DOCS.name}")
    parser.add_argument("--write-docs", dest="write", action="store_const", const=DOCS, help="into docs/results")
    asked = parser.parse_args(arguments)
    asked.work = asked.work / f"{asked.epochs}-epochs"
    return asked


def _head(asked: argparse.Namespace) -> list[str]:
    n = {split: len(images(split)[1]) for split in ("train", "validation", "test")}
    versions = ", ".join(f"{name} {version(name)}" for name in ("mpsearch", "torch", "numpy"))
    averages = " ".join(f"{average:g}" for average in asked.averages)
    return [
        "# Adaptive loss-aware quantization on Fashion-MNIST",
        "",
        f"Made by `scripts/reproduce alq --seeds {asked.seeds} --epochs {asked.epochs} --averages {averages} "
        f"--write-docs`: {versions}, Python {platform.python_version()}, {platform.machine()}, {os.cpu_count()} cores, "
        "one used.",
        "",
        f"A network of LeNet-5's size (61,706 parameters); {n['train']:,} images train, {n['validation']:,} validate, "
        f"{n['test']:,} test. Weights of all layers are sums of binary bases, in groups as published for LeNet-5 "
        "(kernels of convolutions, halves of the rows of the largest linear layer, else rows), at most six in a group "
        "at first, with coordinates of 16 bits; all coordinates are pruned in one list to an average over the network. "
        "Biases and all values stay float32. One float model per seed; every row starts from it and trains "
        f"{asked.epochs} epochs, {BATCH} images a step, on the outputs of the float model (`distill: 1`) unless it "
        "says by labels. Distillation was chosen after a look at accuracies of seed 0, test images included. The epoch "
        "of best validation accuracy counts, of those after pruning. Test accuracy, %, mean and standard deviation "
        "over seeds; the standard error of one accuracy on so many images is about "
        f"{100 * (0.88 * 0.12 / n['test']) ** 0.5:.1f} points.",
        "",
        "*Bases per weight* is what the paper calls the average bit width: elements of all bases over weights. Formats "
        "are averages that the space offers, the least that holds what a layer was left. *Stored* is what the trained "
        "weights take packed, numbers of bases, coordinates and float32 biases included; *by the formula* is the sum "
        "over groups of I (n + 16), of I bases and n weights (32 bits for a coordinate in the source's code), 2 or 3 "
        "bits per group that say how many bases it has, and the biases.",
    ]


TITLES = {"float": "float", "lsq1": "`lsq`, `int1`"}


def _table(found: Found) -> list[str]:
    columns = "", "bases per weight", "bits of the formats", "test accuracy", "points lost", "stored, KiB"
    columns += "by the formula, KiB", "s a training"
    lines = ["", f"| {' | '.join(columns)} |", f"|{' --- |' * len(columns)}"]
    for name, outcomes in found.items():
        cells = [TITLES.get(name, f"`alq` to {name.removeprefix('alq')}")]
        cells += [_mean(outcomes, "bases", 3), _mean(outcomes, "bits", 3), accuracy(outcomes)]
        cells += [f"{_lost(outcomes, found['float']):.2f}", _mean(outcomes, "bytes", 2, 1024)]
        cells += [_mean(outcomes, "formula_bytes", 2, 1024), _mean(outcomes, "cpu_s", 0)]
        lines.append(f"| {' | '.join(cells)} |")
    for name, outcomes in found.items():
        if "bases" in outcomes[0]:
            formats = ", ".join(
                f"`{site}` {fmt.removeprefix('multibit')}" for site, fmt in outcomes[0]["formats"].items()
            )
            lines += ["", f"Formats of {TITLES.get(name, name)}, seed 0: {formats}."]
    return lines


def _mean(outcomes: Sequence[Outcome], key: str, digits: int, per: float = 1) -> str:
    known = [o[key] / per for o in outcomes if key in o]
    return f"{mean(known):.{digits}f}" if known else ""


def _lost(outcomes: Sequence[Outcome], floats: Sequence[Outcome]) -> float:
    """Points of test accuracy, mean over seeds."""
    return mean(100 * (before["test"] - o["test"]) for before, o in zip(floats, outcomes, strict=False))
