"""The least and the most that a cost can be over a space, against the answers of trying every assignment."""

from itertools import product

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from mpsearch.core.assignment import Assignment
from mpsearch.cost.terms import Cost, Terms
from mpsearch.engine.limits import reach
from mpsearch.testing.toy import Toy


class OneCost(Toy):
    """A toy whose memory is any cost over 4 choices of 3 options."""

    def __init__(self, cost):
        super().__init__()
        self._cost = cost

    def cost(self, name):
        return self._cost if name == "memory_bytes" else None


def entries(*shape):
    size = int(np.prod(shape))
    return st.lists(st.integers(-50, 50), min_size=size, max_size=size).map(lambda v: np.array(v).reshape(shape))


PAIRS = st.dictionaries(st.sampled_from([(0, 1), (1, 2), (0, 3), (2, 3)]), entries(3, 3), max_size=3)
TERMS = st.builds(Terms.of, st.lists(entries(3), min_size=4, max_size=4), st.integers(0, 500), PAIRS)
COSTS = st.builds(lambda rows, per, whole: Cost(tuple(rows), per, whole), st.lists(TERMS, min_size=1, max_size=3),
                  st.sampled_from([1, 8, 10**12]), st.booleans())  # fmt: skip


@settings(max_examples=40)
@given(COSTS)
def test_reach_is_that_of_all_assignments(cost):
    values = cost(list(product(range(3), repeat=4)))
    assert reach(OneCost(cost)) == {"memory_bytes": (values.min(), values.max())}


def test_reach_of_the_toy_and_of_a_space_without_choices():
    toy = Toy()
    measured = [toy.costs(a) for a in toy.space.assignments()]
    assert reach(toy) == {
        name: (min(m[name] for m in measured), max(m[name] for m in measured)) for name in toy.costs(Assignment())
    }
    fixed = Toy(layers=0)
    assert reach(fixed) == {name: (value, value) for name, value in fixed.costs(Assignment()).items()}
