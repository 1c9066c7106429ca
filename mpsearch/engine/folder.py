"""The run folder: which file is what, and the two files that any program can read, `front.json` and `front.csv`."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mpsearch.core.errors import BadInput, OutOfResources
from mpsearch.core.evaluation import BASE, Evaluation
from mpsearch.core.front import is_feasible
from mpsearch.engine.costs import FILE as COSTS_FILE
from mpsearch.engine.costs import Costs
from mpsearch.engine.result import RunResult

FRONT_SCHEMA = "mpsearch.front/1"


@dataclass(frozen=True)
class Folder:
    """Paths in a run folder. Besides these it holds pictures (.html, .png), `report.md`, `members/` and `variants/`."""

    path: Path

    @property
    def spec(self) -> Path:
        """The resolved spec. It is written last of what a run needs, so where it lies, a run can be resumed."""
        return self.path / "spec.yaml"

    @property
    def ledger(self) -> Path:
        """Every evaluation."""
        return self.path / "ledger.jsonl"

    @property
    def weights(self) -> Path:
        """The float weights, where they were trained for the run."""
        return self.path / "weights.safetensors"

    def of(self, variant: str) -> Folder:
        """Where float weights and sites of a variant lie: those of the base in the run folder itself."""
        return self if variant == BASE else Folder(self.path / "variants" / variant)

    @property
    def scores(self) -> Path:
        """Folder of the scores of single samples that a race compares with; they can be made again."""
        return self.path / "scores"

    def member_weights(self, key: str) -> Path:
        """The weights of a trained member."""
        return self.path / "members" / key / "weights.safetensors"

    def training_checkpoint(self, key: str) -> Path:
        """Where a training stands, while it lasts; `key` is that of its start with its recipe."""
        return self.path / "members" / key / "checkpoint.pt"

    def training_end(self, key: str) -> Path:
        """The assignment at which a training ended, once it has."""
        return self.path / "members" / key / "end.json"

    @property
    def sites(self) -> Path:
        """Name, role, shape and choice of every site."""
        return self.path / "sites.json"

    @property
    def costs(self) -> Path:
        """Where the costs come from, and how far those of accelerators can be trusted."""
        return self.path / COSTS_FILE

    @property
    def log(self) -> Path:
        """What happened when."""
        return self.path / "run.log"

    @property
    def front(self) -> Path:
        """The outcome, for programs."""
        return self.path / "front.json"

    @property
    def has_run(self) -> bool:
        """Whether a run was begun here."""
        return self.spec.is_file()

    def create(self) -> None:
        """Make the folder ready for a new run.

        Raises `BadInput` if it holds anything but what a run leaves that was killed while it was being prepared, or
        is not writable.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            names = {entry.name for entry in self.path.iterdir() if not entry.name.endswith(".tmp")}
            held = names - {self.weights.name, self.sites.name, self.log.name, "variants"}
            if self.has_run:
                raise BadInput(
                    f"{self.path} holds a run; resume it (mpsearch resume {self.path}), or name another folder."
                )
            if held:
                raise BadInput(f"{self.path} is not empty ({min(held)}); a run needs a new or an empty folder.")
            self.log.touch()
        except OSError as error:
            raise BadInput(
                f"{self.path}: cannot be used as a run folder ({error.strerror}); name another one."
            ) from None

    def write(self, path: Path, save: Callable[[Path], object]) -> None:
        """Let `save` write beside `path`, then put it there in one step: readers see the old or the new."""
        beside = path.with_name(path.name + ".tmp")
        try:
            save(beside)
            with beside.open("rb") as written:
                os.fsync(written.fileno())
            beside.replace(path)
        except OSError as error:
            beside.unlink(missing_ok=True)
            raise OutOfResources(f"{path}: cannot write ({error.strerror}); make room, then resume.") from error

    def write_front(self, result: RunResult) -> None:
        """`front.json` and `front.csv`."""
        document = json.dumps(front_document(result), indent=1, allow_nan=False) + "\n"
        self.write(self.front, lambda path: path.write_text(document, encoding="utf-8"))
        self.write(self.path / "front.csv", lambda path: path.write_text(_csv(result), encoding="utf-8"))

    def write_costs(self, found: Costs) -> None:
        """`costs.json`."""
        self.write(self.costs, lambda path: path.write_text(found.text(), encoding="utf-8"))

    def front_facts(self) -> dict[str, Any]:
        """`front.json` as it lies here, empty if it does not (a run that was killed before its first end)."""
        try:
            return dict(json.loads(self.front.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise BadInput(
                f"{self.front}: not readable ({error}); delete it and resume the run to make it again."
            ) from None


def front_document(result: RunResult) -> dict[str, Any]:
    """The content of `front.json`, ready for JSON."""
    front = result.front
    return {
        "schema": FRONT_SCHEMA,
        "status": result.status,
        "goals": [
            {
                "name": goal.name,
                "direction": "max" if goal.maximise else "min",
                "limit": None if goal.limit is None else str(goal.limit),
            }
            for goal in front.goals
        ],
        "measure_status": dict(Costs.read(result.folder).status),
        "baseline": _member(result, result.baseline),
        **({"floats": [_member(result, e) for e in result.floats.values()]} if result.spec.variants else {}),
        "uniform": [_member(result, e) for e in result.uniform.values()],
        "members": [_member(result, e) for e in front.members],
        "nearest": [_member(result, e) for e in front.nearest],
        "picks": {"knee": front.knee().key} if front.members else {},
        "hypervolume": result.hypervolume,
        "reference": result.scale.reference if result.scale else {},
        "evaluations": {
            "distinct": len(result.evaluations),
            "hits": result.hits,
            "failed": result.failed,
            "raced": result.raced,
        },
        "forward_equivalents": result.forward_equivalents,
        "seconds": round(result.seconds, 3),
        "driver": result.spec.driver.use,
        "seed": result.spec.seed,
    }


def _member(result: RunResult, evaluation: Evaluation) -> dict[str, Any]:
    test = result.test.get(evaluation.key)
    scored = test is not None and test.failure is None
    return {
        "key": evaluation.key,
        "assignment": evaluation.assignment.texts(),
        "variant": evaluation.variant,
        "recipe": evaluation.recipe,
        "measures": dict(evaluation.measures),
        "stderr": dict(evaluation.stderr),
        "test": dict(test.measures) if test is not None and scored else None,
        "test_stderr": dict(test.stderr) if test is not None and scored else None,
        "feasible": is_feasible(evaluation, result.front.goals, result.baseline.measures),
    }


def _csv(result: RunResult) -> str:
    """One row per member, uniform control and baseline; the assignment as JSON in the last column."""
    rows = [("member", e) for e in result.front.members or result.front.nearest]
    rows += [*result.uniform.items(), *(("float", e) for e in result.floats.values())]
    names = list(result.baseline.measures)
    errors = sorted({name for _, e in rows for name in e.stderr})
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    head = [
        "point",
        "key",
        "variant",
        "recipe",
        "feasible",
        *names,
        *(f"{n}_stderr" for n in errors),
        *(f"test_{n}" for n in names),
    ]
    table.writerow([*head, "assignment"])
    for point, evaluation in rows:
        member = _member(result, evaluation)
        test = member["test"] or {}
        cells = [member["measures"].get(n, "") for n in names] + [member["stderr"].get(n, "") for n in errors]
        cells += [test.get(n, "") for n in names]
        known = [point, member["key"], member["variant"], member["recipe"] or "", member["feasible"]]
        table.writerow([*known, *cells, json.dumps(member["assignment"])])
    return text.getvalue()
