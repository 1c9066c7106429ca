"""`run`, `resume` and `describe`."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mpsearch.cli.common import RUNS, console, find_run, front_table, print_json, say, set_aside
from mpsearch.core.errors import BadInput, MpsearchError, NothingFeasible, nearest

if TYPE_CHECKING:
    from mpsearch.engine.pool import PoolOptions
    from mpsearch.engine.result import RunResult
    from mpsearch.engine.stop import Stop
    from mpsearch.spec.schema import Spec
    from mpsearch.spec.source import Override

SpaceOption = Annotated[str, typer.Option("--space", help="A bundled space (mpsearch list spaces) or a YAML file.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="A.B[0].C=VALUE", help="Override a value of the space file. Repeatable."),
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="One JSON object on standard output, all else on standard error.")
]
PoolOption = Annotated[str, typer.Option(help="Where to evaluate: serial (this process) or ray (workers).")]
WorkersOption = Annotated[int | None, typer.Option(help="Of --pool ray. Default: the CPUs of this machine.")]
AddressOption = Annotated[
    str | None, typer.Option(help="Of --pool ray: a running cluster (HOST:6379, auto). Default: Ray on this machine.")
]
TimeoutOption = Annotated[
    str | None,
    typer.Option(help="Of --pool ray, for one evaluation: 90s, 10m. A worker that takes longer is replaced."),
]


def run(
    space: SpaceOption,
    driver: Annotated[str | None, typer.Option(help="Search method (mpsearch list drivers), or auto.")] = None,
    budget: Annotated[int | None, typer.Option(help="Distinct evaluations, controls included.")] = None,
    time: Annotated[str | None, typer.Option(help="Instead of a budget: 90s, 10m, 1.5h.")] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same search.")] = None,
    set_: SetOption = None,
    out: Annotated[Path | None, typer.Option(help="The run folder, new or empty. Default: runs/NAME.")] = None,
    resume_or_start: Annotated[
        Path | None, typer.Option(help="The run folder: go on with the run in it, else start one.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda or cuda:N.")] = None,
    threads: Annotated[
        int | None, typer.Option(help="CPU threads; by default one, or all cores for a large model.")
    ] = None,
    pool: PoolOption = "serial",
    workers: WorkersOption = None,
    address: AddressOption = None,
    timeout: TimeoutOption = None,
    tracking_uri: Annotated[
        str | None, typer.Option(help="MLflow store. Default: SQLite in the working directory.")
    ] = None,
    no_tracking: Annotated[bool, typer.Option("--no-tracking", help="Do not write to MLflow.")] = False,
    require_tracking: Annotated[
        bool, typer.Option("--require-tracking", help="End with an error if the tracking store cannot be written.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show sites, choices, costs, expected time and memory; search nothing.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Search a space; leave a run folder with the Pareto front."""
    from mpsearch.spec.load import load_spec
    from mpsearch.spec.source import Override

    if budget is not None and time is not None:
        raise BadInput("--budget and --time exclude each other: a run ends by one of them.")
    if out is not None and resume_or_start is not None:
        raise BadInput("--out and --resume-or-start exclude each other.")
    if no_tracking and (tracking_uri or require_tracking):
        raise BadInput("--no-tracking excludes --tracking-uri and --require-tracking.")
    where = _pool(pool, workers, address, timeout)
    flags: list[str | Override] = [*(set_ or ())]

    def flag(where: str, value: Any, text: str) -> None:
        if value is not None and value is not False:
            flags.append(Override(tuple(where.split(".")), value, text))

    flag("driver.use", driver, f"--driver {driver}")
    if budget is not None:
        flags.append(Override(("driver", "time"), None, f"--budget {budget}"))
    if time is not None:
        flags.append(Override(("driver", "budget"), None, f"--time {time}"))
    flag("driver.budget", budget, f"--budget {budget}")
    flag("driver.time", time, f"--time {time}")
    flag("seed", seed, f"--seed {seed}")
    flag("engine.device", device, f"--device {device}")
    flag("engine.threads", threads, f"--threads {threads}")
    flag("tracking.uri", tracking_uri, f"--tracking-uri {tracking_uri}")
    flag("tracking.required", require_tracking, "--require-tracking")
    if no_tracking:
        flags.append(Override(("tracking", "enabled"), False, "--no-tracking"))
    with set_aside():
        spec = load_spec(space, flags)
    if dry_run:
        from mpsearch.cli.describe import show

        show(spec, as_json, measure=True)
        return

    from mpsearch.engine import run as engine
    from mpsearch.engine.folder import Folder

    folder = out or resume_or_start or RUNS / _name(spec)
    if resume_or_start is not None and Folder(folder).has_run:
        _refuse_another_spec(folder, spec)
        _sit(lambda stop: engine.resume(folder, pool=where, stop=stop), as_json)
    else:
        say(f"mpsearch: {spec.resolved.space_file if spec.resolved else space} -> {folder}")
        _sit(lambda stop: engine.run(spec, folder, pool=where, stop=stop), as_json)


