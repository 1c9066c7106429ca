"""`new`, `sync` and `ui`."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer

from mpsearch.cli.common import find_run, say
from mpsearch.core.errors import BadInput, OutOfResources

_FILES = ("objective.py", "space.yaml")


def new(folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where to write; made if missing.")]) -> None:
    """Write a runnable objective and space to start from: your model, your data, your metric."""
    held = [folder / name for name in _FILES if (folder / name).exists()]
    if held:
        raise BadInput(f"{held[0]} exists and is kept; name another folder.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in _FILES:
            text = files("mpsearch").joinpath("templates", name).read_text(encoding="utf-8")
            (folder / name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise BadInput(f"{folder}: cannot be written ({error.strerror}); name another folder.") from None
    print(f"{folder}/objective.py   your model, its data and how to score it")
    print(f"{folder}/space.yaml     what to search; run it: mpsearch run --space {folder}/space.yaml")


def sync(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run folder, or the start of a name in runs/.")],
    tracking_uri: Annotated[
        str | None, typer.Option(help="MLflow store; default: the one recorded with the run.")
    ] = None,
) -> None:
    """Write a run to MLflow again: adds what is missing there and repeats nothing."""
    from mpsearch.engine.load import load_result
    from mpsearch.engine.tracking import project

    summary = project(load_result(find_run(run)), tracking_uri)
    if not summary.ok:
        raise OutOfResources(summary.message)
    print(summary.message)


def ui(
    run: Annotated[
        str | None, typer.Argument(metavar="[RUN]", help="Default: the store in the working directory.")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int | None, typer.Option(help="Default: 5000, or the next that is free.")] = None,
) -> None:
    """Open the MLflow pages of a run, or of the store in the working directory."""
    import os
    import sys

    from mpsearch.engine.tracking_store import Place, absolute_uri, free_port, is_server, shown, ui_address, ui_command
    from mpsearch.spec.load import load_saved

    if run is None:
        uri = absolute_uri("sqlite:///mlflow.db")
        if not Path("mlflow.db").is_file():
            raise BadInput("no mlflow.db in the working directory; run a search here first, or name a run.")
    else:
        path = find_run(run)
        uri = Place.of(path, load_saved(path)).uri
    if is_server(uri):
        print(f"{shown(uri)} is a server with its own pages: {ui_address(uri, None)}")
        return
    port = port or free_port(host)
    say(f"MLflow at {ui_address(uri, None, host, port)}   (Ctrl-C ends it)")
    command = [sys.executable, "-m", *ui_command(uri, host, port)]
    os.execv(command[0], command)  # in place of this process: what ends it ends the server
