"""`profile`: measure this machine, and write what it takes as a card."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mpsearch.cli.common import console, print_json, say, set_aside
from mpsearch.cli.search import JsonOption, SetOption, SpaceOption
from mpsearch.core.errors import BadInput, nearest

if TYPE_CHECKING:
    from mpsearch.deploy.profile import Profile
    from mpsearch.problem.model import ModelProblem
    from mpsearch.spec.schema import Spec

DEVICES = ("cpu",)
_BUSY = 0.5
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def profile(
    space: SpaceOption,
    accelerator: Annotated[str, typer.Option(help="What to measure: cpu, the processor of this machine.")] = "cpu",
    to: Annotated[
        Path | None, typer.Option(metavar="CARD.yaml", help="The card, a new file. Default: SPACE-cpu.yaml.")
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="Threads of onnxruntime.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Of the mixed models that are measured.")] = 0,
    set_: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure a space's model on this machine with onnxruntime; write a card for the goal latency_s."""
    if accelerator not in DEVICES:
        raise BadInput(
            f"--accelerator {accelerator} cannot be measured.{nearest(accelerator, DEVICES)} "
            "Cards of other devices: mpsearch list accelerators."
        )
    from mpsearch.spec.load import load_spec
    from mpsearch.spec.source import Override

    if to is not None:
        _check_path(to)
    with set_aside():
        # a goal may name the very card that is to be written
        without_cards = Override(("goals",), [{"name": "memory_bytes"}], "mpsearch profile")
        spec = load_spec(space, [*(set_ or ()), without_cards])
    path = to or Path(f"{spec.name}-cpu.yaml")
    _check_path(path)
    _check_packages()
    began = time.perf_counter()
    _warn_if_busy()
    with set_aside():
        problem = _problem(spec)
        found = _measure(problem, threads, seed)
    from mpsearch.deploy.card import write_card

    write_card(found, path)
    seconds = time.perf_counter() - began
    if as_json:
        print_json(_document(found, path, seconds))
    else:
        _print(found, path, seconds)


def _check_path(path: Path) -> None:
    if path.suffix != ".yaml" or not _NAME.fullmatch(path.stem):
        raise BadInput(f"--to {path}: a card is a file NAME.yaml, NAME of letters, digits, dot, dash and underscore.")
    if path.exists():
        raise BadInput(f"{path} exists and is kept; name another file with --to.")
    folder = path.absolute().parent
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        what = "cannot be written to" if folder.is_dir() else "is no folder"
        raise BadInput(f"--to {path}: {folder} {what}; make it first, or name another.")


def _check_packages() -> None:
    from mpsearch.deploy.onnx_writer import require_onnx
    from mpsearch.deploy.timing import require_onnxruntime

    require_onnx()
    require_onnxruntime()


def _warn_if_busy() -> None:
    load, cores = os.getloadavg()[0], os.cpu_count() or 1
    if load > _BUSY * cores:
        say(
            f"mpsearch: the machine is busy (load average {load:.1f} on {cores} cores). Times are of the processor, "
            "not of the clock, but what waits for memory takes longer; measure again on an idle machine to be sure."
        )


def _problem(spec: Spec) -> ModelProblem:
    from mpsearch.problem.build import build_problem

    say("making the model ready")
    return build_problem(spec)


def _measure(problem: ModelProblem, threads: int, seed: int) -> Profile:
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    from mpsearch.deploy.profile import profile as measure

    screen = console(to_stderr=True)
    if not screen.is_terminal:
        said: set[str] = set()

        def tell(what: str, rounds: int, models: int) -> None:
            del rounds
            if what not in said:
                said.add(what)
                say(f"measuring {what} ({models})")

        return measure(problem, threads, seed, tell)
    with Progress(
        SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn(), console=screen, transient=True
    ) as bar:
        task = bar.add_task("exporting")

        def show(what: str, rounds: int, models: int) -> None:
            bar.update(task, description=f"{what} ({models}), round {rounds}")

        return measure(problem, threads, seed, show)


def _document(found: Profile, path: Path, seconds: float) -> dict[str, Any]:
    from dataclasses import asdict

    return {
        "card": str(path),
        "status": "calibrated" if found.is_good else "analytic",
        "machine": found.machine.model_dump(mode="json"),
        "threads": found.threads,
        "samples": found.features.workload.samples,
        "float_s": found.float_s,
        "int8_s": found.integer_s,
        "runs": found.runs,
        "differ_in_layers": found.apart,
        "held_out": {name: asdict(quality) for name, quality in found.predictors.items()},
        "ran_otherwise": found.strange,
        "failed": dict(found.failed),
        "load_average": list(found.loads),
        "seconds": round(seconds, 1),
    }


def _print(found: Profile, path: Path, seconds: float) -> None:
    from rich.table import Table

    screen = console()
    workload = found.features.workload
    runtime = ", ".join(f"{name} {version}" for name, version in found.machine.packages.items())
    screen.print(f"{found.machine.cpu}, {' '.join(found.machine.flags)}; {runtime}; {found.threads} thread(s)")
    screen.print(
        f"batch of {workload.samples}: {found.float_s * 1e3:.4g} ms float, {found.integer_s * 1e3:.4g} ms in 8 bits, "
        f"{found.float_s / found.integer_s:.2f}x; {len(found.features.capable)} of {len(workload.operations)} "
        f"operations run on integers\n"
    )
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(f"{found.quality.n} held-out mixed models")
    for column in ("mean error", "largest", "bias", "rank correlation"):
        table.add_column(column, justify="right")
    for name, quality in found.predictors.items():
        cells = (f"{quality.mape:.1%}", f"{quality.worst:.1%}", f"{quality.bias:+.1%}", f"{quality.spearman:.3f}")
        table.add_row(name, *cells)
    screen.print(table)
    screen.print(
        f"\n{found.runs} whole models, held-out ones differ from all others in at least {found.apart} layers; "
        f"{seconds:.0f} s"
    )
    if found.strange:
        screen.print(f"{found.strange} models ran otherwise than asked; they count as what they were")
    for name, reason in found.failed.items():
        screen.print(f"{name} did not run: {reason}", soft_wrap=True)
    status = "calibrated" if found.is_good else "analytic: not good enough to count as calibrated, measure again"
    screen.print(f"card    {path}   ({status})", soft_wrap=True)
    screen.print(f"goal    {{name: latency_s, accelerator: {path}}}", soft_wrap=True)