def resume(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run folder, or the start of a name in runs/.")],
    pool: PoolOption = "serial",
    workers: WorkersOption = None,
    address: AddressOption = None,
    timeout: TimeoutOption = None,
    as_json: JsonOption = False,
) -> None:
    """Go on with a run that was stopped or killed; nothing is evaluated twice."""
    from mpsearch.engine import run as engine

    where = _pool(pool, workers, address, timeout)
    folder = find_run(run)
    _sit(lambda stop: engine.resume(folder, pool=where, stop=stop), as_json)


def describe(
    space: SpaceOption,
    set_: SetOption = None,
    accelerator: Annotated[
        list[str] | None,
        typer.Option(metavar="CARD", help="Latency and energy on a device too: a name or a YAML file. Repeatable."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show the sites of a space's model, their choices, what they cost and where that comes from; search nothing."""
    from mpsearch.cli.describe import show, with_accelerators
    from mpsearch.spec.load import load_spec

    with set_aside():
        spec = with_accelerators(load_spec(space, set_ or ()), accelerator or ())
    show(spec, as_json, measure=False)


def _pool(pool: str, workers: int | None, address: str | None, timeout: str | None) -> PoolOptions | None:
    """What the options of a pool amount to; None for this process."""
    from mpsearch.engine.pool import PoolOptions
    from mpsearch.spec.texts import parse_time_s

    if pool not in ("serial", "ray"):
        raise BadInput(f"--pool {pool}: unknown.{nearest(pool, ['serial', 'ray'])}")
    given = {"--workers": workers, "--address": address, "--timeout": timeout}
    if pool == "serial":
        if extra := [name for name, value in given.items() if value is not None]:
            raise BadInput(f"{' and '.join(extra)} belongs to --pool ray; add it.")
        return None
    if workers is not None and workers < 1:
        raise BadInput(f"--workers {workers}: at least 1.")
    try:
        timeout_s = None if timeout is None else parse_time_s(timeout)
    except ValueError as error:
        raise BadInput(f"--timeout: {error}") from None
    return PoolOptions(workers or len(os.sched_getaffinity(0)), address, timeout_s)


def _name(spec: Spec) -> str:
    return f"{spec.name}-{spec.driver.use}-s{spec.seed}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"


def _refuse_another_spec(folder: Path, spec: Spec) -> None:
    """A run is gone on with only as it was begun; what was left open counts as what it became."""
    from mpsearch.spec.load import load_saved

    saved = load_saved(folder)
    asked = spec
    if spec.driver.use == "auto":
        driver = spec.driver.model_copy(update={"use": saved.driver.use, "options": saved.driver.options})
        asked = spec.model_copy(update={"driver": driver})
    if spec.engine.threads is None:
        asked = asked.model_copy(update={"engine": spec.engine.model_copy(update={"threads": saved.engine.threads})})
    if asked.sha256 != saved.sha256:
        raise BadInput(
            f"{folder} holds a run of another spec (see its spec.yaml); go on with it by mpsearch resume {folder}, "
            "or name another folder."
        )


def _sit(search: Callable[[Stop], RunResult], as_json: bool) -> None:
    """Search until the end or a signal, say what was found, and exit with the code of the outcome."""
    from mpsearch.engine.stop import Stop

    stop = Stop()
    try:
        with set_aside():
            result = search(stop)
    except MpsearchError as error:
        if stop.signum is None:
            raise
        say(f"mpsearch: {error}")  # stopped so early that there is nothing to show
        raise typer.Exit(stop.exit_code) from None
    _show(result, as_json)
    if stop.signum is not None:
        say(f"mpsearch: stopped; go on with: mpsearch resume {result.folder}")
        raise typer.Exit(stop.exit_code)
    if result.status == "infeasible":
        from mpsearch.engine.limits import unmet

        raise NothingFeasible(
            f"none of {len(result.evaluations)} assignments meets {unmet(result)}; the nearest are kept in "
            f"{result.folder / 'front.json'}. Loosen a limit, allow wider formats, or raise the budget."
        )


def _show(result: RunResult, as_json: bool) -> None:
    from mpsearch.engine.folder import front_document
    from mpsearch.engine.tracking_store import Place, ui_text
    from mpsearch.engine.views import View

    if as_json:
        print_json({"run": str(result.folder), **front_document(result)})
        return
    view, screen = View.of(result), console()
    screen.print(front_table(view, view.shown()))
    failed = f", {result.failed} failed" if result.failed else ""
    failed += f", {result.raced} ended early" if result.raced else ""
    screen.print(
        f"\n{len(view.front)} on the front, hypervolume {result.hypervolume:.4f}, "
        f"{len(result.evaluations)} evaluations{failed}, {result.seconds:.1f} s"
    )
    screen.print(f"front   {result.folder / 'front.html'}\nreport  {result.folder / 'report.md'}", soft_wrap=True)
    if result.spec.tracking.enabled:
        uri = Place.of(result.folder, result.spec).uri
        screen.print(f"MLflow  mpsearch ui {result.folder}   ({ui_text(uri)})", soft_wrap=True)
