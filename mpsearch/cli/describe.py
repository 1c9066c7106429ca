"""What a space amounts to before anything is searched: sites, choices, costs and where they come from, time, memory."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mpsearch.cli.common import console, print_json, set_aside

if TYPE_CHECKING:
    from rich.console import Console

    from mpsearch.engine.costs import Costs
    from mpsearch.problem.base import Problem
    from mpsearch.spec.schema import Spec

_CONTROLS = 4  # uniform controls beside float: more do not fit into 100 columns


def with_accelerators(spec: Spec, names: Sequence[str]) -> Spec:
    """`spec` with `latency_s`, and `energy_j` where the card can give it, of each named card among its goals.

    Args:
        names: of bundled cards, or YAML files relative to the working directory.

    Raises `BadInput` on a card that is not there or not valid.
    """
    if not names:
        return spec
    from mpsearch.core.errors import BadInput
    from mpsearch.cost.accelerators.load import load_accelerator
    from mpsearch.spec.find import find_card
    from mpsearch.spec.schema import GoalSpec

    goals = {goal.measure: goal for goal in spec.goals}
    beside = Path(spec.resolved.space_file).parent if spec.resolved else Path.cwd()
    texts = {find_card(g.accelerator, beside): g.accelerator for g in spec.goals if g.accelerator}
    for name in names:
        path = find_card(name, Path.cwd())
        device, text = load_accelerator(path), texts.get(path, str(path))
        for measure in ("latency_s", "energy_j"):
            refused = device.refuses(measure)
            if measure == "latency_s" and refused is not None:
                raise BadInput(f"--accelerator {name}: it cannot give latency_s: {refused}.")
            if refused is None:
                found = GoalSpec(name=measure, accelerator=text)
                goals.setdefault(found.measure, found)
    return spec.model_copy(update={"goals": tuple(goals.values())})


def show(spec: Spec, as_json: bool, measure: bool) -> None:
    """Print the description. `measure` also evaluates the float model and the narrowest control, for the time."""
    from mpsearch.engine.variants import build_variants
    from mpsearch.problem.build import build_problem

    began = time.perf_counter()
    with set_aside():
        problems = build_variants(spec, build_problem)
        facts, costs = _facts(spec, problems)
        if measure:
            facts |= _expected(spec, list(problems.values()), time.perf_counter() - began)
    if as_json:
        print_json(facts)
    else:
        _print(facts, costs)


def _facts(spec: Spec, problems: Mapping[str, Problem]) -> tuple[dict[str, Any], Costs]:
    """Of the base; of other variants their size, and the costs of their controls."""
    from dataclasses import asdict

    from mpsearch.core.assignment import Assignment
    from mpsearch.core.evaluation import BASE, Evaluation
    from mpsearch.engine.controls import controls as controls_of
    from mpsearch.engine.costs import Costs
    from mpsearch.engine.limits import reach

    def controls_at(problem: Problem) -> dict[str, Assignment]:
        return {"float": Assignment(), **controls_of(problem.space, problem.sites)}

    problem = problems[BASE]
    space, controls = problem.space, controls_at(problem)
    compared = dict(list(controls.items())[:2])  # float and the narrowest
    costs = Costs.of(problems, spec, map(Evaluation, compared.values()))
    shares = {
        name: {control: found[assignment.key] for control, assignment in compared.items()}
        for name, found in costs.shares.items()
    }
    return {
        "space": spec.name,
        "space_file": spec.resolved.space_file if spec.resolved else None,
        "objective": spec.objective.use,
        "goals": [goal.model_dump() for goal in spec.goals],
        "sites": [
            {
                "name": site.name,
                "role": str(site.role),
                "shape": list(site.shape),
                "choice": space.choice_of[site.name].name if site.name in space.choice_of else None,
            }
            for site in problem.sites
        ],
        "choices": [
            {"name": c.name, "sites": list(c.sites), "options": list(map(str, c.options))} for c in space.choices
        ],
        "size": space.size,
        "limits": list(problem.limits),
        "variants": {
            name: {"size": p.space.size, "costs": {n: p.costs(a) for n, a in controls_at(p).items()}}
            for name, p in problems.items()
        },
        "costs": {name: problem.costs(assignment) for name, assignment in controls.items()},
        "range": {name: {"least": low, "most": high} for name, (low, high) in reach(problem).items()},
        "arena_bytes": {name: problem.arena_bytes(assignment) for name, assignment in controls.items()},
        "shares": shares,
        "measure_status": dict(costs.status),
        "accelerators": [asdict(device) for device in costs.devices],
        "notes": list(costs.notes),
    }, costs


def _expected(spec: Spec, problems: Sequence[Problem], build_s: float) -> dict[str, Any]:
    """Time and memory a run would take. Evaluations are timed cold, so the time is an upper bound."""
    import resource

    from mpsearch.core.assignment import Assignment

    seconds = []
    for problem in problems:
        for assignment in (Assignment(), *list(problem.space.uniform().values())[:1]):
            problem.forget()
            seconds.append(next(iter(problem.evaluate([assignment]))).seconds)
    budget = spec.driver.budget
    evaluations = None if budget is None else min(budget, sum(p.space.size + 1 for p in problems))
    return {
        "build_s": round(build_s, 2),
        "evaluation_s": round(max(seconds), 4),
        "evaluations": evaluations,
        "at_most_s": spec.driver.time_s if evaluations is None else round(evaluations * max(seconds) + build_s, 1),
        "memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "cache_bytes": spec.engine.cache_bytes,
    }


def _print(facts: dict[str, Any], costs: Costs) -> None:
    from mpsearch.engine.costs import MEANING
    from mpsearch.engine.measures import number

    screen = console()
    _print_sites(screen, facts)
    screen.print(f"\n{len(facts['choices'])} choices, {facts['size']:.3g} assignments\n")
    _print_costs(screen, facts, costs)
    if len(facts["variants"]) > 1:
        _print_variants(screen, facts, costs)
    planned = [(name, arena) for name, arena in facts["arena_bytes"].items() if arena is not None][:2]
    if planned:
        laid = ", ".join(f"{name} {number('_bytes', arena)}" for name, arena in planned)
        screen.print(f"activations at the offsets of a planner: {laid}\n")
    for name, shares in facts["shares"].items():
        _print_shares(screen, name, costs.labelled(name), shares)
    for device in costs.devices:
        told = [f"{device.status}: {MEANING[device.status]}", device.fitted, (device.note or "").rstrip(".")]
        screen.print(f"{device.name} ({device.kind}) is {'. '.join(filter(None, told))}.", soft_wrap=True)
    for line in (*(f"note: {note}" for note in facts["notes"]), *(f"limit: {limit}" for limit in facts["limits"])):
        screen.print(line, soft_wrap=True)
    if "evaluation_s" in facts:
        count = f"{facts['evaluations']} evaluations, " if facts["evaluations"] else ""
        cache = (
            "a quarter of the free memory" if facts["cache_bytes"] is None else number("_bytes", facts["cache_bytes"])
        )
        screen.print(
            f"\n{count}{facts['evaluation_s']} s each at most: at most {facts['at_most_s']} s, "
            f"of which {facts['build_s']} s to make ready"
        )
        screen.print(f"memory {number('_bytes', facts['memory_bytes'])} so far, and for cached activations {cache}")


def _print_sites(screen: Console, facts: dict[str, Any]) -> None:
    from rich.table import Table

    sites = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("site", "role", "shape", "formats"):
        sites.add_column(column)
    options = {choice["name"]: choice["options"] for choice in facts["choices"]}
    for site in facts["sites"]:
        shape = "x".join(map(str, site["shape"]))
        tied = f"as {site['choice']}" if site["choice"] not in (None, site["name"]) else None
        sites.add_row(site["name"], site["role"], shape, tied or " ".join(options.get(site["choice"], ["fp32"])))
    screen.print(sites)


def _print_costs(screen: Console, facts: dict[str, Any], costs: Costs) -> None:
    """A row per cost: the least of the space, uniform controls, float, the most of the space."""
    from rich.table import Table

    from mpsearch.engine.measures import number

    floats, *uniform = facts["costs"]
    uniform = uniform if len(uniform) <= _CONTROLS else [*uniform[: _CONTROLS - 1], uniform[-1]]
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("", overflow="fold")
    for column in ("least", *uniform, floats, "most"):
        table.add_column(column, justify="right", no_wrap=True)
    for name in facts["costs"][floats]:
        reached = facts["range"].get(name, {})
        controls = [facts["costs"][control][name] for control in (*uniform, floats)]
        values = [reached.get("least"), *controls, reached.get("most")]
        table.add_row(costs.labelled(name), *("" if value is None else number(name, value) for value in values))
    screen.print(table)
    screen.print()


def _print_variants(screen: Console, facts: dict[str, Any], costs: Costs) -> None:
    """A row for the float model and the narrowest control of each variant, a column for each cost that is a goal."""
    from rich.table import Table

    from mpsearch.engine.measures import number

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("variants")
    for name in facts["shares"]:
        table.add_column(costs.labelled(name), justify="right", overflow="fold")
    for variant, of in facts["variants"].items():
        for control, found in list(of["costs"].items())[:2]:
            table.add_row(f"{variant} {control}", *(number(name, found[name]) for name in facts["shares"]))
    screen.print(table)
    screen.print()


def _print_shares(screen: Console, measure: str, title: str, shares: dict[str, dict[str, float]]) -> None:
    """Where a cost comes from: what each site or operation adds to the float model, and to the narrowest control."""
    from rich.table import Table

    from mpsearch.engine.costs import gathered, shortened
    from mpsearch.engine.measures import number

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("", overflow="fold")
    for control in shares:
        table.add_column(control, justify="right", no_wrap=True)
        table.add_column("share", justify="right", no_wrap=True)
    totals = [sum(found.values()) or 1.0 for found in shares.values()]
    for name, row in gathered(list(shares.values())):
        cells = [(number(measure, value), f"{value / total:.1%}") for value, total in zip(row, totals, strict=True)]
        table.add_row(shortened(name, 44), *(text for pair in cells for text in pair))
    screen.print(f"{title}, where it comes from")
    screen.print(table)
    screen.print()
