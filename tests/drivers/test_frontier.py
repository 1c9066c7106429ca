"""The frontier driver: what it promises about limits, ties, sizes and small numbers."""

import logging
from contextlib import suppress

import numpy as np
import pytest

from mpsearch.core.assignment import Assignment
from mpsearch.core.errors import BadInput
from mpsearch.core.evaluation import Evaluation, Failure
from mpsearch.core.format import Format
from mpsearch.core.front import Front, Scale
from mpsearch.core.goal import Goal, Limit
from mpsearch.core.space import Choice, Space
from mpsearch.cost.terms import Cost, Terms
from mpsearch.drivers.base import SearchOver, Session
from mpsearch.drivers.frontier import Frontier
from mpsearch.drivers.menu import Menu
from mpsearch.drivers.optuna import Optuna
from mpsearch.drivers.random import Random
from mpsearch.problem.base import Problem
from mpsearch.testing.toy_probe import ToyProbe

BITS = (2, 3, 4, 8)


class Layers(Problem):
    """`loss` adds up over layers, more than adds up over neighbours; bytes are exact."""

    def __init__(self, layers: int, flat: bool = False, failing: bool = False) -> None:
        rng = np.random.default_rng(layers)
        options = tuple(Format("int", b) for b in BITS)
        self.space = Space(tuple(Choice(f"w{i}", (f"w{i}",), options) for i in range(layers)))
        self.sizes, self.matters = rng.integers(10, 1000, layers), np.exp(rng.normal(0, 1.5, layers)) / layers
        self.flat, self.failing = flat, failing

    @property
    def forwards(self):
        return 0.0

    def costs(self, assignment):
        bits = [assignment.at(f"w{i}").bits for i in range(len(self.sizes))]
        return {"memory_bytes": int(np.ceil(self.sizes @ bits / 8))}

    def cost(self, name):
        if name != "memory_bytes":
            return None
        return Cost((Terms.of([[int(n * b) for b in BITS] for n in self.sizes]),), per=8, whole=True)

    def evaluate(self, assignments, split="validation"):
        for a in assignments:
            if self.failing and a and int(a.key, 16) % 3 == 0:
                yield Evaluation(a, failure=Failure("error", "as asked"))
                continue
            harm = self.matters * 4.0 ** -np.array([a.at(f"w{i}").bits for i in range(len(self.sizes))])
            loss = 0.1 + 16 * (harm.sum() + 200 * (harm[1:] * harm[:-1]).sum())
            yield Evaluation(a, {"loss": 1.0 if self.flat else float(loss), "speed": float(-loss), **self.costs(a)})


class Plain(Session):
    """Keeps what was asked, in order."""

    def __init__(self, problem, goals, budget, seed=0):
        self.problem, self.space, self.goals, self.seed, self.budget = problem, problem.space, goals, seed, budget
        self.known = {}
        self._ask([Assignment(), *problem.space.uniform().values()])
        self.asked = []

    @property
    def evaluations(self):
        return tuple(self.known.values())

    @property
    def budget_left(self):
        return self.budget - len(self.known)

    def _ask(self, assignments):
        for done in self.problem.evaluate(assignments):
            if len(self.known) >= self.budget:
                raise SearchOver
            self.known[done.assignment] = done

    def evaluate(self, assignments, label=""):
        self.asked += assignments
        self._ask([a for a in dict.fromkeys(assignments) if a not in self.known])
        return [self.known[a] for a in assignments]

    def run(self, driver):
        before = set(self.known)
        with suppress(SearchOver):
            driver.search(self)
        if isinstance(driver, Frontier):
            assert len(set(self.asked)) == len(self.asked)
            assert not before & set(self.asked)
            assert all(a in self.space for a in self.asked)
        return self

    def hypervolume(self):
        controls = self.evaluations[: 1 + len(self.space.uniform())]
        done = [e for e in self.evaluations if e.failure is None]
        ideal = self.problem.evaluate([Assignment()])
        return Front.of(done, self.goals).hypervolume(Scale.of([*done, *ideal], controls, self.goals))


GOALS = (Goal("loss"), Goal("memory_bytes"))


@pytest.mark.parametrize("layers", [5, 24])
def test_it_gets_further_than_nsga2_with_a_third_of_the_questions(layers):
    ours = [Plain(Layers(layers), GOALS, 80, seed).run(Frontier()).hypervolume() for seed in range(2)]
    theirs = [Plain(Layers(layers), GOALS, 240, seed).run(Optuna()).hypervolume() for seed in range(2)]
    assert min(ours) > max(theirs)


