"""What the exam does not ask: options, order, sizes."""

import warnings
from dataclasses import dataclass, field

import pytest

from mpsearch.core.errors import BadInput
from mpsearch.core.evaluation import Evaluation
from mpsearch.core.format import Format
from mpsearch.core.goal import Goal
from mpsearch.core.space import Choice, Space
from mpsearch.drivers.base import SearchOver, Session
from mpsearch.drivers.exhaustive import Exhaustive
from mpsearch.drivers.optuna import SAMPLERS, Optuna
from mpsearch.drivers.random import Random


def space(choices, options=3):
    formats = tuple(Format("int", 2 + i) for i in range(options))
    return Space(tuple(Choice(f"w{i}", (f"w{i}",), formats) for i in range(choices)))


@dataclass
class Listener(Session):
    """Remembers what is asked, batch by batch, and ends after `limit` assignments."""

    space: Space
    limit: int
    seed: int = 0
    goals: tuple = (Goal("bits"), Goal("index"))
    asked: list = field(default_factory=list)

    @property
    def evaluations(self):
        return []

    @property
    def budget_left(self):
        return self.limit

    def evaluate(self, assignments):
        self.asked.append(list(assignments))
        if sum(map(len, self.asked)) >= self.limit:
            raise SearchOver
        scores = [{"bits": sum(f.bits for f in a.values()), "index": -a.at("w0").bits} for a in assignments]
        return [Evaluation(a, scores) for a, scores in zip(assignments, scores, strict=True)]

    def listen(self, driver):
        with pytest.raises(SearchOver):
            driver.search(self)
        return [a for batch in self.asked for a in batch]


def test_exhaustive_walks_the_trie_lazily():
    listener = Listener(space(30), limit=3000)  # 3**30 points cannot be listed
    asked = listener.listen(Exhaustive(max_size=3**30, chunk=100))
    assert {len(batch) for batch in listener.asked} == {100}
    codes = [listener.space.encode(a) for a in asked]
    assert codes == sorted(codes)
    assert codes[:3] == [(*[0] * 29, last) for last in range(3)]


def test_exhaustive_refuses_a_space_that_is_too_large():
    with pytest.raises(BadInput, match=r"59,049 assignments, more than max_size=59,048.*optuna, random"):
        Exhaustive(max_size=59_048).search(Listener(space(10), limit=1))


def test_random_asks_nothing_twice_and_ends_with_the_space():
    listener = Listener(space(4), limit=10**9)
    Random(batch=7).search(listener)
    asked = [a for batch in listener.asked for a in batch]
    assert len(asked) == len(set(asked)) == 81
    assert set(asked) == set(listener.space.assignments())


def test_seeds_differ():
    firsts = {Listener(space(8), limit=16, seed=seed).listen(Random())[0] for seed in range(5)}
    assert len(firsts) == 5
    firsts = {Listener(space(8), limit=16, seed=seed).listen(Optuna("qmc"))[0] for seed in range(5)}
    assert len(firsts) == 5


@pytest.mark.parametrize(
    ("sampler", "limit", "batch"), [("nsga2", 200, 25), ("nsga3", 60, 10), ("tpe", 30, 1), ("qmc", 64, 16)]
)
def test_default_batches(sampler, limit, batch):
    listener = Listener(space(5), limit=limit)
    listener.listen(Optuna(sampler))
    assert {len(asked) for asked in listener.asked} == {batch}


def test_batch_and_population_are_as_set():
    listener = Listener(space(5), limit=50)
    listener.listen(Optuna("nsga2", batch=5, population=20))
    assert {len(asked) for asked in listener.asked} == {5}


def test_a_sampler_that_repeats_itself_still_finds_new_points():
    listener = Listener(space(4), limit=120)
    asked = listener.listen(Optuna("tpe"))
    assert len(set(asked)) >= 58  # 26 of 60 where repeats lead nowhere


def test_nsga2_moves_towards_the_front():
    """Both goals are best at one corner each; the second half of the search lies nearer to them than the first."""
    listener = Listener(space(12), limit=400)
    asked = listener.listen(Optuna("nsga2"))
    bits = [sum(f.bits for w, f in a.items() if w != "w0") for a in asked]
    assert sum(bits[300:]) / 100 < sum(bits[:50]) / 50 - 5


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_nothing_warns(sampler):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Listener(space(3), limit=14).listen(Optuna(sampler))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Random(batch=0), "batch=0"),
        (lambda: Exhaustive(max_size=0), "max_size=0"),
        (lambda: Exhaustive(chunk=0), "chunk=0"),
        (lambda: Optuna("nsga22"), "Did you mean 'nsga2'"),
        (lambda: Optuna(batch=0), "batch=0"),
        (lambda: Optuna(population=1), "population=1"),
        (lambda: Optuna("tpe", population=10), "belongs to nsga2 and nsga3"),
    ],
)
def test_impossible_options(make, message):
    with pytest.raises(BadInput, match=message):
        make()
