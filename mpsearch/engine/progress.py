"""What a run shows while it goes on: a live line on a terminal, a plain line now and then elsewhere, and `run.log`."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from mpsearch.core.evaluation import Evaluation
from mpsearch.core.front import Front, Scale
from mpsearch.core.goal import Goal
from mpsearch.problem.base import Step

_PLAIN_EVERY_S = 10.0
_FRONT_EVERY_S = 1.0
log = logging.getLogger("mpsearch.run")


class LiveProgress:
    """Follows the evaluations of one sitting. A context manager; call it with each evaluation.

    Args:
        goals: of the search.
        budget: evaluations at the end, None where time ends the run.
        time_s: wall time the run may take, None where the budget ends it.
        file: where to show; None for standard error. A terminal gets a live line, anything else plain lines.
    """

    def __init__(
        self,
        goals: Sequence[Goal],
        budget: int | None,
        time_s: float | None = None,
        file: TextIO | None = None,
    ) -> None:
        self._goals, self._budget, self._time_s = tuple(goals), budget, time_s
        self._console = Console(file=file, stderr=file is None, highlight=False)
        self._done: list[Evaluation] = []
        self._state = "no front yet"
        self._next_front = self._began = time.monotonic()
        self._next_plain = self._began + _PLAIN_EVERY_S
        self._live: Progress | None = None

    def __enter__(self) -> LiveProgress:
        if self._console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[state]}"))
            self._live = Progress(*columns, TimeRemainingColumn(), console=self._console, transient=True)
            self._task = self._live.add_task("searching", total=self._time_s or self._budget, state=self._state)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()
        if self._done:
            self._look_at_front()
            self._plain()

    def __call__(self, evaluation: Evaluation) -> None:
        self._done.append(evaluation)
        if evaluation.failure is not None:
            log.warning("%s failed: %s", evaluation.key, evaluation.failure.message)
        now = time.monotonic()
        if now >= self._next_front:
            self._look_at_front()
            self._next_front = time.monotonic() + max(_FRONT_EVERY_S, 20 * (time.monotonic() - now))
        if self._live is not None:
            completed = now - self._began if self._time_s else len(self._done)
            self._live.update(self._task, completed=completed, state=self.text)
        elif now >= self._next_plain:
            self._plain()

    def train(self, what: str, step: Step) -> None:
        """`what` is being trained."""
        self._state = f"training {what}: epoch {step.epoch}/{step.epochs}, step {step.step}"
        self._state += f", loss {step.loss:.3g}"
        self._show_state()

    def test(self, done: int, of: int) -> None:
        """`done` members of the front and controls `of` so many are scored on the test split."""
        self._state = f"test split {done}/{of}"
        self._show_state()

    def _show_state(self) -> None:
        if self._live is not None:
            self._live.update(self._task, state=self.text)
        elif time.monotonic() >= self._next_plain:
            self._plain()

    @property
    def text(self) -> str:
        """`120/200 evaluations, 14.2/s, front 9, hypervolume 0.812`."""
        done = sum(e.is_searched for e in self._done)
        rate = done / max(time.monotonic() - self._began, 1e-9)
        of = f"/{self._budget}" if self._budget else ""
        return f"{done}{of} evaluations, {rate:.1f}/s, {self._state}"

    def _plain(self) -> None:
        log.info(self.text)
        if self._live is None:
            self._console.print(f"mpsearch: {self.text}", soft_wrap=True)
        self._next_plain = time.monotonic() + _PLAIN_EVERY_S

    def _look_at_front(self) -> None:
        front = Front.of(self._done, self._goals, self._done[0].measures)
        controls = [e for e in self._done if e.asked_by == "baseline" or e.asked_by.startswith("uniform")]
        if front.members:
            volume = front.hypervolume(Scale.of(self._done, controls, self._goals))
            self._state = f"front {len(front.members)}, hypervolume {volume:.3f}"
        else:
            self._state = "nothing feasible yet"


class _Shown(logging.Handler):
    """Each warning once, as a line on standard error, which a live line gives room."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._told: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if message not in self._told:
            self._told.add(message)
            print(f"mpsearch: {message}", file=sys.stderr)


class RunLog:
    """While entered, what the package logs is appended to `run.log`.

    Args:
        path: of the log.
        show: on standard error too, what drivers warn of.
    """

    def __init__(self, path: Path, show: bool = False) -> None:
        self._path = path
        self._logger, self._drivers = logging.getLogger("mpsearch"), logging.getLogger("mpsearch.drivers")
        self._shown = _Shown() if show else logging.NullHandler()

    def __enter__(self) -> RunLog:
        self._handler = logging.FileHandler(self._path, encoding="utf-8", delay=True)
        self._handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        self._handler.handleError = lambda record: None  # type: ignore[method-assign]  # a full disk ends the run elsewhere
        self._logger.addHandler(self._handler)
        self._drivers.addHandler(self._shown)
        self._level = self._logger.level
        self._logger.setLevel(logging.INFO)
        return self

    def __exit__(self, *_: object) -> None:
        self._logger.removeHandler(self._handler)
        self._drivers.removeHandler(self._shown)
        self._logger.setLevel(self._level)
        self._handler.close()
