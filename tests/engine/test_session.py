"""The session: what it answers, in which order, and when it ends."""

import pytest

from mpsearch.core.assignment import Assignment
from mpsearch.core.errors import BadInput
from mpsearch.drivers.base import SearchOver
from mpsearch.engine.session import LedgerSession
from mpsearch.ledger.ledger import Ledger
from mpsearch.testing.toy import Toy, toy_spec


@pytest.fixture
def session(tmp_path):
    """A function that makes a session over the toy, its ledger in `tmp_path`."""
    opened = []

    def make(budget=40, watch=lambda assignment, split: None):
        close()
        ledger = Ledger(tmp_path / "ledger.jsonl", "spec", {})
        opened.append(ledger)
        goals = [goal.goal() for goal in toy_spec().goals]
        return LedgerSession(Toy(watch=watch), ledger, goals, seed=0, budget=budget)

    def close():
        while opened:
            opened.pop().close()

    yield make
    close()


def test_a_batch_is_recorded_in_encode_order_and_returned_as_asked(session):
    work = []
    s = session(budget=6, watch=lambda assignment, split: work.append(assignment))
    a, b, c, d = (s.space.decode(code) for code in [(2, 0, 0, 1), (0, 1, 2, 1), (1, 1, 1, 0), (0, 0, 0, 1)])
    done = s.evaluate([a, b, a, c])
    assert [e.assignment for e in done] == [a, b, a, c]
    assert [e.assignment for e in s.evaluations] == work == [b, c, a]
    assert (s.budget_left, s.hits) == (3, 1)
    assert s.evaluate([c, a])[0] == done[3]
    assert (s.budget_left, s.hits, len(work)) == (3, 3, 3)
    e, f, g = (s.space.decode(code) for code in [(2, 2, 2, 0), (2, 2, 1, 0), (0, 0, 1, 0)])
    with pytest.raises(SearchOver, match="budget"):
        s.evaluate([d, e, a, f, g])  # the first three new ones, in encode order
    assert work[3:] == [d, f, e]
    with pytest.raises(SearchOver, match="budget"):
        s.evaluate([a])


def test_a_later_session_answers_from_the_ledger_and_looks_the_same(tmp_path, session):
    first = session()
    codes = [[(2, 0, 0, 1), (0, 1, 2, 1)], [(0, 1, 2, 1), (1, 1, 1, 1)]]
    batches = [[first.space.decode(code) for code in batch] for batch in codes]
    answers = [first.evaluate(batch) for batch in batches]
    work = []
    again = session(watch=lambda assignment, split: work.append(assignment))
    seen = []
    for batch, answer in zip(batches, answers, strict=True):
        assert again.evaluate(batch) == answer
        seen.append((again.budget_left, again.hits, len(again.evaluations)))
    assert not work
    assert seen == [(38, 0, 2), (37, 1, 3)]


def test_200_hits_in_a_row_end_the_search(session):
    s = session(budget=500)
    one = s.space.decode((0, 0, 0, 0))
    s.evaluate([one])
    for _ in range(199):
        s.evaluate([one])
    with pytest.raises(SearchOver, match="exhausted"):
        s.evaluate([one])
    assert s.hits == 200


def test_a_covered_space_ends_the_search(session):
    s = session(budget=500)
    s.evaluate(list(s.space.assignments()))
    with pytest.raises(SearchOver, match="exhausted"):
        s.evaluate([s.space.decode((0, 0, 0, 0))])


def test_a_driver_that_leaves_the_space_is_told(session):
    with pytest.raises(BadInput, match="'elsewhere' is not in the search space"):
        session().evaluate([Assignment.parse({"elsewhere": "int4"})])
