"""What a space amounts to before anything is searched: sites, choices, costs, expected time and memory."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from mpsearch.cli.common import console, print_json, set_aside

if TYPE_CHECKING:
    from mpsearch.problem.base import Problem
    from mpsearch.spec.schema import Spec


def show(spec: Spec, as_json: bool, measure: bool) -> None:
    """Print the description. `measure` also evaluates the float model and the narrowest control, for the time."""
    from mpsearch.problem.build import build_problem

    began = time.perf_counter()
    with set_aside():
        problem = build_problem(spec)
        facts = _facts(spec, problem)
        if measure:
            facts |= _expected(spec, problem, time.perf_counter() - began)
    if as_json:
        print_json(facts)
    else:
        _print(facts)


def _facts(spec: Spec, problem: Problem) -> dict[str, Any]:
    from mpsearch.core.assignment import Assignment

    space = problem.space
    controls = {"float": Assignment(), **space.uniform()}
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
        "costs": {name: problem.costs(assignment) for name, assignment in controls.items()},
    }


def _expected(spec: Spec, problem: Problem, build_s: float) -> dict[str, Any]:
    """Time and memory a run would take. Evaluations are timed cold, so the time is an upper bound."""
    import resource

    from mpsearch.core.assignment import Assignment

    seconds = []
    for assignment in (Assignment(), *list(problem.space.uniform().values())[:1]):
        problem.forget()
        seconds.append(next(iter(problem.evaluate([assignment]))).seconds)
    budget = spec.driver.budget
    evaluations = None if budget is None else min(budget, problem.space.size + 1)
    return {
        "build_s": round(build_s, 2),
        "evaluation_s": round(max(seconds), 4),
        "evaluations": evaluations,
        "at_most_s": spec.driver.time_s if evaluations is None else round(evaluations * max(seconds) + build_s, 1),
        "memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "cache_bytes": spec.engine.cache_bytes,
    }


def _print(facts: dict[str, Any]) -> None:
    from rich.table import Table

    from mpsearch.engine.views import number

    screen = console()
    sites = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("site", "role", "shape", "formats"):
        sites.add_column(column)
    options = {choice["name"]: choice["options"] for choice in facts["choices"]}
    for site in facts["sites"]:
        shape = "x".join(map(str, site["shape"]))
        tied = f"as {site['choice']}" if site["choice"] not in (None, site["name"]) else None
        sites.add_row(site["name"], site["role"], shape, tied or " ".join(options.get(site["choice"], ["fp32"])))
    screen.print(sites)
    screen.print(f"\n{len(facts['choices'])} choices, {facts['size']:.3g} assignments\n")
    costs = Table(box=None, pad_edge=False, header_style="bold")
    costs.add_column("")
    names = list(facts["costs"]["float"])
    for name in names:
        costs.add_column(name, justify="right")
    for control, measures in facts["costs"].items():
        costs.add_row(control, *(number(name, measures[name]) for name in names))
    screen.print(costs)
    for limit in facts["limits"]:
        screen.print(f"limit: {limit}", soft_wrap=True)
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
