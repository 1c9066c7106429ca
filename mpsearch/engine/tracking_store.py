"""Where a run is tracked, and how to look at it. Nothing here imports MLflow."""

from __future__ import annotations

import json
import os
import shlex
import socket
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit

from mpsearch.core.errors import BadInput, OutOfResources
from mpsearch.spec.schema import Spec

FILE = "tracking.json"
_SCHEMES = ("sqlite", "postgresql", "mysql", "mssql", "http", "https", "databricks")


@dataclass(frozen=True)
class Place:
    """Where one search is tracked; kept in its run folder, so that every later projection finds the same runs.

    Args:
        search_id: tag that all tracking runs of the search carry.
        uri: of the MLflow tracking store, with an absolute path where it is a file.
        experiment: name of the MLflow experiment.
        artifacts: folder of the artifacts; None where a server decides.
        experiment_id: what the store calls the experiment; None until something was written there.
    """

    search_id: str
    uri: str
    experiment: str
    artifacts: str | None
    experiment_id: str | None = None

    @classmethod
    def of(cls, folder: Path, spec: Spec, uri: str | None = None) -> Place:
        """The place recorded in `folder`, or a new one, recorded there.

        The store is, first of those that are given: `uri`, the recorded one, the spec's `tracking.uri`,
        `MLFLOW_TRACKING_URI`, SQLite in the working directory. Raises `BadInput` for a URI that cannot keep runs, and
        `OutOfResources` where the folder cannot be written.
        """
        path = folder / FILE
        recorded = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        given = uri or recorded.get("uri") or spec.tracking.uri or os.environ.get("MLFLOW_TRACKING_URI")
        store = absolute_uri(given or "sqlite:///mlflow.db")
        artifacts = None
        if not is_server(store):
            beside = Path(store.partition(":///")[2]).parent if store.startswith("sqlite") else Path.cwd()
            artifacts = str(beside / "mlartifacts")
        experiment = spec.tracking.experiment or spec.name
        experiment_id = recorded.get("experiment_id") if store == recorded.get("uri") else None
        place = cls(recorded.get("search_id") or uuid.uuid4().hex, store, experiment, artifacts, experiment_id)
        if asdict(place) != recorded:
            place.save(folder)
        return place

    def save(self, folder: Path) -> None:
        """Record the place in a run folder. Raises `OutOfResources` where that cannot be written."""
        draft = folder / f"{FILE}.tmp"
        try:
            draft.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")
            draft.replace(folder / FILE)
        except OSError as error:
            raise OutOfResources(f"{folder / FILE}: cannot write ({error.strerror}); make room there.") from error


def absolute_uri(uri: str) -> str:
    """`uri` with the file of an SQLite store made absolute. Raises `BadInput` for folders and unknown schemes."""
    scheme = urlsplit(uri).scheme.split("+")[0]
    if scheme not in _SCHEMES:
        raise BadInput(
            f"tracking URI {uri!r} is not a database or a server (MLflow no longer keeps runs in plain folders); "
            "write for example sqlite:///mlflow.db or http://localhost:5000."
        )
    if scheme != "sqlite":
        return uri
    prefix, _, path = uri.partition(":///")
    if not path:
        raise BadInput(f"tracking URI {uri!r} names no file; write for example sqlite:///mlflow.db.")
    return f"{prefix}:///{Path(path).absolute()}"


def is_server(uri: str) -> bool:
    """Whether `uri` is reached over HTTP, so that a server keeps the artifacts."""
    return urlsplit(uri).scheme in ("http", "https", "databricks")


def shown(uri: str) -> str:
    """`uri` without a password, to print."""
    parts = urlsplit(uri)
    return uri.replace(f":{parts.password}@", ":***@") if parts.password else uri


def ui_command(
    uri: str, host: str = "127.0.0.1", port: int | None = None, allowed_hosts: str | None = None
) -> list[str]:
    """The command that opens the MLflow pages of a local store; empty where `uri` is a server, which has its own.

    Args:
        port: None for 5000, or the next free one.
        allowed_hosts: names under which browsers may ask, needed for anything but localhost and private addresses:
            MLflow answers 403 to a DNS name that it was not told.
    """
    if is_server(uri):
        return []
    command = ["mlflow", "ui", "--backend-store-uri", uri, "--host", host, "--port", str(port or free_port(host))]
    return command + (["--allowed-hosts", allowed_hosts] if allowed_hosts else [])


def ui_text(uri: str) -> str:
    """How to look at the store, in one line for people."""
    return f"open {shown(uri)}" if is_server(uri) else shlex.join(ui_command(shown(uri), port=5000))


def ui_address(uri: str, experiment_id: str | None, host: str = "127.0.0.1", port: int = 5000) -> str:
    """The web address of an experiment's runs, in the mode of the pages that is for models and not for chat traces."""
    base = uri.rstrip("/") if is_server(uri) else f"http://{host}:{port}"
    where = f"experiments/{experiment_id}/runs" if experiment_id else "experiments"
    return f"{base}/#/{where}?workflowType=machine_learning"


def free_port(host: str = "127.0.0.1", first: int = 5000) -> int:
    """The first port from `first` on that nothing listens on. Raises `BadInput` if 100 in a row are taken."""
    for port in range(first, first + 100):
        with socket.socket() as probe:
            if probe.connect_ex((host if host != "0.0.0.0" else "127.0.0.1", port)) != 0:
                return port
    raise BadInput(f"ports {first} to {first + 99} are all in use; give one with --port.")
