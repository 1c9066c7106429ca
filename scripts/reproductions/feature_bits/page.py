"""The page: a summary in SGQuant's terms, a table for each graph and network, and how it was made."""

from __future__ import annotations

import argparse
import os
import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from statistics import mean, stdev
from typing import Any

from feature_bits.parts import AGREEMENT, LOSS, PARTS

from mpsearch.engine.controls import DEGREE_RULE, DEGREE_STEPS

COLUMNS = "bits", "times less memory", "average bits", "hidden bits", "test accuracy lost, points", "on validation"
TITLES = {
    "chosen": "",
    "29 times": ", 29 times",
    "2 bits": ", 2 bits",
    "finetuned": ", 2 bits, finetuned",
    **{f"uniform {bits}": f", {bits} bits" for bits in (1, 2, 3, 4, 8)},
    DEGREE_RULE: ", the degree rule",
    DEGREE_STEPS: ", a width per bin",
}


SUMMARY = {
    "memory, dense": ("rowscale", "chosen"),
    "with sparse storage": ("sparse", "chosen"),
    "29 times": ("tuned", "29 times"),
    "2 bits, finetuned": ("tuned", "finetuned"),
    "all features at 2 bits": ("uniform", "uniform 2"),
    "biases corrected": ("corrected", "uniform 2"),
}
"""Columns, and the part and the point of each."""
Found = Mapping[tuple[str, str, str], Sequence[Mapping[str, Any]]]
"""Outcomes of trainings by graph, network and part."""


def summary(figures: Mapping[str, Any], graphs: Sequence[str], models: Sequence[str]) -> list[str]:
    """Markdown: times less memory and test points lost, of each graph and network."""
    lines = ["", "## Summary", "", f"| graph | network | {' | '.join(SUMMARY)} |", f"|{' --- |' * (2 + len(SUMMARY))}"]
    for graph in graphs:
        for model in models:
            rows = [figures.get(f"{graph} {model} {part} {name}") for part, name in SUMMARY.values()]
            cells = [f"{row['reduction']:.1f} times, {row['drop']:+.2f}" if row else "" for row in rows]
            lines += [f"| {graph} | {model.upper()} | {' | '.join(cells)} |"] if any(rows) else []
    return [
        *lines,
        "",
        "Times less memory and points of test accuracy lost (less than nothing: gained), means over trainings. "
        "SGQuant's paper gives 4.25 to 31.9 times at 0.4 points, a mean over its own cases and after finetuning; here "
        "only the column that says so is finetuned.",
    ]


