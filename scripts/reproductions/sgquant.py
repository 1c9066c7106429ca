"""SGQuant on citation and co-purchase graphs: how much less memory features take, and what that costs in accuracy.

Feng et al., "SGQuant: Squeezing the Last Bit on Graph Neural Networks with Specialized Quantization" (arXiv
2007.05100): GCN, GAT and AGNN with quantized node features and attention, everything else in float32. Every model is
trained, its epoch chosen on validation nodes; every search chooses on validation nodes; accuracies are of test nodes.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from feature_bits.bench import Bench
from feature_bits.page import head, summary, tables
from feature_bits.parts import FEW, GRAPHS, HIDDEN, PARTS
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from mpsearch.core.errors import BadInput
from mpsearch.zoo.cache import folder as cache_folder
from mpsearch.zoo.nodes import DATASETS

DOCS = Path(__file__).resolve().parents[2] / "docs/results/sgquant.md"


def main(arguments: list[str]) -> dict[str, Any]:
    asked = _options(arguments)
    console = Console(stderr=True)
    graphs = asked.datasets or list(_present(console))
    if not graphs:
        raise BadInput(f"no graph was found; put the files of one of {', '.join(GRAPHS)} under MPSEARCH_DATA.")
    seeds = {g: range(asked.first, asked.first + min(asked.seeds, FEW.get(g, asked.seeds))) for g in graphs}
    todo = [(g, m, s, p) for g in graphs for s in seeds[g] for m in asked.models for p in asked.parts]
    todo = [one for one in todo if one[1] != "gcn" or one[3] != "alike"]  # it has no attention
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    found: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    bench = None
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=len(todo))
        for graph, model, seed, part in todo:
            progress.update(task, description=f"{graph} {model} seed {seed}: {part}")
            if bench is None or bench.of != (graph, model, seed):
                bench = Bench(graph, model, seed, asked.budget, asked.work)
            outcome = bench.outcome(part, asked.kept)
            if outcome is not None:
                found.setdefault((graph, model, part), []).append(outcome)
            progress.advance(task)
    rows, figures = tables(found, graphs, asked.models)
    lines = [*summary(figures, graphs, asked.models), *rows]
    print("\n".join(lines))
    if asked.write:
        asked.write.parent.mkdir(parents=True, exist_ok=True)
        asked.write.write_text("\n".join([*head(asked, graphs), *lines]) + "\n", encoding="utf-8")
    return figures


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/reproduce sgquant", description=__doc__)
    parser.add_argument("--seeds", type=int, default=10, help="trainings of each model; of large graphs 3 at most")
    parser.add_argument("--first", type=int, default=0, help="seed of the first training; the others follow it")
    parser.add_argument("--models", nargs="*", default=list(HIDDEN), choices=list(HIDDEN))
    parser.add_argument(
        "--datasets", nargs="*", choices=list(DATASETS), help="graphs; all whose files are there by default"
    )
    parser.add_argument("--parts", nargs="*", default=list(PARTS), choices=list(PARTS), help="searches")
    parser.add_argument("--budget", type=int, default=100, help="evaluations of a search")
    parser.add_argument("--quick", action="store_true", help="one seed, 20 evaluations")
    parser.add_argument("--kept", action="store_true", help="search nothing; show what earlier calls have found")
    parser.add_argument("--work", type=Path, default=cache_folder() / "sgquant", help="what is done is kept there")
    parser.add_argument("--write", type=Path, help=f"where to write the tables as Markdown, for example {DOCS.name}")
    parser.add_argument("--write-docs", dest="write", action="store_const", const=DOCS, help="into docs/results")
    asked = parser.parse_args(arguments)
    if asked.quick:
        asked.seeds, asked.budget = 1, 20
    return asked


def _present(console: Console) -> Iterable[str]:
    for name in GRAPHS:
        try:
            DATASETS[name]()
            yield name
        except BadInput as missing:
            console.print(f"{name} is left out: {missing}", highlight=False)
