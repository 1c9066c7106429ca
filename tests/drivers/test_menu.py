"""Which options are worth asking: what no other beats in every cost and in noise, whatever the other choices are."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mpsearch.core.assignment import Assignment
from mpsearch.core.errors import BadInput
from mpsearch.core.evaluation import Evaluation
from mpsearch.core.format import Format
from mpsearch.core.goal import Goal, Limit
from mpsearch.core.space import Choice, Space
from mpsearch.cost.terms import Cost, Terms
from mpsearch.drivers.menu import Menu
from mpsearch.problem.base import Problem

FORMATS = tuple(map(Format.parse, ("int2", "int4", "int8", "pq2", "esb4")))
SPACE = Space((Choice("a", ("a", "b"), FORMATS), Choice("c", ("c",), FORMATS[:4])))
COUNTS = [5, 4]


class Known(Problem):
    """Costs and relative errors as given; nothing is evaluated."""

    def __init__(self, costs, errors, space=SPACE):
        self.space, self._costs, self._errors = space, costs, errors

    @property
    def forwards(self):
        return 0.0

    def costs(self, assignment):
        return {name: float(cost([self.space.encode(assignment)])[0]) for name, cost in self._costs.items()}

    def cost(self, name):
        return self._costs.get(name)

    def probe(self):
        if self._errors is None:
            raise BadInput("there is no probe")
        return self

    def relative_errors(self):
        return self._errors

    def evaluate(self, assignments, split="validation"):
        return iter(Evaluation(a, split=split) for a in assignments)


def numbers(*shape):
    return arrays(np.int64, shape, elements=st.integers(0, 3))


sums = st.builds(
    lambda a, c, both: Terms.of([a, c], 7, {(0, 1): both}), numbers(COUNTS[0]), numbers(COUNTS[1]), numbers(*COUNTS)
)
errors = st.fixed_dictionaries(
    {
        name: arrays(float, n, elements=st.sampled_from([1e-6, 2e-6, 0.001, 0.01, 0.1]))
        for name, n in (("a", 5), ("b", 5), ("c", 4))
    }
)
EVERY = np.array(list(product(*map(range, COUNTS))), dtype=np.int16)


@settings(max_examples=60)
@given(st.builds(lambda r: Cost((r,)), sums), st.builds(lambda r, s: Cost((r, s)), sums, sums), errors)
def test_what_is_left_out_is_never_the_better_one(total, peak, noise):
    problem = Known({"memory_bytes": total, "activation_peak_bytes": peak}, noise)
    menu = Menu.of(SPACE, problem, [Goal("loss"), Goal("memory_bytes"), Goal("activation_peak_bytes")])
    moved = menu.moved(EVERY)
    assert (total(moved) <= total(EVERY)).all()
    assert (peak(moved) <= peak(EVERY)).all()
    for i, sites in enumerate((("a", "b"), ("c",))):
        assert set(menu.instead[i].tolist()) == set(menu.kept[i].tolist())
        assert (menu.instead[i][menu.kept[i]] == menu.kept[i]).all()
        for site in sites:
            assert (noise[site][menu.instead[i]] <= np.maximum(noise[site], 1e-4)).all()


@settings(max_examples=60)
@given(numbers(5), numbers(4), errors)
def test_of_a_sum_all_that_is_left_out_is_beaten_and_nothing_else(a, c, noise):
    menu = Menu.of(SPACE, Known({"memory_bytes": Cost((Terms.of([a, c]),))}, noise), [Goal("memory_bytes")])
    for table, sites, kept in zip((a, c), (("a", "b"), ("c",)), menu.kept, strict=True):
        points = {(table[k], *(max(noise[s][k], 1e-5) for s in sites)) for k in range(len(table))}
        best = {p for p in points if not any(q != p and all(x <= y for x, y in zip(q, p, strict=True)) for q in points)}
        assert sorted((table[k], *(max(noise[s][k], 1e-5) for s in sites)) for k in kept) == sorted(best)


def test_what_is_slower_beside_some_other_choice_is_no_better():
    noise = {"a": np.array([0.1, 0.05, 0.01, 0.04, 0.05]), "b": np.zeros(5), "c": np.array([0.1, 0.05, 0.01, 0.05])}
    size = Cost((Terms.of([[2, 4, 8, 2, 4], [2, 4, 8, 4]]),))
    both = np.ones(COUNTS, dtype=np.int64)
    both[3, 1] = 2  # pq2 at `a` has no kernel beside int4
    time = Cost((Terms.of([np.zeros(5, int), np.zeros(4, int)], joint={(0, 1): both}),))
    problem = Known({"memory_bytes": size, "latency_s@x": time}, noise)
    alone = Menu.of(SPACE, problem, [Goal("loss"), Goal("memory_bytes")])
    assert alone.kept[0].tolist() == [2, 3]
    together = Menu.of(SPACE, problem, [Goal("loss"), Goal("memory_bytes"), Goal("latency_s@x")])
    assert together.kept[0].tolist() == [0, 1, 2, 3]
    assert together.instead[0].tolist() == [0, 1, 2, 3, 1]


def test_a_cost_that_shall_be_large_is_no_reason_to_leave_out():
    noise = {name: np.array([0.1, 0.05, 0.01, 0.2, 0.3]) for name in "abc"}
    noise["c"] = noise["c"][:4]
    problem = Known({"memory_bytes": Cost((Terms.of([[2, 4, 8, 16, 16], [2, 4, 8, 16]]),))}, noise)
    for goal in (Goal("memory_bytes", True), Goal("memory_bytes", limit=Limit.parse(">= 5"))):
        assert 3 in Menu.of(SPACE, problem, [goal]).kept[0]
    assert 3 not in Menu.of(SPACE, problem, [Goal("memory_bytes")]).kept[0]


@pytest.mark.parametrize("case", ["widths alone", "no probe"])
def test_without_need_or_means_every_option_stays(case):
    formats = FORMATS[:3] if case == "widths alone" else FORMATS
    space = Space((Choice("a", ("a",), (*formats, Format("fp", 32))),))
    problem = Known({}, None if case == "no probe" else {"a": np.full(len(formats) + 1, 0.5)}, space)
    menu = Menu.of(space, problem, [Goal("loss")])
    assert menu.kept[0].tolist() == list(range(len(formats) + 1))
    assert menu.noise[0][:3].tolist() == [1.0, 0.25, 4 * 2.0**-8]
    assert Assignment({"a": FORMATS[0]}) in space
