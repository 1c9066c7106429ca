"""A run as MLflow runs: one for the search, and a flat one for each front member, uniform control and the float model.

Flat, because nested runs hide under a collapsed parent and leave the charts empty. What is written is a projection of
the result: runs are searched by their tags before any is created, and only what differs is written, so doing it again
repairs and never repeats. Everything is written synchronously; MLflow's asynchronous logging loses data in a crash.
"""

from __future__ import annotations

import logging
import os
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from shlex import quote
from typing import Any

from mpsearch.core.errors import OutOfResources
from mpsearch.engine.result import RunResult
from mpsearch.engine.tracking_content import (
    RUN_ID,
    SEARCH,
    Content,
    evaluation_runs,
    search_files,
    search_run,
    search_tables,
)
from mpsearch.engine.tracking_store import Place, shown
from mpsearch.engine.views import View
from mpsearch.spec.schema import Spec

_ENVIRONMENT = {  # MLflow waits 2 minutes and tries 8 times unless told otherwise; what the user has set stays
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "GIT_PYTHON_REFRESH": "quiet",
}
_PER_BATCH = {"metrics": 800, "params": 100, "tags": 100}  # 1000 in all
_ENDED = {"complete": "FINISHED", "interrupted": "KILLED", "infeasible": "FAILED"}
_SEARCH_ID, _TRIAL_KEY = "mpsearch.search_id", "mpsearch.trial_key"


@dataclass(frozen=True)
class ProjectionSummary:
    """What became of a projection.

    Args:
        ok: False if the store could not be written; `message` then says why and what to do.
        message: one sentence for people.
        place: where the search is tracked.
        created: runs that did not exist before.
        updated: runs that existed and changed.
        seconds: wall time it took.
    """

    ok: bool
    message: str
    place: Place
    created: int = 0
    updated: int = 0
    seconds: float = 0.0


def project(result: RunResult, uri: str | None = None, live: bool = False) -> ProjectionSummary:
    """Write `result` to its tracking store; nothing is written twice.

    Args:
        uri: of the store; None for the recorded one (see `Place.of`).
        live: the search is still running: its run stays open, and artifacts wait for the end.

    Raises:
        BadInput: the URI cannot keep runs.
        OutOfResources: the store cannot be written, and the spec says that tracking is required.
    """
    place = Place.of(result.folder, result.spec, uri)
    began = time.monotonic()
    try:
        writer = _Writer.open(place)
        writer.write(View.of(result), live)
    except Exception as error:  # whatever a database, a server or the network can raise: the search matters more
        later = f"write it later with: mpsearch sync {quote(str(result.folder))}"
        message = f"tracking at {shown(place.uri)} failed ({_reason(error)}); {later}"
        if result.spec.tracking.required and not live:
            raise OutOfResources(message) from error
        return ProjectionSummary(False, message, place, seconds=time.monotonic() - began)
    if place.experiment_id != writer.experiment_id:
        place = replace(place, experiment_id=writer.experiment_id)
        place.save(result.folder)
    changed = f"{writer.created} new and {writer.updated} changed runs"
    message = f"tracked at {shown(place.uri)}, experiment {place.experiment!r}: {changed}"
    seconds = time.monotonic() - began
    return ProjectionSummary(True, message, place, writer.created, writer.updated, seconds)


class Tracker:
    """Keeps the tracking store in step with a search, at a small share of its time, and never fails it.

    Args:
        folder: the run folder, `spec.yaml` written.
        spec: of the run. With `tracking.required`, a store that cannot be reached raises `OutOfResources` at once.
        uri: of the store; None for the recorded one (see `Place.of`, which may raise `BadInput`).
        say: told, in one sentence, when the store stops answering.
        interval_s: between projections, at least.
        share: of the wall time that projections may take while the search runs.
    """

    def __init__(
        self, folder: Path, spec: Spec, uri: str | None = None, say: Callable[[str], object] = print,
        interval_s: float = 30.0, share: float = 0.04,
    ) -> None:  # fmt: skip
        self._spec, self._uri, self._say = spec, uri, say
        self._interval_s, self._share = interval_s, share
        self._next_s = time.monotonic() + interval_s
        self._silent = False
        if spec.tracking.enabled:
            place = Place.of(folder, spec, uri)
            if spec.tracking.required:
                _reach(place)

    def update(self, result: Callable[[], RunResult]) -> None:
        """To be called after every evaluation; `result` is asked for only when it is time to write."""
        if not self._spec.tracking.enabled or time.monotonic() < self._next_s:
            return
        began = time.monotonic()
        summary = project(result(), self._uri, live=True)
        if not summary.ok and not self._silent:
            self._say(summary.message)
        self._silent = not summary.ok
        ended = time.monotonic()
        self._next_s = ended + max(self._interval_s, (ended - began) / self._share)

    def finish(self, result: RunResult) -> ProjectionSummary | None:
        """The last projection, artifacts included; None if tracking is off. Raises `OutOfResources` where required."""
        if not self._spec.tracking.enabled:
            return None
        summary = project(result, self._uri)
        if not summary.ok:
            self._say(summary.message)
        return summary