def test_it_never_asks_what_a_limit_on_a_cost_forbids():
    problem = Layers(20)
    bound = 2.2 / 8 * float(problem.sizes.sum())  # only 2 bits for nearly all of them
    goals = (Goal("loss"), Goal("memory_bytes", limit=Limit.parse(f"<= {bound}")))
    session = Plain(problem, goals, 60).run(Frontier())
    assert len(session.known) == 60
    assert all(problem.costs(a)["memory_bytes"] <= bound for a in session.asked)


class Foretold(Layers):
    """`Layers` whose curvature a look at the float model tells, but for what neighbours do together."""

    def probe(self):
        return ToyProbe(self.space, {f"w{i}": float(m) for i, m in enumerate(self.matters)})


def test_where_choices_outnumber_what_can_be_asked_it_begins_with_what_is_foretold():
    """At equal bits far below uniform; the same questions without a probe find less."""
    bits = 3
    bound = bits / 8 * float(Layers(60).sizes.sum())
    goals = (Goal("loss"), Goal("memory_bytes", limit=Limit.parse(f"<= {bound}")))
    best = {}
    for kind in (Foretold, Layers):
        session = Plain(kind(60), goals, 40).run(Frontier())
        mine = [e.measures for e in session.evaluations if e.assignment]
        best[kind] = min(m["loss"] for m in mine if m["memory_bytes"] <= bound)
        uniform = next(m["loss"] for m in mine if m["memory_bytes"] == np.ceil(bound))
    assert best[Foretold] - 0.1 < 0.5 * (uniform - 0.1)
    assert best[Foretold] < best[Layers]


def test_it_ends_where_a_limit_on_a_cost_leaves_nothing_to_ask():
    problem = Layers(4)
    bound = problem.costs(problem.space.decode([0] * 4))["memory_bytes"] + problem.sizes.min() / 8
    goals = (Goal("loss"), Goal("memory_bytes", limit=Limit.parse(f"<= {bound}")))
    session = Plain(problem, goals, 60).run(Frontier())
    allowed = [a for a in problem.space.assignments() if problem.costs(a)["memory_bytes"] <= bound]
    assert 1 <= len(allowed) < 10
    assert set(allowed) <= set(session.known)


def test_under_a_limit_on_a_measure_it_finds_smaller_models():
    goals = (Goal("loss", limit=Limit.parse("<= baseline * 1.05")), Goal("memory_bytes"))

    def smallest(driver, budget):
        session = Plain(Layers(12), goals, budget).run(driver)
        front = Front.of(session.evaluations, goals, session.evaluations[0].measures)
        return front.pick("cheapest:memory_bytes").measures["memory_bytes"]

    assert smallest(Frontier(), 100) < smallest(Optuna(), 300)


def test_a_flat_loss_is_no_reason_to_stop():
    session = Plain(Layers(5, flat=True), GOALS, 90).run(Frontier())
    assert len(session.known) == 90


@pytest.mark.parametrize(
    "goals",
    [
        (Goal("loss"),),
        (Goal("memory_bytes"),),
        (Goal("speed", maximise=True), Goal("loss")),
        (Goal("loss"), Goal("speed", maximise=True), Goal("memory_bytes")),
    ],
)
def test_any_goals(goals):
    assert len(Plain(Layers(7), goals, 50).run(Frontier()).known) == 50


def test_failures_are_no_data_and_are_not_asked_again():
    session = Plain(Layers(6, failing=True), GOALS, 70).run(Frontier())
    assert len(session.known) == 70
    assert sum(e.failure is not None for e in session.evaluations) > 5


def test_where_narrow_ones_fail_it_learns_to_stay_away():
    class Fragile(Layers):
        def evaluate(self, assignments, split="validation"):
            for done in super().evaluate(assignments, split):
                broken = done.assignment and done.measures["loss"] > 1.0  # six in ten
                yield Evaluation(done.assignment, failure=Failure("error", "diverged")) if broken else done

    session = Plain(Fragile(8), GOALS, 120).run(Frontier())
    late = [session.known[a].failure is not None for a in session.asked[60:] if a in session.known]
    assert np.mean(late) < 0.5


def test_a_least_size_is_kept_to():
    problem = Layers(8)
    bound = 5 / 8 * float(problem.sizes.sum())
    goals = (Goal("loss"), Goal("memory_bytes", limit=Limit.parse(f">= {bound}")))
    session = Plain(problem, goals, 50).run(Frontier())
    assert all(problem.costs(a)["memory_bytes"] >= bound for a in session.asked)


