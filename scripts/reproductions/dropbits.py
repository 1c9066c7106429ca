"""Learned bits on digits: penalties against average bits and accuracy, beside fixed bits and a search without training.

A 10-layer ResNet on digits of 16x16 pixels, weights of 2, 3 or 4 bits, values of 8. For each seed: `dropbits`, one
training per penalty; every weight at 2 bits, trained as long with learned steps; `frontier` without training, and the
best of its front trained as long. Everything is chosen on validation images; the 541 test images are only reported.

Runs are kept under `--out`: what was interrupted goes on from them.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from mpsearch.core.evaluation import Evaluation
from mpsearch.core.format import Format
from mpsearch.drivers.base import Driver, Session
from mpsearch.engine.folder import Folder
from mpsearch.engine.result import RunResult
from mpsearch.engine.run import resume, run
from mpsearch.problem.build import build_problem
from mpsearch.problem.model import ModelProblem
from mpsearch.spec import registry
from mpsearch.spec.load import load_spec
from mpsearch.spec.schema import Recipe

ROOT = Path(__file__).resolve().parents[2]
SPACE = ROOT / "search_spaces/digits_resnet10.yaml"
EPOCHS, LEAST, MOST, TRAININGS, GATE_RATE = 10, 1.0, 300.0, 4, 80.0
MOST_BITS = 2.1
Row = Mapping[str, float]


class Fixed(Driver):
    """Every weight at `bits`, with learned steps, trained once."""

    def __init__(self, bits: int = 2, epochs: int = EPOCHS) -> None:
        self._bits, self._recipe = bits, Recipe(epochs=epochs)

    def search(self, session: Session) -> None:
        wanted = Format("int", self._bits)
        codes = [c.options.index(wanted) if wanted in c.options else 0 for c in session.space.choices]
        session.learn(self._recipe, session.space.decode(codes))


def main(arguments: list[str]) -> dict[str, Any]:
    parser = argparse.ArgumentParser(
        prog="scripts/reproduce dropbits", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "dropbits", help="folder of the runs")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs" / "results", help="folder of the page")
    parser.add_argument("--budget", type=int, default=60, help="evaluations of frontier")
    asked = parser.parse_args(arguments)
    registry.BUILT_IN["drivers"]["fixed"] = f"{__name__}:Fixed"
    trials = Trials(asked.out)
    options = {"epochs": EPOCHS, "least": LEAST, "most": MOST, "trainings": TRAININGS, "gate_rate": GATE_RATE}
    rows: dict[str, list[Row]] = {}

    def keep(name: str, row: Row) -> None:
        rows.setdefault(name, []).append(row)
        print(f"{name}: {row}", flush=True)

    for seed in range(asked.seeds):
        found = trials.run("dropbits", seed, {"use": "dropbits", "options": options})
        for e in [found.baseline, *found.uniform.values()]:
            keep({"baseline": "float"}.get(e.asked_by, f"{e.asked_by} bits, no training"), trials.row(e, found))
        for e in trained(found):
            keep(e.asked_by.removeprefix("dropbits "), trials.row(e, found))
        found = trials.run("fixed", seed, {"use": "fixed"})
        keep("2 bits, learned steps", trials.row(trained(found)[0], found))
    for seed in range(asked.seeds):
        tuned = {"epochs": EPOCHS, "top": 2}
        found = trials.run("frontier", seed, {"use": "frontier", "budget": asked.budget}, tuned)
        for name, searched in (("frontier, no training", True), ("frontier, then learned steps", False)):
            keep(name, trials.row(best([e for e in found.evaluations if e.is_searched == searched]), found))
    text = page(rows, asked.seeds, asked.budget)
    (asked.docs / "dropbits.md").write_text(text, encoding="utf-8")
    return {name: {key: round(mean(r[key] for r in of), 4) for key in of[0]} for name, of in rows.items()}


class Trials:
    """The runs in a folder, all on one problem."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._problem: ModelProblem = build_problem(load_spec(SPACE))

    def run(self, name: str, seed: int, driver: Mapping[str, Any], tuned: Mapping[str, Any] | None = None) -> RunResult:
        """The run of that name and seed, gone on with if it was begun."""
        folder = self._folder / f"{name}-{seed}"
        if Folder(folder).has_run:
            return resume(folder, build=self._build, show_progress=False, bare=True)
        spec = load_spec(SPACE)
        fields = {"seed": seed, "driver": driver, "finetune": tuned, "tracking": {"enabled": False}}
        spec = type(spec).model_validate(spec.model_dump(by_alias=True) | fields)
        folder.parent.mkdir(parents=True, exist_ok=True)
        return run(spec, folder, build=self._build, show_progress=False, bare=True)

    def _build(self, spec: Any, weights: Path | None) -> ModelProblem:
        del spec, weights
        return self._problem

    def row(self, e: Evaluation, found: RunResult) -> Row:
        """Average bits and scores of an evaluation, those of the test images too."""
        if e.key in found.test:
            test = found.test[e.key]
        elif e.is_finetuned:
            test = self._problem.evaluate_finetuned(Folder(found.folder).member_weights(e.key), "test")
        else:
            test = next(self._problem.evaluate([e.assignment], "test"))
        names = {"bits": e.measures["weight_bits"], "validation_loss": e.measures["log_loss"]}
        return {**names, "validation": e.measures["accuracy"], "test": test.measures["accuracy"]}


