"""Learned quantization on Fashion-MNIST: ways of training a network of LeNet-5's size at few bits, beside each other.

Every row starts from the same float model of its seed and trains as long; the epoch of best validation accuracy
counts, and test accuracy is what the tables give. Weights are quantized, biases and values stay float32. What is
trained is kept under `--work`: what was interrupted goes on from there.
"""

from __future__ import annotations

import argparse
import os
import platform
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import mean
from typing import Any

from learning import levels
from learning.bench import BATCH, Bench, Outcome
from learning.common import RATE, Found, Row, accuracy, differences, figures, spread

from mpsearch.spec.schema import Recipe
from mpsearch.zoo.cache import folder as cache_folder
from mpsearch.zoo.fashion import rows as images

DOCS = Path(__file__).parents[2] / "docs" / "results" / "learned.md"
BITS = 1, 2, 3, 4
METHODS = "lsq", "sq", "srq", "rq"
OPTIONS: dict[str, dict[str, Any]] = {"rq": {"noise": 0.1, "last_temperature": 0.05}}


def floats(bench: Bench) -> Row:
    """The float model as it is, and trained on as long as the others."""
    recipe = Recipe(epochs=bench.epochs, learning_rate=RATE)
    still = Recipe(epochs=1, learning_rate=1e-12, optimizer="sgd")
    return {"float": bench.trained("float", None, still), "longer": bench.trained("longer", None, recipe)}


def uniform(method: str) -> Callable[[Bench], Row]:
    """All weights at 1 to 4 bits by `method`."""

    def row(bench: Bench) -> Row:
        options = OPTIONS.get(method, {})
        recipe = Recipe(epochs=bench.epochs, learning_rate=RATE, method=method, options=options)
        return {f"{method}{bits}": bench.trained(f"{method}{bits}", bits, recipe) for bits in BITS}

    return row


ROWS: dict[str, Callable[[Bench], Row]] = {
    "float": floats,
    **{method: uniform(method) for method in METHODS},
    "levels": levels.rows,
}


def main(arguments: list[str]) -> dict[str, Any]:
    asked = _asked(arguments)
    found: dict[str, list[Outcome]] = {}
    for seed in range(asked.seeds):
        bench = Bench(seed, asked.epochs, asked.work, asked.kept)
        for row in asked.rows:
            for name, outcome in ROWS[row](bench).items():
                if outcome is not None:
                    found.setdefault(name, []).append({**outcome, "seed": seed})
    lines = [*_head(asked), *_uniform_table(found), *levels.table(found, asked.epochs)]
    print("\n".join(lines))
    if asked.write:
        asked.write.write_text("\n".join(lines) + "\n")
    return {name: figures(outcomes) for name, outcomes in found.items()}


def _asked(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/reproduce learned", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=5, help="of each training")
    parser.add_argument("--rows", nargs="*", default=list(ROWS), choices=list(ROWS))
    parser.add_argument("--quick", action="store_true", help="one seed, 2 epochs")
    parser.add_argument("--kept", action="store_true", help="train nothing; show what earlier calls have trained")
    parser.add_argument("--work", type=Path, default=cache_folder() / "learned", help="what is trained is kept there")
    parser.add_argument("--write", type=Path, help=f"where to write the tables as Markdown, for example {DOCS.name}")
    parser.add_argument("--write-docs", dest="write", action="store_const", const=DOCS, help="into docs/results")
    asked = parser.parse_args(arguments)
    if asked.quick:
        asked.seeds, asked.epochs = 1, 2
    asked.work = asked.work / f"{asked.epochs}-epochs"
    return asked


def _head(asked: argparse.Namespace) -> list[str]:
    n = {split: len(images(split)[1]) for split in ("train", "validation", "test")}
    versions = ", ".join(f"{name} {version(name)}" for name in ("mpsearch", "torch", "numpy"))
    return [
        "# Learned quantization on Fashion-MNIST",
        "",
        f"Made by `scripts/reproduce learned --seeds {asked.seeds} --epochs {asked.epochs} --write-docs`: {versions}, "
        f"Python {platform.python_version()}, {platform.machine()}, {os.cpu_count()} cores, one used.",
        "",
        f"A network of LeNet-5's size (61,706 parameters); {n['train']:,} images train, {n['validation']:,} validate, "
        f"{n['test']:,} test. Weights of all layers are quantized, one scale per output channel (`int1` to `int4`); "
        "biases and all values stay float32. One float model per seed; rows start from it, unless one says otherwise, "
        f"and train {asked.epochs} epochs, {BATCH} images a step, Adam, the rate falling along a cosine to 1 %; "
        f"at first {RATE:g} for all, of this and 0.001 the better at 1 and 2 bits on validation images of seed 0, mean "
        "over methods. The options of `rq` come from there too: a noise of 0.1 steps, a last temperature of 0.05. The "
        "epoch of best validation accuracy counts, or what stood before the first. Test accuracy, %, mean and standard "
        "deviation over seeds; the standard error of one accuracy on so many images is about "
        f"{100 * (0.88 * 0.12 / n['test']) ** 0.5:.1f} points.",
    ]


def _uniform_table(found: Found) -> list[str]:
    lines = ["", "## All weights at one width", ""]
    lines += [
        f"| trained by | {' | '.join(f'{bits} bits' for bits in BITS)} | s a training |",
        f"|{' --- |' * (len(BITS) + 2)}",
    ]
    for method in METHODS:
        outcomes = [found.get(f"{method}{bits}", ()) for bits in BITS]
        if any(outcomes):
            seconds = mean(o["cpu_s"] for some in outcomes for o in some)
            cells = [_cell(some, len(found.get("float", some))) for some in outcomes]
            lines.append(f"| `{method}` | {' | '.join(cells)} | {seconds:.0f} |")
    texts = {"float": "The float model", "longer": "float, trained as long"}
    notes = [f"{texts[name]}: {accuracy(found[name])} %" for name in texts if name in found]
    sizes = [f"{mean(o['bytes'] for o in found[f'lsq{b}']) / 1024:.1f}" for b in BITS if f"lsq{b}" in found]
    held = f"; all parameters take {', '.join(sizes)} KiB (float {61706 * 4 / 1024:.0f})" if sizes else ""
    above = {
        m: [d for b in BITS for d in differences(found.get(f"{m}{b}", ()), found.get(f"lsq{b}", ()))] for m in METHODS
    }
    against = ", ".join(f"`{m}` {spread(points, sign='+')}" for m, points in above.items() if m != "lsq" and points)
    one = "One bit is plus or minus the mean magnitude: with `lsq` and `sq` fitted after each epoch, else learned."
    return [
        *lines,
        "",
        f"{'; '.join(notes)}{held}.",
        "",
        one,
        "",
        f"Points above `lsq` of the same seed and width, over all of these: {against}.",
    ]


def _cell(outcomes: Sequence[Outcome], seeds: int) -> str:
    """Accuracy, and of how many seeds where these are not all."""
    n = len(outcomes)
    return f"{accuracy(outcomes)}{f' ({n} of {seeds} seeds)' if 0 < n < seeds else ''}"