def _reach(place: Place) -> None:
    try:
        _Writer.open(place)
    except Exception as error:
        raise OutOfResources(
            f"tracking is required, and {shown(place.uri)} cannot be used ({_reason(error)}); start the server, "
            "or run with tracking.required: false."
        ) from error


def _reason(error: Exception) -> str:
    """The innermost cause, short: `Connection refused` comes wrapped in five exceptions."""
    cause: BaseException = error
    while (inner := cause.__cause__ or cause.__context__) is not None:
        cause = inner
    text = " ".join(str(cause).split()) or type(cause).__name__
    return text if len(text) <= 160 else text[:157] + "..."


def _connect(uri: str) -> Any:
    """A quiet MLflow client."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from mlflow import MlflowClient
    for name in ("mlflow", "alembic", "urllib3.connectionpool"):
        logging.getLogger(name).setLevel(logging.ERROR)
    return MlflowClient(tracking_uri=uri)


@dataclass
class _Writer:
    """An open store and the runs that the search already has there, by trial key."""

    client: Any
    place: Place
    experiment_id: str
    runs: dict[str, Any]
    created: int = 0
    updated: int = 0

    @classmethod
    def open(cls, place: Place) -> _Writer:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            client = _connect(place.uri)
            experiment_id = _experiment(client, place)
            runs: dict[str, Any] = {}
            token = None
            while True:
                found = client.search_runs(
                    [experiment_id], f"tags.`{_SEARCH_ID}` = '{place.search_id}'", max_results=1000, page_token=token
                )
                for run in found:
                    runs.setdefault(run.data.tags.get(_TRIAL_KEY, ""), run)
                token = found.token
                if not token:
                    return cls(client, place, experiment_id, runs)

    def write(self, view: View, live: bool) -> None:
        """Write all runs. They start in such an order that the list, newest first, shows the search, then its front."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            search = search_run(view, live)
            known = self.runs.get(SEARCH)
            start_ms = known.info.start_time if known else int(1000 * (time.time() - search.seconds))
            for rank, content in enumerate(evaluation_runs(view, also=set(self.runs) - {SEARCH}), 1):
                self._put(content, "FINISHED", start_ms - rank, start_ms - rank + int(1000 * content.seconds))
            status = "RUNNING" if live else _ENDED[view.result.status]
            run_id = self._put(search, status, start_ms, start_ms + int(1000 * search.seconds))
            if not live:
                for folder, path in search_files(view.result):
                    self.client.log_artifact(run_id, str(path), folder)
                for name, text in search_tables(view).items():
                    self.client.log_text(run_id, text, name)

    def _put(self, content: Content, status: str, start_ms: int, end_ms: int) -> str:
        """Create or complete one run; returns its id."""
        from mlflow.entities import Metric, Param, RunTag

        tags = {_SEARCH_ID: self.place.search_id, _TRIAL_KEY: content.trial_key, **content.tags}
        now_ms = int(time.time() * 1000)
        run = self.runs.get(content.trial_key)
        if run is None:
            run = self.client.create_run(self.experiment_id, start_time=start_ms, tags=tags, run_name=content.name)
            self.created += 1
        run_id, have = run.info.run_id, run.data
        tags |= {name: text.replace(RUN_ID, run_id) for name, text in content.tags_with_run_id.items()}
        metrics = [Metric(k, v, now_ms, content.step) for k, v in _differing(content.metrics, have.metrics).items()]
        params = [Param(k, v) for k, v in content.params.items() if k not in have.params]  # immutable once written
        changed = [RunTag(k, v) for k, v in _differing(tags, have.tags).items()]
        self._batches(run_id, metrics=metrics, params=params, tags=changed)
        if run.info.run_name != content.name:
            self.client.update_run(run_id, name=content.name)
        if run.info.status != status:
            if status == "RUNNING":
                self.client.update_run(run_id, status=status)
            else:
                self.client.set_terminated(run_id, status=status, end_time=end_ms)
        differs = bool(metrics or params or changed) or run.info.status != status or run.info.run_name != content.name
        self.updated += content.trial_key in self.runs and differs
        return run_id

    def _batches(self, run_id: str, **entities: list[Any]) -> None:
        """As few requests as MLflow's limits per batch allow."""
        while any(entities.values()):
            self.client.log_batch(run_id, **{kind: items[: _PER_BATCH[kind]] for kind, items in entities.items()})
            entities = {kind: items[_PER_BATCH[kind] :] for kind, items in entities.items()}


def _differing(wanted: Mapping[str, Any], have: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in wanted.items() if have.get(name) != value}


def _experiment(client: Any, place: Place) -> str:
    """Id of the experiment, made if it is not there. Its kind makes the pages open in the mode for models."""
    found = client.get_experiment_by_name(place.experiment)
    if found is None:
        location = None if place.artifacts is None else (Path(place.artifacts) / place.experiment).as_uri()
        tags = {"mlflow.experimentKind": "custom_model_development"}
        try:
            return str(client.create_experiment(place.experiment, artifact_location=location, tags=tags))
        except Exception:  # another search may have made it between the question and now
            found = client.get_experiment_by_name(place.experiment)
            if found is None:
                raise
    if found.lifecycle_stage != "active":
        raise RuntimeError(
            f"experiment {place.experiment!r} is deleted there; restore it, or set another tracking.experiment"
        )
    return str(found.experiment_id)
