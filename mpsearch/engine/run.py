"""A run from its spec to its files, and the same run taken up again.

Order: the float baseline, the uniform controls, `start`, then the driver until the budget ends, of one variant of the
model after the other; then finetuning, where the spec asks for it; then the members of the front and the controls once
on the test split; then the files, all of which follow from the ledger.
"""

from __future__ import annotations

import json
import logging
import platform
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from fnmatch import fnmatchcase
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from mpsearch.core.assignment import Assignment
from mpsearch.core.errors import BadInput, MpsearchError, OutOfResources
from mpsearch.core.evaluation import BASE, Evaluation
from mpsearch.core.format import Format
from mpsearch.core.space import Choice, Space
from mpsearch.drivers.base import Driver, SearchOver
from mpsearch.engine.controls import DEGREE_RULE, DEGREE_STEPS, controls
from mpsearch.engine.costs import Costs
from mpsearch.engine.finetuning import finetune_promising
from mpsearch.engine.folder import Folder
from mpsearch.engine.limits import within_limits
from mpsearch.engine.load import assemble, refuse_other_weights
from mpsearch.engine.pool import PoolOptions, RayPool
from mpsearch.engine.progress import LiveProgress, RunLog
from mpsearch.engine.racing import Racing
from mpsearch.engine.result import RunResult
from mpsearch.engine.session import FLOAT, LedgerSession
from mpsearch.engine.stop import Stop
from mpsearch.engine.trainings import Trainings
from mpsearch.engine.variants import Build, build_variants, fingerprint
from mpsearch.engine.worker import build_model
from mpsearch.ledger.ledger import Ledger
from mpsearch.problem.base import Problem, Step
from mpsearch.spec import registry
from mpsearch.spec.load import load_saved, refuse_edited_cards, save_spec
from mpsearch.spec.schema import DriverSpec, Resolved, Spec

_VERSIONS_OF = ("mpsearch", "numpy", "torch", "optuna", "torch-geometric")
log = logging.getLogger("mpsearch.run")


def run(
    spec: Spec,
    folder: Path,
    *,
    build: Build | None = None,
    pool: PoolOptions | None = None,
    stop: Stop | None = None,
    show_progress: bool = True,
    bare: bool = False,
) -> RunResult:
    """Search as `spec` says and leave everything in `folder`, which must be new or empty.

    Args:
        build: makes the problem, of each variant; None for the model that the spec names.
        pool: workers that evaluate; None for this process.
        stop: holds, afterwards, the signal that ended the run; by default Ctrl-C and SIGTERM end it cleanly.
        show_progress: on standard error.
        bare: leave out the plots, the report and tracking; only what programs read is written.

    Returns:
        The result, of status `infeasible` if nothing meets the limits and `interrupted` after a signal.

    Raises:
        BadInput, ObjectiveFailed, OutOfResources: see `mpsearch.core.errors`. What was evaluated stays in the ledger.
        NothingFeasible: no assignment can keep to the limits on costs; nothing was evaluated.
    """
    files = Folder(Path(folder))
    files.create()
    with RunLog(files.log, show_progress):
        problems = build_variants(spec, build or build_model)
        for problem in problems.values():
            _start_assignments(problem.space, spec.start)
            _racing(spec, problem, files)
            if spec.finetune is not None:
                problem.require_training()
        within_limits(problems, [goal.goal() for goal in spec.goals])
        for variant, problem in problems.items():
            _write_facts(files.of(variant), problem)
        spec = save_spec(_resolve(spec, problems, show_progress), files.path)
        with _workers(pool, spec, problems, files, build) as workers:
            return _sit(files, spec, problems, workers, stop or Stop(), show_progress, bare)


def resume(
    folder: Path,
    *,
    build: Build | None = None,
    pool: PoolOptions | None = None,
    stop: Stop | None = None,
    show_progress: bool = True,
    bare: bool = False,
) -> RunResult:
    """Go on with the run in `folder`: evaluates nothing twice, and ends as if it had never been stopped.

    Raises `BadInput` if there is no run, another process writes it, or its float weights or the cards of its
    accelerators are not the same any more.
    """
    files = Folder(Path(folder))
    spec = load_saved(files.path)
    refuse_edited_cards(spec)
    with RunLog(files.log, show_progress):
        problems = build_variants(spec, build or build_model, kept=files)
        refuse_other_weights(files.path, spec, fingerprint(problems))
        with _workers(pool, spec, problems, files, build) as workers:
            return _sit(files, spec, problems, workers, stop or Stop(), show_progress, bare)


