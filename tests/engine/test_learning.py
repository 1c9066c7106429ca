"""A driver that trains: what it learns counts, is kept and is found again."""

from __future__ import annotations

import json
import os
import signal

import pytest
from toy_runs import QUIET

from mpsearch.core.errors import Diverged
from mpsearch.core.format import Format
from mpsearch.drivers.base import Driver
from mpsearch.engine.folder import Folder
from mpsearch.engine.run import resume, run
from mpsearch.ledger.ledger import equal
from mpsearch.spec import registry
from mpsearch.spec.schema import Recipe
from mpsearch.testing.toy import Toy, toy_spec

PENALTIES = (0.0, 0.001, 0.01, 0.1, 1.0, 1.1, 100.0)


class Learns(Driver):
    """Trains once for each penalty, from the widest formats; then once more from where it began."""

    def __init__(self, seen=None):
        self.seen = [] if seen is None else seen

    def search(self, session):
        start = session.space.decode([len(choice.options) - 1 for choice in session.space.choices])
        for penalty in (*PENALTIES, PENALTIES[0]):
            done = session.learn(Recipe(epochs=2, options={"penalty": penalty}), start, f"at {penalty:g}")
            assert done in session.evaluations
            self.seen.append(done)


@pytest.fixture(autouse=True)
def _registered(monkeypatch):
    monkeypatch.setitem(registry.BUILT_IN["drivers"], "learns", f"{__name__}:Learns")


def go(folder, watch=lambda assignment, split: None, toy=Toy, **more):
    def build(spec, weights):
        return toy(**spec.objective.options, watch=watch)

    if Folder(folder).has_run:
        return resume(folder, build=build, **QUIET)
    return run(toy_spec("learns", **more), folder, build=build, **QUIET)


def test_what_is_learned_is_a_member_at_the_formats_it_ended_at(tmp_path):
    found = go(tmp_path)
    learned = [e for e in found.evaluations if e.is_finetuned]
    assert [e.asked_by for e in learned] == [f"learns at {penalty:g}" for penalty in PENALTIES]
    assert all(e.is_searched for e in learned)
    bits = [sum(f.bits for f in e.assignment.values()) for e in learned]
    assert bits[0] == 4 * 8 > bits[-1] == 4 * 2
    assert bits == sorted(bits, reverse=True)
    assert any(e in found.front.members for e in learned)
    assert found.hits == 1, "the same training twice is one"
    for e in learned:
        assert json.loads(Folder(tmp_path).member_weights(e.key).read_text())["assignment"] == e.assignment.texts()


@pytest.mark.parametrize("budget", [3, 6, 11, 12])
def test_a_training_is_one_evaluation_of_the_budget(tmp_path, budget):
    found = go(tmp_path, budget=budget)
    assert len(found.evaluations) == min(budget, 4 + len(PENALTIES))
    assert sum(e.is_finetuned for e in found.evaluations) == max(0, min(budget - 4, len(PENALTIES)))


@pytest.mark.parametrize(("where", "number"), [("epoch 1", 2), ("epoch 2", 7), ("validation", 8)])
def test_killed_and_resumed_trains_nothing_twice(tmp_path, where, number):
    whole, seen, log = tmp_path / "whole", [], tmp_path / "log"
    go(whole, finetune={"epochs": 3, "top": 2})
    pid = os.fork()
    if pid == 0:

        def dies(assignment, split):
            seen.append(split)
            with log.open("a") as file:
                file.write(f"{split}\n")
            if split == where and seen.count(where) == number:
                os.kill(os.getpid(), signal.SIGKILL)

        go(tmp_path / "run", dies, finetune={"epochs": 3, "top": 2})
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    go(tmp_path / "run", lambda assignment, split: seen.append(split))
    assert equal(tmp_path / "run" / "ledger.jsonl", whole / "ledger.jsonl")
    trained = [*log.read_text().splitlines(), *seen].count("epoch 2")
    assert trained == len(PENALTIES) + 2 + (where == "epoch 2")
    before = len(seen)
    go(tmp_path / "run", lambda assignment, split: seen.append(split))
    assert not [split for split in seen[before:] if "epoch" in split]


def test_learned_formats_are_finetuned_like_any_others(tmp_path):
    found = go(tmp_path, finetune={"epochs": 3, "top": 3})
    after = [e for e in found.evaluations if not e.is_searched]
    assert len({e.assignment for e in after}) == len(after) == 3
    learned = {e.assignment for e in found.evaluations if e.asked_by.startswith("learns")}
    assert learned & {e.assignment for e in after}


def test_divergence_is_a_failure_at_the_start_that_is_not_tried_again(tmp_path):
    tried = []

    class Diverging(Toy):
        def finetune(self, assignment, recipe, *args):
            tried.append(recipe.options["penalty"])
            if recipe.options["penalty"] in PENALTIES[2:4]:
                raise Diverged("finetuning diverged: the loss was nan at step 3 of epoch 2.")
            return super().finetune(assignment, recipe, *args)

    found = go(tmp_path, toy=Diverging)
    failed = [e for e in found.evaluations if e.failure]
    assert [e.asked_by for e in failed] == ["learns at 0.01", "learns at 0.1"]
    assert all(set(e.assignment.values()) == {Format("int", 8)} for e in failed)
    assert all("step 3 of epoch 2" in e.failure.message for e in failed)
    assert found.status == "complete"
    assert len(found.evaluations) == 4 + len(PENALTIES)
    before = len(tried)
    go(tmp_path, toy=Diverging)
    assert len(tried) == before
