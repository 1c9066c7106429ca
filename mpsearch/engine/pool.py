"""Evaluations on workers: long-lived Ray actors, on this machine or on a cluster.

A worker builds the problem once, from the spec, and keeps its caches. Results come back in the order of the question
whoever finished first, so a driver's ledger is that of a run without workers. A worker that dies or hangs is replaced,
and what it had is asked again; what ends several workers is recorded as a failure.
"""

from __future__ import annotations

import logging
import os
import re
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mpsearch.core.assignment import Assignment
from mpsearch.core.errors import BadInput, OutOfResources
from mpsearch.core.evaluation import BASE, Evaluation, Failure
from mpsearch.engine.folder import Folder
from mpsearch.engine.variants import Build, fingerprint
from mpsearch.engine.worker import Worker
from mpsearch.problem.base import Problem
from mpsearch.spec.schema import Spec

log = logging.getLogger("mpsearch.run")

_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
}
_PASSED_ON = ("MPSEARCH_DATA", "MPSEARCH_PATH", "MPSEARCH_CACHE", "PYTHONPATH")
_CHUNK = 8
"""Assignments that a worker is given at once: neighbours, which share computation."""
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_LOOK_S = 0.5
_START_S = 300.0
_PREPARATIONS = 3
"""Workers in a row that die while they build the problem, before the run ends."""


@dataclass(frozen=True)
class PoolOptions:
    """How many workers, where, and what becomes of an evaluation that does not come back.

    Args:
        workers: number of actors; each takes one CPU.
        address: of a Ray cluster (`HOST:6379`, `ray://HOST:10001`, `auto`); None starts Ray on this machine.
        timeout_s: an evaluation may take; its worker is then replaced. None for no limit.
        retries: how often an evaluation is asked again whose worker died or hung, before it is recorded as a failure.
    """

    workers: int
    address: str | None = None
    timeout_s: float | None = None
    retries: int = 2


@dataclass(frozen=True)
class _Job:
    """Assignments next to each other in a question, from number `first` on.

    Args:
        question: number of the question; answers to an earlier one are dropped.
        lost: how many workers it took down while it was asked alone.
    """

    question: int
    first: int
    assignments: tuple[Assignment, ...]
    split: str
    variant: str
    lost: int = 0


@dataclass(frozen=True)
class _Task:
    """What an actor does since `since_s` of the monotonic clock: a job, or None while it builds the problem."""

    actor: Any
    job: _Job | None
    since_s: float