def _sit(
    files: Folder,
    spec: Spec,
    problems: Mapping[str, Problem],
    workers: RayPool | None,
    stop: Stop,
    show_progress: bool,
    bare: bool,
) -> RunResult:
    """One sitting: from opening the ledger to the files."""
    began_s = time.monotonic()
    goals = tuple(goal.goal() for goal in spec.goals)
    time_s = spec.driver.time_s
    facts = files.front_facts()
    with stop, Ledger(files.ledger, spec.sha256, _versions()) as ledger:
        recorded_s = sum(e.seconds for e in ledger.evaluations)  # what a killed sitting is known to have taken
        earlier_s = max(float(facts.get("seconds", 0.0)), recorded_s)
        log.info("%s: %s evaluations recorded, %s", files.path, len(ledger), _versions())
        for limit in _limits(problems):
            log.warning("limit: %s", limit)
            if show_progress:
                print(f"mpsearch: limit: {limit}", file=sys.stderr)
        given = [
            Evaluation(assignment, variant=variant)
            for variant, problem in problems.items()
            for assignment in (FLOAT, *controls(problem.space, problem.sites).values())
        ]
        files.write_costs(Costs.of(problems, spec, given))
        projections = None if bare else _projections(files.path, spec)

        def result(complete: bool) -> RunResult:
            return assemble(
                files.path,
                spec,
                ledger.evaluations,
                complete=complete,
                hits=sum(session.hits for session in sessions.values()),
                forward_equivalents=float(facts.get("forward_equivalents", 0.0))
                + sum(problem.forwards for problem in problems.values())
                + (0.0 if workers is None else workers.forwards),
                seconds=round(earlier_s + time.monotonic() - began_s, 3),  # as front.json has it
            )

        def conclude(found: RunResult) -> RunResult:
            shown = [*found.floats.values(), *found.uniform.values(), *found.front.members, *found.front.nearest]
            files.write_costs(Costs.of(problems, spec, shown))
            files.write_front(found)
            log.info("%s: %s on the front, hypervolume %.4f", found.status, len(found.front.members), found.hypervolume)
            if projections is not None:
                projections.finish(found)
            return found

        with LiveProgress(goals, spec.driver.budget, time_s) if show_progress else nullcontext() as progress:

            def observe(evaluation: Evaluation) -> None:
                if progress is not None:
                    progress(evaluation)
                if projections is not None:
                    projections.update(lambda: result(complete=False))

            def show(what: str, step: Step) -> None:
                if progress is not None:
                    progress.train(what, step)

            def observe_test(done: int, of: int) -> None:
                if progress is not None:
                    progress.test(done, of)

            sessions: dict[str, LedgerSession] = {}
            budget, share = spec.driver.budget, 1 / len(problems)
            for i, (variant, problem) in enumerate(problems.items()):
                sessions[variant] = LedgerSession(
                    problem,
                    ledger,
                    goals,
                    spec.seed,
                    variant=variant,
                    base=sessions.get(BASE),
                    budget=None if budget is None else -((i - budget) // len(problems)),
                    deadline_s=None if time_s is None else began_s + share * (i + 1) * max(0.0, time_s - earlier_s),
                    noisy=spec.objective.noisy,
                    racing=_racing(spec, problem, files),
                    trainings=Trainings(problem, files, spec.seed, goals, variant),
                    stop=stop,
                    evaluate=None if workers is None else partial(workers.evaluate, variant=variant),
                    observe=observe,
                    show=show,
                )
            try:
                _search(sessions, spec)
                if stop.signum is None and spec.finetune is not None:
                    finetune_promising(sessions, spec.finetune, result(complete=True))
                if stop.signum is None:
                    found = result(complete=True)
                    rules = [e for e in found.evaluations if e.is_full and e.asked_by in (DEGREE_RULE, DEGREE_STEPS)]
                    chosen = [*found.floats.values(), *found.uniform.values(), *rules, *found.front.members]
                    for variant, session in sessions.items():
                        session.score_test([e for e in chosen if e.variant == variant], observe_test)
            except SearchOver as end:
                log.info("%s", end)
            except MpsearchError as error:
                log.error("%s", error)
                if len(ledger):
                    with suppress(OutOfResources):  # the first error says more than what follows from it
                        conclude(result(complete=False))
                raise
        if not len(ledger):
            raise BadInput(f"{files.path}: stopped before the float baseline was evaluated; resume it to go on.")
        return conclude(result(complete=stop.signum is None))


@contextmanager
def _workers(
    pool: PoolOptions | None, spec: Spec, problems: Mapping[str, Problem], files: Folder, build: Build | None
) -> Iterator[RayPool | None]:
    if pool is None:
        yield None
        return
    if spec.racing.enabled:
        raise BadInput(
            "pool: racing compares one evaluation after another; set racing.enabled: false, or --pool serial."
        )
    log.info("starting %s workers", pool.workers)
    workers = RayPool(pool, spec, problems, files, build)
    try:
        yield workers
    finally:
        workers.close()


def _racing(spec: Spec, problem: Problem, files: Folder) -> Racing | None:
    if not spec.racing.enabled:
        return None
    goals = [goal.goal() for goal in spec.goals]
    return Racing(problem, goals, spec.racing.confidence, spec.racing.tolerance, spec.seed, files)


def _search(sessions: Mapping[str, LedgerSession], spec: Spec) -> None:
    """Each variant by a driver of its own; of one where nothing keeps to the limits on costs, the controls alone."""
    drivers: dict[str, Driver] = {}
    able = list(sessions)
    if len(sessions) > 1:
        able = within_limits({v: s.problem for v, s in sessions.items()}, sessions[BASE].goals)
    for variant, session in sessions.items():
        drivers[variant] = registry.load("drivers", spec.driver.use)(**spec.driver.options)
        drivers[variant].check(session)
    for variant, session in sessions.items():
        try:
            session.evaluate_controls(_start_assignments(session.space, spec.start))
            if variant in able:
                session.search_as(spec.driver.use)
                drivers[variant].search(session)
            else:
                log.warning("%s: no assignment keeps to the limits on costs", variant)
        except SearchOver as end:
            log.info("%s", end)
        if len(sessions) > 1:
            session.problem.forget()  # the memory is that of the next one


def _resolve(spec: Spec, problems: Mapping[str, Problem], show_progress: bool) -> Spec:
    """`spec` with the driver that `auto` stands for, the number of threads, and the facts about the problems.

    The number of threads decides how sums are rounded, so a run keeps it wherever it is resumed.
    """
    driver = spec.driver
    if driver.use == "auto":
        driver, why = _chosen(driver, problems[BASE].space, len(problems))
        log.info("driver auto: %s, because %s", driver.use, why)
        if show_progress:
            print(f"mpsearch: driver {driver.use}, because {why}", file=sys.stderr)
    known = spec.resolved or Resolved(
        space_file="", space_sha256="", objective_file="", objective_class="", objective_sha256=""
    )
    facts = {"fingerprint": fingerprint(problems), "versions": _versions(), "limits": tuple(_limits(problems))}
    resolved = known.model_copy(update=facts)
    engine = spec.engine.model_copy(update={"threads": spec.engine.threads or problems[BASE].threads})
    return spec.model_copy(update={"driver": driver, "engine": engine, "resolved": resolved})


def _limits(problems: Mapping[str, Problem]) -> list[str]:
    return list(dict.fromkeys(limit for problem in problems.values() for limit in problem.limits))


def _chosen(driver: DriverSpec, space: Space, variants: int) -> tuple[DriverSpec, str]:
    """The driver that `auto` stands for, and why: one for all variants, by the space of the base."""
    points = (space.size + (FLOAT not in space)) * variants
    covers = f"{points:,} evaluations would cover the space"
    if driver.budget is None:
        use, why = "frontier", f"{covers}, and no budget says that there will be so many"
    else:
        use = "exhaustive" if points <= driver.budget else "frontier"
        why = f"{covers}, {'within' if points <= driver.budget else 'more than'} the budget of {driver.budget}"
    return DriverSpec(use=use, budget=driver.budget, time=driver.time), why


def _start_assignments(space: Space, start: Sequence[Mapping[str, str]]) -> list[Assignment]:
    """`start:` of the spec. Of each choice the first glob that matches one of its sites decides; others stay widest.

    Raises `BadInput` on a glob that matches no site of a choice, and on a format that a choice does not offer.
    """
    errors: list[str] = []
    found = []
    for number, globs in enumerate(start):
        for glob in globs:
            if not any(_fits(site, glob) for choice in space.choices for site in choice.sites):
                errors.append(f"start[{number}]: {glob!r} matches no site that has a choice; see mpsearch describe.")
        picked = []
        for choice in space.choices:
            text = next((t for g, t in globs.items() if any(_fits(s, g) for s in choice.sites)), None)
            fmt = _widest(choice) if text is None else Format.parse(text)
            if fmt in choice.options:
                picked.append(choice.options.index(fmt))
            else:
                allowed = ", ".join(map(str, choice.options))
                errors.append(f"start[{number}]: {choice.name!r} cannot be {text}; allowed: {allowed}.")
        if not errors:
            found.append(space.decode(picked))
    if errors:
        raise BadInput(*errors)
    return found


def _fits(site: str, glob: str) -> bool:
    """Whether a glob names a site, or the value that it is a bin of."""
    return fnmatchcase(site, glob) or fnmatchcase(site.partition("@")[0], glob)


def _widest(choice: Choice) -> Format:
    return max(choice.options, key=lambda fmt: fmt.bits)


def _write_facts(files: Folder, problem: Problem) -> None:
    files.path.mkdir(parents=True, exist_ok=True)
    if problem.keeps_weights:
        files.write(files.weights, problem.save_weights)
    files.write(files.sites, lambda path: path.write_text(_sites(problem), encoding="utf-8"))


def _sites(problem: Problem) -> str:
    """Content of `sites.json`: a list of name, role, shape, and name of the choice that decides it, or null."""
    choice_of = problem.space.choice_of
    return json.dumps(
        [
            {
                "name": site.name,
                "role": str(site.role),
                "shape": list(site.shape),
                "choice": choice_of[site.name].name if site.name in choice_of else None,
            }
            for site in problem.sites
        ],
        indent=1,
    )


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in _VERSIONS_OF:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _projections(folder: Path, spec: Spec) -> Any:
    from mpsearch.engine.projections import Projections  # it loads the plotting libraries and MLflow

    return Projections(folder, spec)
