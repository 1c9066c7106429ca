"""One trained model, all its searches, and what they find; what an earlier sitting has done is read from its folder."""

from __future__ import annotations

import copy
import hashlib
import json
import math
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from feature_bits.parts import HIDDEN, LEAST_REDUCTION, LOSS, PARTS, RECIPE, WITH_ATTENTION, WITH_SCORES, Part

from mpsearch.core.assignment import Assignment
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

SPLITS = "validation", "test"


class Bench:
    """A model and its searches.

    It is exported once for parts with formats of attention and once for all others; each search sees those of its own.
    """

    def __init__(self, graph: str, model: str, seed: int, budget: int, work: Path) -> None:
        self.of = graph, model, seed
        self._budget, self._work = budget, work
        self._exported: dict[Part, ModelProblem] = {}

    def outcome(self, name: str, only_kept: bool = False) -> dict[str, Any] | None:
        """Of the part called `name`; None where only what is kept counts, and nothing is."""
        part, folder = PARTS[name], self._work / "-".join([*map(str, self.of), name])
        text = dump(self._space(part))
        recipe = RECIPE if part.is_tuned else None
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
        points = _tuned(result, problem, recipe, self.of[2]) if recipe else _points(result, problem, part)
        outcome = {"space": digest, "evaluations": len(result.evaluations), **seconds, **points}
        kept.write_text(json.dumps(outcome, indent=1))
        return outcome

    def _problem(self, spec: Spec, part: Part) -> ModelProblem:
        if part.bins or part.corrects:
            return build_problem(spec)
        every = WITH_ATTENTION if part.attention else WITH_SCORES
        if every not in self._exported:
            path = self._work / f"{'-'.join(map(str, self.of))}.yaml"
            path.write_text(dump(self._space(every)))
            self._exported[every] = build_problem(load_spec(path))
        problem = copy.copy(self._exported[every])
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
        offered = {"attention": part.attention, "score": part.scores} if model != "gcn" else {}
        on_edges = [role for role, formats in offered.items() if formats]
        sites += [{"match": {"role": role}, "formats": list(offered[role])} for role in on_edges]
        sites += [{"match": {"role": "weight"}, "formats": ["int16"]}] if part.corrects else []
        tied = ("feature", *on_edges) if part.is_tied else ()
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
            "quantization": {"bias_correction": "sequential" if part.corrects else "none"},
        }


def _points(result: RunResult, problem: ModelProblem, part: Part) -> dict[str, Any]:
    sites = json.loads((result.folder / "sites.json").read_text())
    chosen = dict(result.uniform)
    if not part.is_tied:
        least = result.baseline.measures["accuracy"] - LOSS - 1e-9
        good = [e for e in result.front.members if e.measures["accuracy"] >= least]  # the float model, if nothing else
        chosen = {"chosen": min(good, key=lambda e: e.measures["feature_bytes"])}
        chosen |= {e.asked_by: e for e in result.evaluations if e.asked_by in (DEGREE_RULE, DEGREE_STEPS)}
    points = {name: _point(e, result.test[e.key], sites) for name, e in chosen.items()}
    for site in (site["name"] for site in sites if part.alone and site["role"] == "feature"):
        pair = [next(iter(problem.evaluate([Assignment.parse({site: part.alone})], of))) for of in SPLITS]
        points[f"{part.alone} at {site} alone"] = _point(*pair, sites)
    return {"float": _point(result.baseline, result.test[result.baseline.key], sites), "points": points}


def _tuned(result: RunResult, problem: ModelProblem, recipe: Recipe, seed: int) -> dict[str, Any]:
    """What keeps most classes at 29 times less memory, and of that with 2 hidden bits; the latter trained too."""
    sites = json.loads((result.folder / "sites.json").read_text())
    base = _point(result.baseline, result.test[result.baseline.key], sites)
    points = [_point(e, result.test[e.key], sites) for e in result.front.members]
    small = [p for p in points if base["feature_bytes"] / p["feature_bytes"] >= LEAST_REDUCTION]
    found = {"29 times": small, "2 bits": [p for p in small if p["hidden_bits"] <= 2]}
    chosen = {name: max(some, key=lambda p: p["agreement"]) for name, some in found.items() if some}
    if "2 bits" in chosen:
        assignment = Assignment.parse(chosen["2 bits"]["formats"])
        trained = problem.finetune(assignment, recipe, seed, Goal("agreement", True))
        measures = {split: problem.evaluate_trained(trained, split).measures for split in SPLITS}
        accuracy = {split: of["accuracy"] for split, of in measures.items()}
        chosen["finetuned"] = {**chosen["2 bits"], **accuracy, "agreement": measures["validation"]["agreement"]}
    return {"float": base, "points": chosen}


def _point(found: Evaluation, test: Evaluation, sites: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    counted = [site for site in sites if site["choice"] is not None and site["role"] != "weight"]
    entry = next(site["name"] for site in counted if site["role"] == "feature")
    sizes = {site["name"]: math.prod(site["shape"]) for site in counted if site["name"] != entry}
    bits = sum(size * found.assignment.at(name).bits for name, size in sizes.items())
    return {
        "formats": found.assignment.texts(),
        "entry": str(found.assignment.at(entry)),
        "hidden_bits": bits / sum(sizes.values()),
        "validation": found.measures["accuracy"],
        "agreement": found.measures["agreement"],
        "test": test.measures["accuracy"],
        "feature_bytes": found.measures["feature_bytes"],
        "graph_bytes": found.measures["graph_bytes"],
    }