class RayPool:
    """Workers for one run. Close it: it may have started Ray.

    Args:
        problems: of this process by variant, for the fingerprint that a worker's must equal.
        files: hold the float weights that the run keeps; these are sent to every worker.
        build: makes the problem there; None for the model that the spec names.

    Raises:
        BadInput: no such cluster, no token, or a worker that cannot build the problem (data, an extra, a module).
        OutOfResources: the cluster has no room for the workers.
    """

    def __init__(
        self,
        options: PoolOptions,
        spec: Spec,
        problems: Mapping[str, Problem],
        files: Folder,
        build: Build | None = None,
    ) -> None:
        self.forwards = 0.0
        """Work that workers did, in float forwards of the validation split."""
        self._options = options
        self._question = self._deaths = 0
        self._tasks: dict[Any, _Task] = {}
        self._idle: list[Any] = []
        self._ray, self._started = connected(options)
        try:
            paths = {variant: files.of(variant).weights for variant in problems}
            kept = {variant: path.read_bytes() for variant, path in paths.items() if path.is_file()}
            fields = spec.model_dump(mode="json", by_alias=True)
            facts = (fields, kept, build, fingerprint(problems), options.workers)
            self._facts = self._ray.put(facts)
            environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
            self._kind = self._ray.remote(num_cpus=1, max_restarts=0, runtime_env={"env_vars": environment})(Worker)
            for _ in range(options.workers):
                self._hire()
            self._wait_for_all()
        except BaseException:
            self.close()
            raise

    def evaluate(
        self, assignments: Sequence[Assignment], split: str = "validation", variant: str = BASE
    ) -> Iterator[Evaluation]:
        """Like `Problem.evaluate` of a variant, in the given order."""
        self._question += 1
        size = max(1, min(_CHUNK, -(-len(assignments) // self._options.workers)))
        waiting = deque(
            _Job(self._question, first, tuple(assignments[first : first + size]), split, variant)
            for first in range(0, len(assignments), size)
        )
        known: dict[int, Evaluation] = {}
        for number in range(len(assignments)):
            while number not in known:
                self._give(waiting)
                self._take(waiting, known)
            self._give(waiting)
            yield known.pop(number)

    def close(self) -> None:
        """End the workers, and Ray where it was started for them."""
        for actor in (*self._idle, *(task.actor for task in self._tasks.values())):
            self._ray.kill(actor, no_restart=True)
        if self._started:
            self._ray.shutdown()

    def _hire(self) -> None:
        actor = self._kind.remote(self._facts)
        self._tasks[actor.prepare.remote()] = _Task(actor, None, time.monotonic())

    def _wait_for_all(self) -> None:
        while self._tasks:
            self._take(deque(), {})
            first_s = min((task.since_s for task in self._tasks.values()), default=time.monotonic())
            if time.monotonic() - first_s > _START_S:
                free = self._ray.available_resources().get("CPU", 0)
                raise OutOfResources(
                    f"pool: {len(self._tasks)} of {self._options.workers} workers did not start within "
                    f"{_START_S:.0f} s, {free:g} CPUs are free; ask for fewer (--workers), or wait for the cluster."
                )

    def _give(self, waiting: deque[_Job]) -> None:
        while self._idle and waiting:
            actor, job = self._idle.pop(), waiting.popleft()
            self._tasks[actor.evaluate.remote(job.assignments, job.split, job.variant)] = _Task(
                actor, job, time.monotonic()
            )

    def _take(self, waiting: deque[_Job], known: dict[int, Evaluation]) -> None:
        """Wait a moment for an answer; replace workers that are gone or late."""
        ready, _ = self._ray.wait(list(self._tasks), num_returns=1, timeout=_LOOK_S)
        for ref in ready:
            task = self._tasks.pop(ref)
            try:
                answer = self._ray.get(ref)
            except self._ray.exceptions.RayError as error:
                self._lose(task, _kind_of(error), _told(error), waiting, known)
                continue
            self._idle.append(task.actor)
            if task.job is None:
                self._deaths = 0
                if answer:
                    raise BadInput(f"pool: {answer}")
                continue
            found, forwards = answer
            self.forwards += forwards
            if task.job.question == self._question:
                known.update(enumerate(found, start=task.job.first))
        limit_s = self._options.timeout_s
        for ref, task in list(self._tasks.items()):
            if limit_s is None or task.job is None:
                continue
            if time.monotonic() - task.since_s > limit_s * len(task.job.assignments):
                self._lose(self._tasks.pop(ref), "timeout", f"it took over {limit_s:g} s", waiting, known)

    def _lose(self, task: _Task, kind: str, why: str, waiting: deque[_Job], known: dict[int, Evaluation]) -> None:
        """A new worker in place of this one; its job again, one assignment at a time, to find the guilty one."""
        self._ray.kill(task.actor, no_restart=True)
        job = task.job
        if job is None:
            self._deaths += 1
            if self._deaths >= _PREPARATIONS:
                raise OutOfResources(f"pool: workers die while they build the problem: {why}")
        else:
            log.warning(
                "a worker was lost with %s evaluations (%s); another takes its place", len(job.assignments), why
            )
        self._hire()
        if job is None or job.question != self._question:
            return
        alone = len(job.assignments) == 1
        if alone and job.lost >= self._options.retries:
            message = f"its worker was lost {job.lost + 1} times: {why}"
            known[job.first] = Evaluation(job.assignments[0], split=job.split, failure=Failure(kind, message))
            return
        again = [
            replace(job, first=job.first + i, assignments=(assignment,), lost=job.lost + alone)
            for i, assignment in enumerate(job.assignments)
        ]
        waiting.extendleft(reversed(again))


def connected(options: PoolOptions) -> tuple[Any, bool]:
    """Ray, connected, and whether it was started or joined here. Tokens are required on every side, always.

    Raises `BadInput` where there is no token for a cluster, or no cluster of this version at the address.
    """
    os.environ.update({name: os.environ.get(name, value) for name, value in _QUIET.items()})
    own_token = any(os.environ.get(name) for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"))
    if options.address is not None and not own_token and not (Path.home() / ".ray" / "auth_token").is_file():
        raise BadInput(
            f"pool: no token for the cluster at {options.address}; set RAY_AUTH_TOKEN to the one that it was started "
            "with."
        )
    os.environ["RAY_AUTH_MODE"] = "token"  # on this machine Ray makes one, in ~/.ray/auth_token
    import ray  # late: half a second, and its settings are read from the environment above

    if ray.is_initialized():
        return ray, False
    more: dict[str, Any] = {"num_cpus": options.workers} if options.address is None else {"address": options.address}
    try:
        ray.init(
            include_dashboard=False if options.address is None else None,
            log_to_driver=False,
            logging_level=logging.ERROR,
            **more,
        )
    except (ConnectionError, RuntimeError, ValueError, OSError, ray.exceptions.RayError) as error:
        raise BadInput(
            f"pool: no Ray cluster to work with at {options.address or 'this machine'}: {_told(error)}; check "
            "the address, the token, and that Ray and Python have the same versions there."
        ) from None
    return ray, True


def _kind_of(error: Exception) -> str:
    return "memory" if "OutOfMemory" in type(error).__name__ or "OutOfMemory" in str(error) else "error"


def _told(error: Exception) -> str:
    """The line of a message that says most: what raised where an actor was made, else the first."""
    lines = [line.strip() for line in _COLOUR.sub("", str(error)).splitlines() if line.strip()] or [""]
    made = "creation task" in lines[0]
    return lines[-1][:300] if made else f"{type(error).__name__}: {lines[0][:200]}"
