"""Limits that cannot be met: what arithmetic can tell is refused at once, with the tightest value that can be had."""

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from toy_runs import QUIET, build, replace_fields, with_goals

from mpsearch.core.assignment import Assignment
from mpsearch.core.errors import NothingFeasible
from mpsearch.core.format import FP32, Format
from mpsearch.core.goal import Goal, Limit
from mpsearch.engine.folder import Folder
from mpsearch.engine.limits import refuse_unreachable, unmet
from mpsearch.engine.run import run
from mpsearch.testing.toy import Toy, toy_spec

TOY = Toy()
COSTS = [TOY.costs(a) for a in [Assignment(), *TOY.space.assignments()]]


def limited(**limits):
    return [Goal("accuracy", maximise=True), *(Goal(name, limit=Limit.parse(text)) for name, text in limits.items())]


@given(st.integers(250, 3000), st.floats(0.002, 0.02))
def test_refused_exactly_where_no_assignment_keeps_to_the_limits(memory, latency):
    reachable = any(c["memory_bytes"] <= memory and c["latency_s"] <= latency for c in COSTS)
    goals = limited(memory_bytes=f"<= {memory}", latency_s=f"<= {latency!r}")
    if reachable:
        refuse_unreachable(TOY, goals)
    else:
        with pytest.raises(NothingFeasible):
            refuse_unreachable(TOY, goals)


@pytest.mark.parametrize("name", ["memory_bytes", "latency_s"])
def test_the_value_named_is_the_tightest_that_works(name):
    with pytest.raises(NothingFeasible) as error:
        refuse_unreachable(TOY, limited(**{name: "<= baseline * 0.001"}))
    assert error.value.exit_code == 4
    (named,) = re.findall(rf"goals: {name} <= baseline \* 0.001 cannot be met: (\S+) is the least", str(error.value))
    refuse_unreachable(TOY, limited(**{name: f"<= {named}"}))
    assert float(named) == min(c[name] for c in COSTS)
    with pytest.raises(NothingFeasible):
        refuse_unreachable(TOY, limited(**{name: f"<= {float(named) * (1 - 1e-9)!r}"}))


def test_every_limit_that_is_out_of_reach_is_named():
    with pytest.raises(NothingFeasible) as error:
        refuse_unreachable(TOY, limited(memory_bytes="<= 1", latency_s="<= 1e-9"))
    assert [line.split()[1] for line in str(error.value).splitlines()] == ["memory_bytes", "latency_s"]


def test_limits_that_hold_alone_but_not_together():
    class Opposed(Toy):
        """What int2 saves of one cost, int8 saves of the other."""

        def costs(self, assignment):
            found = super().costs(assignment)
            return {**found, "latency_s": 1 - found["latency_s"]}

        def cost(self, name):
            cost = super().cost(name)
            if name != "latency_s":
                return cost
            (row,) = cost.rows
            return replace(cost, rows=(replace(row, unary=tuple(-u for u in row.unary), constant=8000 - row.constant),))

    toy = Opposed(layers=3)
    costs = [toy.costs(a) for a in toy.space.assignments()]
    memory, latency = (sorted(c[name] for c in costs)[2] for name in ("memory_bytes", "latency_s"))
    refuse_unreachable(toy, limited(memory_bytes=f"<= {memory}"))
    assert not any(c["memory_bytes"] <= memory and c["latency_s"] <= latency for c in costs)
    both = limited(memory_bytes=f"<= {memory}", latency_s=f"<= {latency!r}")
    with pytest.raises(NothingFeasible, match=r"not all together: memory_bytes is at least .*; latency_s is at least"):
        refuse_unreachable(toy, both)


def test_what_a_run_refuses_leaves_the_folder_for_the_next_try(tmp_path):
    scored = []
    goals = [{"name": "accuracy", "maximise": True}, {"name": "memory_bytes", "limit": "<= 100"}]
    watched = lambda spec, weights: Toy(watch=lambda *asked: scored.append(asked))  # noqa: E731
    with pytest.raises(NothingFeasible, match="memory_bytes <= 100 cannot be met: 296 is the least"):
        run(with_goals(goals), tmp_path, build=watched, **QUIET)
    assert not scored
    assert not Folder(tmp_path).has_run
    goals[1]["limit"] = "<= 296"
    assert len(run(with_goals(goals), tmp_path, build=build, **QUIET).front.members) == 1


@pytest.mark.parametrize("limit", ["<= baseline", ">= 1e9", "<= 1e9"])
def test_limits_that_arithmetic_does_not_refuse(limit):
    refuse_unreachable(TOY, limited(memory_bytes=limit))
    refuse_unreachable(TOY, limited(energy_j="<= 0"))  # not a cost: only measuring can tell
    refuse_unreachable(Toy(layers=0), limited(memory_bytes=limit))


def test_the_float_model_counts_where_it_lies_outside_the_space():
    wide = Toy(options=(Format("int", 8),))
    wide.costs = lambda assignment: {"memory_bytes": 10.0}  # scales and zero points can cost more than they save
    refuse_unreachable(wide, limited(memory_bytes="<= 100"))
    assert FP32 not in wide.space.choices[0].options


@pytest.mark.parametrize(
    ("accuracy", "memory", "said"),
    [
        (">= 2", "<= 400", r"accuracy >= 2 \(the best reached is (\S+)\)"),
        (
            ">= 0.97",
            "<= 400",
            r"accuracy >= 0.97 \(the best reached is (\S+)\) and memory_bytes <= 400 \(.* is 296\) together",
        ),
    ],
)
def test_what_only_the_search_can_tell_names_the_best_reached(tmp_path, accuracy, memory, said):
    goals = [{"name": "accuracy", "maximise": True, "limit": accuracy}, {"name": "memory_bytes", "limit": memory}]
    result = run(with_goals(goals), tmp_path, build=build, **QUIET)
    assert result.status == "infeasible"
    (best,) = re.fullmatch(said, unmet(result)).groups()
    assert float(best) == max(e.measures["accuracy"] for e in result.evaluations)


class Counting(Toy):
    """Remembers what was scored."""

    def __init__(self, **options):
        super().__init__(**options)
        self.scored = []

    def evaluate(self, assignments, split="validation"):
        for done in super().evaluate(assignments, split):
            self.scored.append(done.assignment)
            yield done


@pytest.mark.parametrize("driver", ["exhaustive", "random", "optuna", "frontier", "abs"])
def test_what_a_limit_on_a_cost_forbids_is_never_run(driver, tmp_path):
    problem, limit = Counting(), 700
    goals = [{"name": "accuracy", "maximise": True}, {"name": "memory_bytes", "limit": f"<= {limit}"}]
    found = run(
        replace_fields(toy_spec(driver, budget=30), goals=goals), tmp_path / "run", build=lambda s, w: problem, **QUIET
    )
    controls = ("baseline", "uniform")
    asked = [e.assignment for e in found.evaluations if e.asked_by.split()[0] not in controls]
    assert asked
    assert all(problem.costs(a)["memory_bytes"] <= limit for a in asked)
    assert set(problem.scored) <= {e.assignment for e in found.evaluations}


def test_a_limit_that_random_never_meets_still_ends(tmp_path):
    """Jointly impossible limits on a cost and a measure: the nearest points are kept."""
    goals = [{"name": "accuracy", "maximise": True, "limit": ">= 2"}, {"name": "memory_bytes", "limit": "<= 300"}]
    found = run(replace_fields(toy_spec("random", budget=12), goals=goals), tmp_path / "run", build=build, **QUIET)
    assert found.status == "infeasible"
