"""Objectives by the name of the bundled space that uses them."""

from pathlib import Path

import pytest

from mpsearch.problem.build import make_objective
from mpsearch.spec.load import load_spec
from mpsearch.testing.objectives import unavailable

SPACES = Path(__file__).parents[2] / "search_spaces"


@pytest.fixture(scope="session")
def maker():
    """`maker(name)` gives a function that makes the objective of a space anew; skips where its data are missing."""
    known = {}

    def of(name):
        if name not in known:
            spec = load_spec(SPACES / f"{name}.yaml")
            known[name] = lambda: make_objective(spec)
            known[name].reason = unavailable(known[name])
        if known[name].reason:
            pytest.skip(known[name].reason)
        return known[name]

    return of