def tables(found: Found, graphs: Sequence[str], models: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """Markdown, and the same figures by graph, model and row."""
    lines: list[str] = []
    figures: dict[str, Any] = {}
    for graph in graphs:
        for model in models:
            parts = {part: found[graph, model, part] for part in PARTS if (graph, model, part) in found}
            if not parts:
                continue
            most = max(parts.values(), key=len)
            floats = [outcome["float"]["test"] for outcome in most]
            mebibytes = most[0]["float"]["feature_bytes"] / 2**20
            text = f"float: test accuracy {_spread([100 * x for x in floats], 2)} %, features {mebibytes:.1f} MiB"
            lines += ["", f"## {graph}, {model.upper()}", "", f"{len(floats)} trainings, {text}.", ""]
            lines += [f"| {' | '.join(COLUMNS)} |", f"|{' --- |' * len(COLUMNS)}"]
            notes = []
            for part, outcomes in parts.items():
                for name in dict.fromkeys(name for outcome in outcomes for name in outcome["points"]):
                    having = [outcome for outcome in outcomes if name in outcome["points"]]
                    title = f"{PARTS[part].what}{TITLES[name]}" if name in TITLES else name
                    title += f" ({len(having)} trainings)" if len(having) < len(floats) else ""
                    cells, figures[f"{graph} {model} {part} {name}"] = _row(having, name)
                    lines.append(f"| {title} | {' | '.join(cells)} |")
                if not PARTS[part].is_tied:
                    notes.append(_note(part, outcomes))
            lines += ["", *notes]
    return lines, figures


def _row(outcomes: Sequence[Mapping[str, Any]], name: str) -> tuple[list[str], dict[str, Any]]:
    pairs = [(outcome["float"], outcome["points"][name]) for outcome in outcomes]
    reduction = [base["feature_bytes"] / point["feature_bytes"] for base, point in pairs]
    drop = {key: [100 * (base[key] - point[key]) for base, point in pairs] for key in ("test", "validation")}
    hidden = mean(point["hidden_bits"] for _, point in pairs)
    cells = [_spread(reduction, 1), f"{mean(32 / r for r in reduction):.2f}", f"{hidden:.2f}"]
    figures = {
        "seeds": len(pairs),
        "reduction": round(mean(reduction), 2),
        "graph_reduction": round(mean(base["graph_bytes"] / point["graph_bytes"] for base, point in pairs), 2),
        "hidden_bits": round(hidden, 2),
        "drop": round(mean(drop["test"]), 3),
        "drop_deviation": round(_deviation(drop["test"]), 3),
        "test_accuracy": round(100 * mean(point["test"] for _, point in pairs), 2),
    }
    return [*cells, _spread(drop["test"], 2), _spread(drop["validation"], 2)], figures


def _note(part: str, outcomes: Sequence[Mapping[str, Any]]) -> str:
    """What the inputs were stored as, and what the search took."""
    entries = Counter(p["entry"] for o in outcomes for name, p in o["points"].items() if name in ("chosen", "2 bits"))
    stored = ", ".join(f"{fmt} ({count} of {len(outcomes)})" for fmt, count in entries.most_common())
    evaluations = max(outcome["evaluations"] for outcome in outcomes)
    wall_s, cpu_s = (mean(outcome[key] for outcome in outcomes) for key in ("wall_s", "cpu_s"))
    return (
        f"* {PARTS[part].what}: inputs {stored}; {evaluations} evaluations, "
        f"{cpu_s:.1f} s of one core, {wall_s:.1f} s by the clock; the export of the model apart."
    )


def _spread(numbers: Sequence[float], digits: int) -> str:
    return f"{mean(numbers):.{digits}f} ± {_deviation(numbers):.{digits}f}"


def _deviation(numbers: Sequence[float]) -> float:
    return stdev(numbers) if len(numbers) > 1 else 0.0


def head(asked: argparse.Namespace, graphs: Sequence[str]) -> list[str]:
    """Markdown: what was called, and what the words of the tables mean."""
    versions = ", ".join(f"{name} {version(name)}" for name in ("mpsearch", "torch", "torch-geometric", "numpy"))
    first = f" --first {asked.first}" if asked.first else ""
    command = f"scripts/reproduce sgquant --seeds {asked.seeds}{first} --budget {asked.budget} --datasets "
    return [
        "# SGQuant: bits of graph neural networks",
        "",
        f"Made by `{command}{' '.join(graphs)} --write-docs`: {versions}, "
        f"Python {platform.python_version()}, {platform.machine()}, "
        f"{os.cpu_count()} cores, one used. Means and standard deviations over trainings; seeds count "
        f"from {asked.first}.",
        "",
        "Node features and attention are quantized, all else is float32, nothing is finetuned unless a row says so. "
        "Memory is `feature_bytes` (`mem_embed`): the features that enter each layer and the attention, scales of rows "
        "included. Of attention one number per edge and head is counted: the coefficient, or, where scores are what "
        "has formats, the score before the softmax. Then the aggregation reads codes of scores, and divides by the sum "
        "of their exponentials, which it keeps for each node while it runs, so no coefficient is ever stored. Average "
        "bits are 32 over how many times less that is, hidden bits the mean width of all but the inputs. `All features "
        "alike` leaves attention in float32; where biases are corrected, so that each layer gives the means of the "
        "float one, weights have 16 bits. Rows with `alone` leave all but one feature in float: they show where "
        "accuracy goes. Dense storage, unless a row names sparse. Each training keeps the epoch "
        "with the best validation accuracy. A search chooses the least memory that loses "
        f"{100 * LOSS:.1f} points of validation accuracy "
        f"at most and keeps the class of {100 * AGREEMENT:.1f} % of nodes outside the test set (with SGQuant's formats "
        f"{100 * PARTS['integers'].agreement:.0f} %); what is lost is counted on test nodes, which it never sees.",
        "",
        "These limits, the recipe of finetuning and which formats a search is offered were settled on trainings with "
        "seeds below 10: the recipe on validation accuracy and on nodes outside the test set that keep their class, "
        "the limits and formats after looks at test accuracies too. So other seeds are the stricter test.",
    ]
