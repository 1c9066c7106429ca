"""Random problems small enough to enumerate, and what enumeration says about them."""

from __future__ import annotations

from itertools import combinations, product

import numpy as np
from hypothesis import strategies as st

from mpsearch.core.front import non_dominated
from mpsearch.cost.solve.program import total
from mpsearch.cost.terms import Cost, Terms


@st.composite
def problems(draw, costs=2, rows=3, joint=True, choices=4):
    """A score, costs and joint scores. Few distinct numbers, so that there are ties; sums of scores are exact."""
    sizes = draw(st.lists(st.integers(1, 4), max_size=choices))
    every = [key for n in (2, 3, 4) for key in combinations(range(len(sizes)), n)] if joint else []

    def table(shape, numbers):
        n = int(np.prod(shape))
        return np.array(draw(st.lists(numbers, min_size=n, max_size=n))).reshape(shape)

    def together(numbers):
        chosen = draw(st.lists(st.sampled_from(every), unique=True, max_size=3)) if every else []
        return {key: table([sizes[i] for i in key], numbers) for key in chosen}

    def terms():
        top = draw(st.sampled_from([3, 40, 10**9]))
        numbers = st.integers(0, top)
        return Terms.of([table(n, numbers) for n in sizes], draw(st.integers(0, 20)), together(numbers))

    eighths = st.integers(-8, 40).map(lambda n: n / 8)
    score = [table(n, eighths) for n in sizes]
    made = []
    for _ in range(draw(st.integers(1, costs))):
        per, whole = draw(st.sampled_from([(1, False), (8, True), (8, False)]))
        made.append(Cost(tuple(terms() for _ in range(draw(st.integers(1, rows)))), per, whole))
    return score, made, together(eighths)


def enumerated(score, costs, joint):
    """Every assignment: indices [n, choices], score [n], costs [n, costs]."""
    every = list(product(*(range(len(row)) for row in score)))
    indices = np.array(every, dtype=int).reshape(len(every), len(score))
    return indices, total(score, joint, indices), np.stack([cost(indices) for cost in costs], axis=1)


def front_of(score, costs, inside):
    """The distinct points (costs..., score) of the front among those `inside`, sorted."""
    points = np.column_stack([costs, score])[inside]
    return sorted(map(tuple, points[non_dominated(points)].tolist()))


def budgets(draw, values):
    """For each column of `values` None, a value that occurs, or one a little off it."""
    found = []
    for column in values.T:
        value = draw(st.sampled_from(column.tolist()))
        found.append(draw(st.sampled_from([None, value, value + 0.3, value - 0.3])))
    return found


def within(values, limits):
    """Mask [n] of the rows of `values` [n, costs] that no limit excludes."""
    return (values <= [np.inf if limit is None else limit for limit in limits]).all(axis=1)