def trained(found: RunResult) -> list[Evaluation]:
    """What the driver trained, failures left out."""
    return [e for e in found.evaluations if e.is_finetuned and e.is_searched and e.failure is None]


def best(evaluations: Sequence[Evaluation]) -> Evaluation:
    """Of least loss on validation images among those of few bits, or of least bits where there are none."""
    kept = [e for e in evaluations if e.is_full]
    few = [e for e in kept if e.measures["weight_bits"] <= MOST_BITS]
    return min(few, key=lambda e: e.measures["log_loss"]) if few else min(kept, key=lambda e: e.measures["weight_bits"])


def page(rows: Mapping[str, Sequence[Row]], seeds: int, budget: int) -> str:
    """docs/results/dropbits.md."""

    def average(name: str, key: str) -> float:
        return mean(row[key] for row in rows[name])

    penalties = [name for name in rows if name.startswith("penalty")]
    few = [name for name in penalties if average(name, "bits") <= MOST_BITS]
    chosen = min(few, key=lambda name: average(name, "validation_loss")) if few else None
    bits = [average(name, "bits") for name in penalties]
    head = ("", "weight bits", "validation log-loss", "validation accuracy", "test accuracy", "test accuracy by seed")
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    keys = ("bits", "validation_loss", "validation", "test")
    for name, of in rows.items():
        each = ", ".join(f"{row['test']:.4f} ({row['bits']:.2f})" for row in of)
        told = " | ".join(_told([row[key] for row in of], 2 if key == "bits" else 4) for key in keys)
        lines.append(f"| {name}{' (chosen)' if name == chosen else ''} | {told} | {each} |")
    return TEXT.format(
        table="\n".join(lines),
        falls="fall" if bits == sorted(bits, reverse=True) else "do not fall at every step",
        listed=", ".join(f"{b:.2f}" for b in bits),
        chosen="None of the penalties gives so few bits."
        if chosen is None
        else f"Chosen on validation images, of at most {MOST_BITS} bits: {chosen}, {average(chosen, 'bits'):.2f} bits "
        f"and {average(chosen, 'test'):.4f} on the test images.",
        fixed=f"{average('2 bits, learned steps', 'test'):.4f}",
        searched=f"{average('frontier, no training', 'test'):.4f}",
        searched_bits=f"{average('frontier, no training', 'bits'):.2f}",
        **{"epochs": EPOCHS, "seeds": seeds, "budget": budget, "gate_rate": GATE_RATE, "most_bits": MOST_BITS},
    )


def _told(numbers: Sequence[float], digits: int) -> str:
    spread = f" ± {stdev(numbers):.{digits}f}" if len(numbers) > 1 and len(set(numbers)) > 1 else ""
    return f"{mean(numbers):.{digits}f}{spread}"


TEXT = """# Learned bits on digits

`scripts/reproduce dropbits` makes this page. A 10-layer ResNet on digits of 16x16 pixels, whose weights may have 2, 3
or 4 bits; values have 8. `dropbits` trains once for each penalty on `weight_bits`, {epochs} epochs each (gates
{gate_rate:g} times as fast as weights). Beside it, for as many epochs: every weight at 2 bits with learned steps; and
`frontier` ({budget} evaluations without training), of whose front 2 members are then trained. Of `frontier` a row is
the best by validation log-loss among at most {most_bits} bits, or what has the fewest bits. 256 validation images
choose; the 541 test images are only reported: one of them is 0.0018, and the standard error of an accuracy of 0.99 is
0.004. Means and standard deviations over {seeds} seeds; in the last column accuracy (and bits) of each. Seeds draw the
noise of gates and what `frontier` asks; images come in the same order for all, so learned steps at fixed bits are one
training.

{table}

Mean bits {falls} as the penalty rises: {listed}. {chosen}

* Uniform 2 bits with learned steps, trained as long, reach {fixed} with the fewest bits that this space has. So on this
  network learned bits win nothing that training alone does not: they are worth their trainings where fixed bits lose.
* `frontier` without training has {searched} at {searched_bits} bits. Test accuracies of all rows but uniform 2 bits are
  alike within a few images; training shows in the log-loss.
* `frontier` asks for many assignments without training and trains a few; `dropbits` trains for every point it gives. At
  about equal bits they end alike; the search takes less time and gives a whole front.
* Brevitas 0.13 with learned bit widths, same weights and images, one seed: 2.25 bits, 0.989 on the test images.
* Penalties are large because gates start almost open, where the chance of being open hardly changes, and the gradient
  of the loss is noise to most of them. Layers of few weights keep their bits longest: they are a small share of the
  cost.
* The method is DropBits-style: the idea of the papers (arXiv 1911.12990, 2109.02100), whose text and code could not be
  read. Gates, constants and schedule: `mpsearch/learn/gates.py`.
"""
