"""SGQuant on citation and co-purchase graphs: how much less memory features take, and what that costs in accuracy.

Feng et al., "SGQuant: Squeezing the Last Bit on Graph Neural Networks with Specialized Quantization" (arXiv
2007.05100): GCN, GAT and AGNN with quantized node features and attention, everything else in float32. Every model is
trained, its epoch chosen on validation nodes; every search chooses on validation nodes; accuracies are of test nodes.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import math
import os
import platform
import shutil
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from mpsearch.core.assignment import Assignment
from mpsearch.core.errors import BadInput
from mpsearch.core.evaluation import Evaluation
from mpsearch.core.goal import Goal
from mpsearch.engine.controls import DEGREE_RULE, DEGREE_STEPS
from mpsearch.engine.result import RunResult
from mpsearch.engine.run import run
from mpsearch.problem.build import build_problem
from mpsearch.problem.model import ModelProblem
from mpsearch.problem.rules import build_space
from mpsearch.spec.load import load_spec
from mpsearch.spec.schema import Recipe, Spec
from mpsearch.spec.source import dump
from mpsearch.zoo.cache import folder as cache_folder
from mpsearch.zoo.nodes import DATASETS

GRAPHS = tuple(name for name in DATASETS if name != "digits-knn")
HIDDEN = {"gcn": 16, "gat": 8, "agnn": 16}
"""Features of the hidden layer, by network; of a GAT in each of its 8 heads."""
FEW = {"pubmed": 3, "amazon-photo": 3, "amazon-computers": 3}
"""Seeds at most, of graphs on which training takes long."""
LOSS, AGREEMENT = 0.004, 0.985
"""What is asked of an assignment to be chosen: the most accuracy that it loses on validation nodes, and the least share
of nodes outside the test set that keep the class that the float model gives them. Of very many assignments some have
the accuracy by luck; that few nodes change is no luck."""
RECIPES = {
    "gcn": Recipe(epochs=60, learning_rate=5e-3, distill=1.0),
    "gat": Recipe(epochs=60, learning_rate=5e-3, distill=1.0),
    "agnn": Recipe(epochs=50, learning_rate=0.02, distill=1.0),
}
"""Of finetuning. No more is trained than what the float model says of every node: labels and dropout do worse."""
DOCS = Path(__file__).resolve().parents[2] / "docs/results/sgquant.md"
ROWS = tuple(f"int{bits}:rows" for bits in (1, 2, 3, 4, 8))
LEAST = tuple(f"int{bits}" for bits in (1, 2, 3, 4, 5, 6, 8))
SPARSE = ("sparse1:row", "sparse8", "sparse32")
POWERS = ("pow2", "pow3", "pow4")


@dataclass(frozen=True)
class Part:
    """One space and how it is searched.

    Args:
        what: for the tables.
        features, attention: formats to choose from.
        driver: `exhaustive` where all features are tied, so that only the uniform controls count.
        bins: of hidden features, by degree; the input is then `rowscale1`, so that it does not drown them.
        agreement: least share of nodes outside the test set that keep their class.
        is_tuned: whether what the search finds at no more than 2 bits is finetuned; the input is then `rowscale1`.
    """

    what: str
    features: tuple[str, ...]
    attention: tuple[str, ...] = ()
    driver: str = "frontier"
    bins: int = 0
    agreement: float = AGREEMENT
    is_tuned: bool = False

    @property
    def is_tied(self) -> bool:
        return self.driver == "exhaustive"


_OWN = (*LEAST, "rowscale1")
PARTS = {
    "uniform": Part("all features alike, SGQuant's range", ROWS, driver="exhaustive"),
    "alike": Part("all features and attention alike, SGQuant's range", ROWS, ROWS, driver="exhaustive"),
    "integers": Part("SGQuant's formats, searched", ROWS, ROWS, agreement=0.95),  # its range clips at any width
    "rowscale": Part("least squared error, rows of two values, searched", _OWN, LEAST),
    "random": Part("the same space, random search", _OWN, LEAST, "random"),
    "degree": Part("hidden features by degree, searched", _OWN, LEAST, bins=4),
    "sparse": Part("sparse storage too, searched", (*_OWN, *SPARSE), LEAST),
    "tuned": Part("formats for little memory, searched", _OWN, ("int1", *POWERS), is_tuned=True),
}
"""In the order of the tables."""
LEAST_REDUCTION = 29


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
    lines, figures = _tables(found, graphs, asked.models)
    print("\n".join(lines))
    if asked.write:
        asked.write.parent.mkdir(parents=True, exist_ok=True)
        asked.write.write_text("\n".join([*_head(asked, graphs), *lines]) + "\n", encoding="utf-8")
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


class Bench:
    """One trained model and all its searches; what an earlier sitting has done is read from its folder.

    The model is exported once, with the formats of all parts; each search sees those of its own.
    """

    def __init__(self, graph: str, model: str, seed: int, budget: int, work: Path) -> None:
        self.of = graph, model, seed
        self._budget, self._work = budget, work
        self._exported: ModelProblem | None = None

    def outcome(self, name: str, only_kept: bool = False) -> dict[str, Any] | None:
        """Of the part called `name`; None where only what is kept counts, and nothing is."""
        part, folder = PARTS[name], self._work / "-".join([*map(str, self.of), name])
        text = dump(self._space(part))
        recipe = RECIPES[self.of[1]] if part.is_tuned else None
        digest = hashlib.sha256(f"{text} {recipe}".encode()).hexdigest()
        kept = folder / "outcome.json"
        if kept.is_file():
            known: dict[str, Any] = json.loads(kept.read_text())
            if known["space"] == digest:
                return known
        if only_kept:
            return None
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        (folder / "space.yaml").write_text(text)
        spec = load_spec(folder / "space.yaml")
        problem = self._problem(spec, part)
        began_s, began_cpu_s = time.monotonic(), time.process_time()
        result = run(spec, folder / "run", build=lambda *_: problem, show_progress=False, bare=True)
        seconds = {"wall_s": time.monotonic() - began_s, "cpu_s": time.process_time() - began_cpu_s}
        points = _tuned(result, problem, recipe, self.of[2]) if recipe else _points(result, part)
        outcome = {"space": digest, "evaluations": len(result.evaluations), **seconds, **points}
        kept.write_text(json.dumps(outcome, indent=1))
        return outcome

    def _problem(self, spec: Spec, part: Part) -> ModelProblem:
        if part.bins:
            return build_problem(spec)
        if self._exported is None:
            every = Part("", (*ROWS, *_OWN, *SPARSE), (*ROWS, *LEAST, *POWERS))
            path = self._work / f"{'-'.join(map(str, self.of))}.yaml"
            path.write_text(dump(self._space(every)))
            self._exported = build_problem(load_spec(path))
        problem = copy.copy(self._exported)
        problem.space = build_space(spec, problem.sites, ())
        return problem

    def _space(self, part: Part) -> dict[str, Any]:
        """The space file of a part: features and attention have choices, everything else stays float32."""
        graph, model, seed = self.of
        features: dict[str, Any] = {"match": {"role": "feature"}, "formats": list(part.features)}
        sites = [features]
        if part.bins or part.is_tuned:
            entry = {"match": "lin1:feature" if model == "agnn" else "conv1:feature", "formats": ["rowscale1"]}
            sites = [entry, {**features, "bins": {"quantiles": part.bins}} if part.bins else features]
        has_attention = model != "gcn" and bool(part.attention)
        if has_attention:
            formats = [f for f in part.attention if not (model == "agnn" and part.is_tuned and f == "int1")]
            sites.append({"match": {"role": "attention"}, "formats": formats})  # its training ruins that
        tied = ("feature", *(("attention",) if has_attention else ())) if part.is_tied else ()
        agreement: dict[str, Any] = {"name": "agreement", "maximise": True}
        if not part.is_tuned:
            agreement["limit"] = f">= {part.agreement}"
        return {
            "schema": "mpsearch.space/1",
            "name": f"{graph}-{model}",
            "objective": {
                "use": "node_classification",
                "options": {"dataset": graph, "network": model, "hidden": HIDDEN[model], "seed": seed},
            },
            "sites": sites,
            "tie": [{"match": f"*:{role}"} for role in tied],
            "goals": [agreement, {"name": "feature_bytes"}],
            "driver": {"use": part.driver, "budget": self._budget},
            "seed": seed,
            "quantization": {"bias_correction": "none"},
        }


def _points(result: RunResult, part: Part) -> dict[str, Any]:
    sites = json.loads((result.folder / "sites.json").read_text())
    chosen = dict(result.uniform)
    if not part.is_tied:
        least = result.baseline.measures["accuracy"] - LOSS - 1e-9
        good = [e for e in result.front.members if e.measures["accuracy"] >= least]  # the float model, if nothing else
        chosen = {"chosen": min(good, key=lambda e: e.measures["feature_bytes"])}
        chosen |= {e.asked_by: e for e in result.evaluations if e.asked_by in (DEGREE_RULE, DEGREE_STEPS)}
    points = {name: _point(e, result, sites) for name, e in chosen.items()}
    return {"float": _point(result.baseline, result, sites), "points": points}


def _tuned(result: RunResult, problem: ModelProblem, recipe: Recipe, seed: int) -> dict[str, Any]:
    """What keeps most classes at 29 times less memory, and of that with 2 hidden bits; the latter trained too."""
    sites = json.loads((result.folder / "sites.json").read_text())
    base = _point(result.baseline, result, sites)
    points = [_point(e, result, sites) for e in result.front.members]
    small = [p for p in points if base["feature_bytes"] / p["feature_bytes"] >= LEAST_REDUCTION]
    found = {"29 times": small, "2 bits": [p for p in small if p["hidden_bits"] <= 2]}
    chosen = {name: max(some, key=lambda p: p["agreement"]) for name, some in found.items() if some}
    if "2 bits" in chosen:
        assignment = Assignment.parse(chosen["2 bits"]["formats"])
        trained = problem.finetune(assignment, recipe, seed, Goal("agreement", True))
        measures = {split: problem.evaluate_trained(trained, split).measures for split in ("validation", "test")}
        accuracy = {split: of["accuracy"] for split, of in measures.items()}
        chosen["finetuned"] = {**chosen["2 bits"], **accuracy, "agreement": measures["validation"]["agreement"]}
    return {"float": base, "points": chosen}


def _point(found: Evaluation, result: RunResult, sites: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    counted = [site for site in sites if site["choice"] is not None]
    entry = next(site["name"] for site in counted if site["role"] == "feature")
    sizes = {site["name"]: math.prod(site["shape"]) for site in counted if site["name"] != entry}
    bits = sum(size * found.assignment.at(name).bits for name, size in sizes.items())
    return {
        "formats": found.assignment.texts(),
        "entry": str(found.assignment.at(entry)),
        "hidden_bits": bits / sum(sizes.values()),
        "validation": found.measures["accuracy"],
        "agreement": found.measures["agreement"],
        "test": result.test[found.key].measures["accuracy"],
        "feature_bytes": found.measures["feature_bytes"],
        "graph_bytes": found.measures["graph_bytes"],
    }


COLUMNS = "bits", "times less memory", "average bits", "hidden bits", "test accuracy lost, points", "on validation"
TITLES = {
    "chosen": "",
    "29 times": ", 29 times",
    "2 bits": ", 2 bits",
    "finetuned": ", 2 bits, finetuned",
    DEGREE_RULE: ", the degree rule",
    DEGREE_STEPS: ", a width per bin",
}


def _tables(
    found: Mapping[tuple[str, str, str], Sequence[Mapping[str, Any]]], graphs: Sequence[str], models: Sequence[str]
) -> tuple[list[str], dict[str, Any]]:
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
                    title = f"{PARTS[part].what}{TITLES.get(name, ', ' + name.removeprefix('uniform ') + ' bits')}"
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


def _head(asked: argparse.Namespace, graphs: Sequence[str]) -> list[str]:
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
        "included; average bits are 32 over how many times less that is, hidden bits the mean width of all but the "
        "inputs. `All features alike` leaves attention in float32. Dense storage, unless a row names sparse. Each "
        "training keeps the epoch with the best validation accuracy. A search chooses the least memory that loses "
        f"{100 * LOSS:.1f} points of validation accuracy "
        f"at most and keeps the class of {100 * AGREEMENT:.1f} % of nodes outside the test set (with SGQuant's formats "
        f"{100 * PARTS['integers'].agreement:.0f} %); what is lost is counted on test nodes, which it never sees.",
        "",
        "These limits, and which formats a search is offered, were settled after looks at test accuracies of some of "
        "the trainings with seeds below 10: trainings with other seeds would be the stricter test.",
    ]