def test_the_whole_space_is_found():
    session = Plain(Layers(3), GOALS, 1000).run(Frontier())
    assert set(session.known) == {Assignment(), *session.space.assignments()}


def test_hundreds_of_choices():
    session = Plain(Layers(200), GOALS, 120).run(Frontier())
    others = Plain(Layers(200), GOALS, 120).run(Optuna())
    assert session.hypervolume() > others.hypervolume()


def test_too_few_losses_for_a_model_are_said(caplog):
    session = Plain(Layers(8), GOALS, 40)
    for a in list(session.known)[2:]:
        session.known[a] = Evaluation(a, failure=Failure("error", "as asked"))
    driver = Frontier()
    with caplog.at_level(logging.WARNING):
        driver.start(session)
        driver.ask(8)  # one choice at a time
        assert len(driver.ask(5)) == 5
    assert "too few losses for a model" in caplog.text


@pytest.mark.parametrize(("options", "message"), [({"batch": 0}, "batch=0"), ({"explore": 1.5}, "explore=1.5")])
def test_impossible_options(options, message):
    with pytest.raises(BadInput, match=message):
        Frontier(**options)


class Kinds(Layers):
    """The same layers, each in formats of four kinds: alike in bytes, the first of least noise at even layers."""

    def __init__(self, layers, probed):
        super().__init__(layers)
        self.kinds, self.probed = ("int", "esb", "sub", "planes"), probed
        options = tuple(Format(kind, b) for kind in self.kinds for b in BITS)
        self.space = Space(tuple(Choice(c.name, c.sites, options) for c in self.space.choices))

    def noise(self, layer, fmt):
        """Squared error, over the squares."""
        return 4.0**-fmt.bits * (1 + (self.kinds.index(fmt.scheme) + 2 * (layer % 2)) % 4)

    def cost(self, name):
        if name != "memory_bytes":
            return None
        sizes = [[int(n * fmt.bits) for fmt in self.space.choices[0].options] for n in self.sizes]
        return Cost((Terms.of(sizes),), per=8, whole=True)

    def probe(self):
        if not self.probed:
            return super().probe()
        return self

    def relative_errors(self):
        return {c.name: np.array([self.noise(i, fmt) for fmt in c.options]) for i, c in enumerate(self.space.choices)}

    def evaluate(self, assignments, split="validation"):
        for a in assignments:
            formats = [a.at(f"w{i}") for i in range(len(self.sizes))]
            noise = [0.0 if fmt.is_float32 else self.noise(i, fmt) for i, fmt in enumerate(formats)]
            yield Evaluation(a, {"loss": 0.1 + 16 * float(self.matters @ noise), **self.costs(a)})


def on_menu(session):
    """Of what was asked, in order: whether nothing else is as small and of less noise at any layer."""
    menu = Menu.of(session.space, Kinds(len(session.space.choices), probed=True), GOALS)
    rows = np.array([session.space.encode(a) for a in session.asked], dtype=np.int16)
    return (menu.moved(rows) == rows).all(axis=1).tolist()


def test_formats_that_others_beat_are_not_asked_and_the_front_is_the_better_for_it():
    session = Plain(Kinds(12, probed=True), GOALS, 60).run(Frontier())
    assert all(on_menu(session))
    blind = Plain(Kinds(12, probed=False), GOALS, 60).run(Frontier())
    assert not all(on_menu(blind))
    assert session.hypervolume() > blind.hypervolume()


def test_what_was_left_out_is_asked_when_nothing_else_is_left():
    problem = Kinds(2, probed=True)
    session = Plain(problem, GOALS, 40).run(Frontier())
    assert len(session.known) == 40
    first = on_menu(session)
    assert first == sorted(first, reverse=True)
    assert 0 < sum(first) <= len(BITS) ** 2


def test_random_search_finds_what_limits_leave():
    """Of 3**-30 of all that is drawn, none is asked that is forbidden."""
    problem = Layers(30)
    bound = 2.2 / 8 * float(problem.sizes.sum())
    session = Plain(problem, (Goal("loss"), Goal("memory_bytes", limit=Limit.parse(f"<= {bound}"))), 60).run(Random())
    assert len(session.known) == 60
    assert all(problem.costs(a)["memory_bytes"] <= bound for a in session.asked)
