"""Racing in runs: what it refuses, what it drops and what it never does."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
from pydantic import ValidationError
from toy_runs import QUIET, build, replace_fields

from mpsearch.core.assignment import Assignment
from mpsearch.core.errors import BadInput
from mpsearch.core.goal import Goal
from mpsearch.engine.folder import Folder
from mpsearch.engine.racing import Racing
from mpsearch.engine.report import markdown
from mpsearch.engine.run import resume, run
from mpsearch.engine.stop import Stop
from mpsearch.engine.views import View
from mpsearch.ledger.ledger import equal
from mpsearch.testing.toy import Toy, toy_spec


def spec_of(driver="exhaustive", racing=True, budget=82, **more):
    return toy_spec(driver, budget=budget, toy={"batches": 10}, racing={"enabled": racing}, **more)


class Rescored(Toy):
    """A toy whose scores pass through `change`, of one batch at a time."""

    def __init__(self, change, **options):
        super().__init__(**options)
        self._change = change

    def race(self, assignment, order, goes_on):
        last = {}

        def look(scores):
            scores = {name: self._change(values.copy()) for name, values in scores.items()}
            last.update({name: values for name, values in scores.items() if values is not None})
            return goes_on(dict(last))

        done = super().race(assignment, order, look)
        mean = {name: float(values.mean()) for name, values in last.items()}
        return replace(done, measures={**done.measures, **mean})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: None, "'accuracy' is no mean over samples: .* one score for each of the 1000 samples"),
        (lambda x: 2 * x, "'accuracy' has no known best value"),
        (lambda x: x * (np.arange(len(x)) < 500), "the batches are no random parts of the data"),
    ],
    ids=["no mean", "unbounded", "sorted"],
)
def test_what_cannot_be_raced_is_refused_before_the_search(change, message, tmp_path):
    with pytest.raises(BadInput, match=message):
        run(
            spec_of(), tmp_path / "run", build=lambda spec, weights: Rescored(change, **spec.objective.options), **QUIET
        )
    assert len(Folder(tmp_path / "run").ledger.read_text().splitlines()) == 1 + 4, "controls alone"


def test_one_batch_and_noise_are_refused(tmp_path):
    with pytest.raises(BadInput, match="all validation data is one batch"):
        run(toy_spec(racing={"enabled": True}), tmp_path / "run", build=build, **QUIET)
    assert not Folder(tmp_path / "run").has_run
    with pytest.raises(ValidationError, match="noisy"):
        replace_fields(spec_of(), objective={"use": "toy", "noisy": True})


def test_the_front_is_that_of_a_run_without_racing(tmp_path):
    """The exhaustive driver asks the same either way, so that what racing drops can be held against the truth."""
    lost = saved = 0.0
    for seed in range(5):
        whole, raced = (
            run(spec_of(racing=r, seed=seed), tmp_path / f"{r}{seed}", build=build, **QUIET) for r in (False, True)
        )
        assert {e.key for e in raced.evaluations} == {e.key for e in whole.evaluations}
        full = {e.key: e for e in whole.evaluations}
        assert all(e.measures == full[e.key].measures for e in raced.evaluations if e.fidelity == 1)
        controls = [raced.baseline, *raced.uniform.values()]
        assert all(e.fidelity == 1 for e in [*controls, *raced.front.members])
        members = {e.key for e in whole.front.members}
        lost += len(members - {e.key for e in raced.front.members}) / len(members)
        saved += raced.saved
        assert raced.scale == whole.scale or lost
    assert lost / 5 <= 0.05
    assert saved / 5 > 0.5


@pytest.mark.parametrize("limit", [">= baseline - 0.05", ">= 0.93"])
def test_a_missed_limit_ends_an_evaluation(limit, tmp_path):
    """Accuracy alone is the goal and float has most of it: with a limit, more of what is far below is dropped."""
    goals = [{"name": "accuracy", "maximise": True, "limit": limit}, {"name": "memory_bytes"}]
    raced = run(spec_of(goals=2), tmp_path / "free", build=build, **QUIET)
    limited = run(replace_fields(spec_of(), goals=goals), tmp_path / "limited", build=build, **QUIET)
    assert limited.saved > raced.saved + 0.02
    bound = limited.front.goals[0].limit.bound(limited.baseline.measures["accuracy"])
    dropped = [e for e in limited.evaluations if e.fidelity < 1]
    whole = {e.assignment: e for e in Toy(batches=10).evaluate([e.assignment for e in dropped])}
    base = {m.assignment: m for m in limited.front.members}
    wrong = [
        e
        for e in (whole[d.assignment] for d in dropped)
        if e.measures["accuracy"] >= bound
        and not any(
            m.measures["accuracy"] >= e.measures["accuracy"]
            and m.measures["memory_bytes"] <= e.measures["memory_bytes"]
            for m in base.values()
        )
    ]
    assert len(wrong) <= 0.05 * len(dropped)


def test_what_is_tolerated_saves_more_and_costs_no_more(tmp_path):
    strict = run(spec_of(), tmp_path / "strict", build=build, **QUIET)
    spec = replace_fields(spec_of(), racing={"enabled": True, "tolerance": 2.0})
    loose = run(spec, tmp_path / "loose", build=build, **QUIET)
    assert loose.saved > strict.saved + 0.02
    dropped = Toy(batches=10).evaluate([e.assignment for e in loose.evaluations if e.fidelity < 1])
    members = [m.measures | {"error": m.stderr["accuracy"]} for m in loose.front.members]
    beaten = [
        any(
            m["memory_bytes"] <= e.measures["memory_bytes"]
            and e.measures["accuracy"] <= m["accuracy"] + 2 * m["error"] + 1e-12
            for m in members
        )
        for e in dropped
    ]
    assert sum(beaten) >= 0.95 * len(beaten)


def test_an_exact_limit_needs_one_batch(tmp_path):
    goals = [{"name": "accuracy", "maximise": True}, {"name": "memory_bytes", "limit": "<= 500"}]
    driver = {"use": "sensitivity", "budget": 30}  # it measures options alone, those above a limit too
    raced = run(replace_fields(spec_of(), goals=goals, driver=driver), tmp_path / "run", build=build, **QUIET)
    above = [e for e in raced.evaluations[4:] if e.measures["memory_bytes"] > 500]
    assert above
    assert all(e.fidelity == 0.1 for e in above)


def racing_of(problem, tmp_path):
    """With the float model and two uniform controls evaluated."""
    racing = Racing(problem, [Goal("accuracy", maximise=True), Goal("memory_bytes")], 0.95, 0.0, 0, Folder(tmp_path))
    tmp_path.mkdir(exist_ok=True)
    controls = [Assignment(), problem.space.decode([0] * 4), problem.space.decode([2] * 4)]
    found = [replace(done, asked_by="uniform") for done in score(racing, controls)]
    racing.begin(found[0].measures, *found)
    return racing


def score(racing, assignments):
    found = []
    for done in racing.evaluate(assignments):
        racing.keep(done)
        racing.saw(done)
        found.append(done)
    return found


def test_who_joins_the_front_beats_those_asked_for_with_it(tmp_path):
    toy = Toy(batches=10)
    good, bad = toy.space.decode([1, 0, 0, 1]), toy.space.decode([0, 2, 2, 0])
    racing = racing_of(toy, tmp_path / "both")
    asked = sorted([bad, good], key=racing.turn)
    assert asked == [good, bad], "the cheaper one is first"
    joined, dropped = score(racing, asked)
    assert joined.fidelity == 1 > dropped.fidelity
    alone = racing_of(toy, tmp_path / "alone")
    [later] = score(alone, [bad])
    assert later.fidelity > dropped.fidelity


def test_every_assignment_has_an_order_of_batches_of_its_own(tmp_path):
    orders = []

    class Watched(Toy):
        def race(self, assignment, order, goes_on):
            orders.append(tuple(order))
            return super().race(assignment, order, goes_on)

    toy = Watched(batches=10)
    racing = racing_of(toy, tmp_path)
    some = list(toy.space.assignments())[:40]
    first = [(e.assignment, o) for e, o in zip(score(racing, some), orders[3:], strict=True)]
    assert len({o for _, o in first}) == 40
    assert all(sorted(o) == list(range(10)) for o in orders)
    orders.clear()
    score(racing, some[::-1])
    assert dict(first) == dict(zip(some[::-1], orders, strict=True)), "the same whenever it is asked for"


def test_lost_scores_are_made_again(tmp_path):
    spec = spec_of("optuna", budget=50, options={"sampler": "nsga2"})
    run(spec, tmp_path / "whole", build=build, **QUIET)
    stop, seen = Stop(), []

    def watched(spec, weights):
        def watch(assignment, split):
            seen.append(assignment)
            if len(seen) == 30:
                stop.signum = 15

        return Toy(**spec.objective.options, watch=watch)

    run(spec, tmp_path / "run", build=watched, stop=stop, **QUIET)
    shutil.rmtree(Folder(tmp_path / "run").scores)
    resume(tmp_path / "run", build=build, **QUIET)
    assert equal(Folder(tmp_path / "run").ledger, Folder(tmp_path / "whole").ledger)


def test_the_report_says_what_was_saved(tmp_path):
    raced = run(spec_of(), tmp_path / "run", build=build, **QUIET)
    text = markdown(View.of(raced))
    assert f"{raced.raced} ended early" in text
    assert f"saved {raced.saved:.0%} of the batches" in text
    assert {p.key for p in View.of(raced).points} == {e.key for e in raced.evaluations if e.fidelity == 1}
