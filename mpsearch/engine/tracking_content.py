"""What the MLflow runs of a search hold, named so that compare, parallel coordinates and scatter are useful at once.

MLflow orders by name and its default charts take the first: average bits stand first among the parameters, and goals
are metrics under their own names (`latency_s@nvidia-t4` as `latency_s:nvidia-t4`, for MLflow allows no `@`).
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import sys
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mpsearch.engine import plots, plots_costs, report
from mpsearch.engine.result import RunResult
from mpsearch.engine.tables import Table, evaluations_table, front_table, numbers
from mpsearch.engine.views import Point, View

SEARCH = "search"
RUN_ID = "{run_id}"
_FORBIDDEN = re.compile(r"[^\w.\- :/]")
_TAG_CHARACTERS = 5000  # of the oldest MLflow that is supported
_FILES = (
    *("report.md", "front.html", "front.png", "front.json", "front.csv", "spec.yaml"),
    *("costs.html", "costs.png", "costs.json"),
)
_TABLES = ("evaluations.json", "front_table.json")


@dataclass(frozen=True)
class Content:
    """One MLflow run.

    Args:
        trial_key: with the search's id, what identifies the run.
        name: shown in the list of runs.
        tags: may change between projections.
        params: cannot change once written.
        metrics: a changed value is appended at `step`.
        step: evaluations done when the metrics were taken.
        seconds: how long it took; shown as the run's duration.
        tags_with_run_id: tags in which `RUN_ID` stands for the id of the run itself.
    """

    trial_key: str
    name: str
    tags: Mapping[str, str]
    params: Mapping[str, str]
    metrics: Mapping[str, float]
    step: int = 0
    seconds: float = 0.0
    tags_with_run_id: Mapping[str, str] = field(default_factory=dict)


def evaluation_runs(view: View, also: Set[str] = frozenset()) -> list[Content]:
    """Front (or the nearest), uniform controls and float, and the trials `also`: members that have left the front."""
    left = [view.by_key[key] for key in sorted(also) if key in view.by_key]
    points = {p.key: p for p in [*view.shown(), *left]}
    return [_evaluation_run(view, p) for p in points.values()]


def _evaluation_run(view: View, point: Point) -> Content:
    texts = json.dumps(point.evaluation.assignment.texts(), separators=(",", ":"))
    tags = {
        "on_front": str(point.on_front).lower(),
        "mpsearch.kind": point.kind,
        "mpsearch.knee": str(point.is_knee).lower(),
        "mpsearch.asked_by": point.evaluation.asked_by,
        "mpsearch.variant": point.evaluation.variant,
        "mpsearch.recipe": point.evaluation.recipe or "",
        "mpsearch.assignment": texts
        if len(texts) <= _TAG_CHARACTERS
        else f"{len(texts)} characters; see evaluations.csv",
    }
    averages = zip(("average_bits.weights", "average_bits.values"), view.sites.bits(point.evaluation), strict=True)
    params = {name: f"{bits:.4g}" for name, bits in averages if bits is not None}
    for name, site in view.sites.choices.items():
        params[f"bits.{_allowed(name.removesuffix('.weight'))}"] = f"{point.evaluation.assignment.at(site.name).bits:g}"
    params |= {"summary": point.summary, "model": point.name}
    variants = view.result.spec.variants
    if variants is not None:
        params[_allowed(variants.option)] = f"{variants.of[point.evaluation.variant]:g}"
    tags |= _labels(view)
    metrics = _metrics(numbers(view, point))
    return Content(point.key, point.name, tags, params, metrics, seconds=point.evaluation.seconds)


def search_run(view: View, live: bool) -> Content:
    """The run of the search as a whole. Its metrics have names of their own: charts of members stay clean."""
    result = view.result
    tags = {
        "mpsearch.kind": SEARCH,
        "mpsearch.status": result.status,
        "mpsearch.folder": str(result.folder.absolute()),
        "mlflow.loggedArtifacts": json.dumps([{"path": path, "type": "table"} for path in _TABLES]),
        **_labels(view),
        **hardware(result),
    }
    dump = result.spec.model_dump(mode="json", by_alias=True, exclude={"resolved"})
    params = {_allowed(name): str(value)[:500] for name, value in _flat(dump)}
    metrics = {
        "evaluations": len(result.evaluations), "evaluations_failed": result.failed,
        "evaluations_raced": result.raced, "ledger_hits": result.hits,
        "front_size": len(result.front.members), "hypervolume": result.hypervolume, "search_seconds": result.seconds,
        "forward_equivalents": result.forward_equivalents,
    }  # fmt: skip
    for point in view.front:
        if point.is_knee:
            metrics |= {f"knee.{name}": value for name, value in _metrics(numbers(view, point)).items()}
    picture = None if live else f"get-artifact?path=front.png&run_uuid={RUN_ID}"  # relative: the same server answers
    note = report.note(view, picture, characters=_TAG_CHARACTERS - 100)
    name = f"search {result.spec.name} {result.spec.driver.use} s{result.spec.seed}"
    floats = {key: float(value) for key, value in metrics.items()}
    return Content(
        SEARCH, name, tags, params, floats, len(result.evaluations), result.seconds, {"mlflow.note.content": note}
    )


def search_files(result: RunResult) -> Iterator[tuple[str | None, Path]]:
    """(folder, file) of each artifact that lies in the run folder; pictures and report are made again where stale."""
    if _stale(result, "front.html") or _stale(result, "front.png"):
        plots.write(result)
    if _stale(result, "costs.html") or _stale(result, "costs.png"):
        plots_costs.write(result)
    if _stale(result, "report.md"):
        report.write(result)
    for name in _FILES:
        if (path := result.folder / name).is_file():
            yield None, path
    if result.spec.resolved and result.spec.resolved.space_file:
        space = Path(result.spec.resolved.space_file)
        if space.is_file() and hashlib.sha256(space.read_bytes()).hexdigest() == result.spec.resolved.space_sha256:
            yield "space", space


def _stale(result: RunResult, name: str) -> bool:
    """Whether a file of the run folder is missing, or older than the ledger."""
    path, ledger = result.folder / name, result.folder / "ledger.jsonl"
    return not path.is_file() or (ledger.is_file() and path.stat().st_mtime < ledger.stat().st_mtime)


def search_tables(view: View) -> dict[str, str]:
    """Artifact name to text: all evaluations and the front, as CSV and in the form that MLflow shows as a table."""
    evaluations, front = evaluations_table(view), front_table(view)

    def shown(table: Table) -> str:
        return json.dumps(table.split())

    return {"evaluations.csv": evaluations.csv(), _TABLES[0]: shown(evaluations), _TABLES[1]: shown(front)}


def hardware(result: RunResult) -> dict[str, str]:
    """Facts about this machine and the versions the run was made with, as tags."""
    found = {
        "hardware.cpu": _cpu(),
        "hardware.cores": str(os.cpu_count()),
        "hardware.memory_gib": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.1f}",
        "hardware.system": platform.platform(),
        "hardware.device": result.spec.engine.device,
    }
    torch = sys.modules.get("torch")  # never imported for a tag
    if torch is not None and result.spec.engine.device.startswith("cuda") and torch.cuda.is_available():
        found["hardware.gpu"] = torch.cuda.get_device_name()
    if result.spec.resolved:
        found |= {f"version.{name}": text for name, text in result.spec.resolved.versions.items()}
        found |= {
            "mpsearch.space_sha256": result.spec.resolved.space_sha256,
            "mpsearch.fingerprint": result.spec.resolved.fingerprint,
        }
    return found | {"mpsearch.spec_sha256": result.spec.sha256}


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _flat(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Leaves of nested mappings and lists by dotted path: `goals.0.name`."""
    if isinstance(value, dict | list) and value:
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, inner in items:
            yield from _flat(inner, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, value


def _labels(view: View) -> dict[str, str]:
    """How far the measures of accelerators can be trusted, as tags: analytic, calibrated or measured."""
    return {f"mpsearch.label.{_allowed(name)}": status for name, status in view.costs.status.items()}


def _metrics(found: Mapping[str, float]) -> dict[str, float]:
    """`found` under names that MLflow allows; two of them never become one."""
    metrics: dict[str, float] = {}
    for name, value in found.items():
        free = _allowed(name)
        while free in metrics:
            free += "_"
        metrics[free] = value
    return metrics


def _allowed(name: str) -> str:
    return _FORBIDDEN.sub("_", name.replace("@", ":"))
