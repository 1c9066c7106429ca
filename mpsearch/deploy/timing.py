"""Times of ONNX models, measured in child processes: what crashes there is an option that does not exist."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import mpsearch
from mpsearch.core.errors import BadInput
from mpsearch.deploy.kernels import Kernels, kernels
from mpsearch.spec.registry import missing

DISABLED = ("WeightBiasQuantization",)
"""It runs float convolutions between quantized values on integers, unasked."""
_START_S = 120.0
"""For starting and for making sessions ready."""


@dataclass(frozen=True)
class Timed:
    """A model that ran.

    Args:
        rounds_s: the shortest time of each round.
        wall_s: the shortest by the clock on the wall.
        kernels: what it was optimised to.
    """

    rounds_s: NDArray[np.float64]
    wall_s: float
    kernels: Kernels

    @property
    def best_s(self) -> float:
        """The shortest time: what disturbs a measurement only adds to it."""
        return float(self.rounds_s.min())

    @property
    def median_s(self) -> float:
        """Of all rounds."""
        return float(np.median(self.rounds_s))

    @property
    def spread(self) -> float:
        """Interquartile range over the median."""
        low, high = np.quantile(self.rounds_s, [0.25, 0.75])
        return float((high - low) / self.median_s)


@dataclass(frozen=True)
class Failed:
    """A model that did not run, and why."""

    reason: str


Result = Timed | Failed


@dataclass
class Bench:
    """Measures models in turn, all of them in every round, so that all see the same machine.

    Args:
        folder: for files; emptied by nobody.
        threads: of onnxruntime. With one, the time is that of the processor, which is what an idle machine would take;
            with more it is that of the clock on the wall.
    """

    folder: Path
    threads: int = 1
    _jobs: int = field(default=0, repr=False)

    def measure(
        self,
        models: Mapping[str, tuple[Path, Path]],
        seconds: float,
        *,
        least_rounds: int = 3,
        most_rounds: int = 30,
        tell: Callable[[int], None] = lambda rounds: None,
    ) -> dict[str, Result]:
        """Each model by name.

        Args:
            models: files of the model and of its inputs (npz).
            seconds: how long to go on after the least rounds.
            tell: called with the number of rounds done.
        """
        names = list(models)
        if not names:
            return {}
        try:
            return self._run(names, models, seconds, least_rounds, most_rounds, tell)
        except _Crash as crash:
            if len(names) == 1:
                return {names[0]: Failed(str(crash))}
        half = len(names) // 2
        found: dict[str, Result] = {}
        for some in (names[:half], names[half:]):
            share = seconds * len(some) / len(names)
            part = {name: models[name] for name in some}
            found |= self.measure(part, share, least_rounds=least_rounds, most_rounds=most_rounds, tell=tell)
        return found

    def _run(
        self,
        names: Sequence[str],
        models: Mapping[str, tuple[Path, Path]],
        seconds: float,
        least_rounds: int,
        most_rounds: int,
        tell: Callable[[int], None],
    ) -> dict[str, Result]:
        self._jobs += 1
        folder = self.folder / f"job{self._jobs}"
        folder.mkdir(parents=True)
        job = {
            "models": [{"path": str(models[name][0]), "inputs": str(models[name][1])} for name in names],
            "threads": self.threads,
            "disabled_optimizers": DISABLED,
            "seconds": seconds,
            "least_rounds": least_rounds,
            "most_rounds": most_rounds,
        }
        (folder / "JOB.json").write_text(json.dumps(job))
        _child(folder, _START_S + 20 * seconds, tell)
        answer = json.loads((folder / "ANSWER.json").read_text())
        found: dict[str, Result] = {}
        for number, name in enumerate(names):
            ran = kernels(folder / f"{number}.optimised.onnx")
            rounds = np.array(answer["times_s"][number])
            found[name] = Timed(rounds, min(answer["walls_s"][number]), ran)
        return found


class _Crash(Exception):
    """The child ended without an answer."""


def _child(folder: Path, limit_s: float, tell: Callable[[int], None]) -> None:
    command = [sys.executable, "-m", "mpsearch.deploy.child", str(folder)]
    here = str(Path(mpsearch.__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (here, os.environ.get("PYTHONPATH"))))}
    with (folder / "stderr").open("wb") as errors:
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment)
        assert child.stdout is not None
        late = threading.Event()

        def end() -> None:
            late.set()
            child.kill()

        timer = threading.Timer(limit_s, end)
        timer.start()
        try:
            for line in child.stdout:
                tell(int(line))
            child.wait()
        finally:
            timer.cancel()
            child.kill()
            child.wait()
            child.stdout.close()
    if late.is_set():
        raise _Crash(f"it took over {limit_s:.0f} s")
    if child.returncode != 0 or not (folder / "ANSWER.json").exists():
        said = (folder / "stderr").read_text(errors="replace").strip().splitlines()
        raise _Crash(said[-1] if said else f"its process ended with {child.returncode}")


def require_onnxruntime() -> None:
    """Raises `BadInput` with the command that installs it where onnxruntime is missing."""
    try:
        import onnxruntime  # noqa: F401
    except ModuleNotFoundError as error:
        raise BadInput(f"measuring this machine {missing(error)}.") from None


def save_inputs(path: Path, arrays: Mapping[str, Any]) -> Path:
    """Inputs of a model as a file, by name."""
    np.savez(path, **arrays)
    return path
