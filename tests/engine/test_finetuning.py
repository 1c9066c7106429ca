"""Finetuning at the end of a run: who is trained, what the front, the files and a killed run make of it."""

from __future__ import annotations

import csv
import json
import math
import os
import signal

import pytest
from toy_runs import QUIET, replace_fields

from mpsearch.core.errors import BadInput, Diverged
from mpsearch.engine import report
from mpsearch.engine.finetuning import promising
from mpsearch.engine.folder import Folder
from mpsearch.engine.load import load_result
from mpsearch.engine.run import resume, run
from mpsearch.engine.stop import Stop
from mpsearch.engine.views import View
from mpsearch.ledger.ledger import equal, read
from mpsearch.testing.toy import Toy, toy_spec

TOP = 4
PLAIN = "50f8633f960dc3e4a177bd2f60a25876a571cdee205243ddd0efd2bd6f2076c3"
"""Digest of the spec without finetuning, as it was before there was any."""


def spec(**more):
    recipe = {"epochs": 3, "top": TOP, **more.pop("recipe", {})}
    return toy_spec("exhaustive", budget=82, finetune=recipe, **more)


def logged(log, dies_at=math.inf):
    """A `build` whose toy notes every epoch and evaluation, and kills its process at one of them."""

    def watch(assignment, split):
        with log.open("a") as file:
            file.write(f"{split} {assignment.key}\n")
        if log.read_text().count("epoch") == dies_at and split.startswith("epoch"):
            os.kill(os.getpid(), signal.SIGKILL)

    return lambda spec, weights: Toy(**spec.objective.options, watch=watch)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finetuned") / "run"
    run(spec(), folder, build=build_toy, **QUIET)
    return folder


def test_finetuned_members_are_on_the_front_as_what_they_are(whole):
    found = load_result(whole)
    trained = [e for e in found.evaluations if e.is_finetuned]
    assert len(trained) == TOP
    assert all(e.asked_by == "finetune" for e in trained)
    assert any(e in found.front.members for e in trained)
    plain = {e.key: e for e in found.evaluations if not e.is_finetuned}
    for e in trained:
        before = plain[e.assignment.key]
        assert e.key != before.key
        assert e.measures["accuracy"] > before.measures["accuracy"]
        assert e.measures["memory_bytes"] == before.measures["memory_bytes"]
        assert Folder(whole).member_weights(e.key).is_file()
        if e in found.front.members:
            assert found.test[e.key].measures["accuracy"] == pytest.approx(e.measures["accuracy"] - 0.01)
    assert {p.parent.name for p in whole.glob("members/*/*")} == {e.key for e in trained}


def test_files_tell_them_apart(whole):
    members = json.loads((whole / "front.json").read_text())["members"]
    recipes = {member["recipe"] for member in members}
    assert None in recipes or len(members) <= TOP
    digest = spec().finetune.recipe.digest
    assert digest in recipes
    rows = list(csv.DictReader((whole / "front.csv").open()))
    assert {row["recipe"] for row in rows if row["point"] == "float"} == {""}
    assert digest in {row["recipe"] for row in rows}
    text = report.markdown(View.of(load_result(whole)))
    assert "## What finetuning brought" in text
    assert "4 assignments were trained after the search (epochs 3, optimizer adam" in text
    assert "w finetuned" in text


def test_the_promising_are_those_of_the_front_without_limits_on_what_is_measured(tmp_path):
    goals = [{"name": "accuracy", "maximise": True, "limit": ">= baseline - 0.0001"}, {"name": "memory_bytes"}]
    strict = run(
        replace_fields(toy_spec("exhaustive", budget=82), goals=goals), tmp_path / "strict", build=build_toy, **QUIET
    )
    free = run(toy_spec("exhaustive", budget=82), tmp_path / "free", build=build_toy, **QUIET)
    assert len(strict.front.members) < len(free.front.members)
    everything = [e.assignment for e in free.front.members if e.assignment]
    assert [e.assignment for e in promising(strict, 100)] == everything
    few = promising(free, 3)
    assert len(few) == 3
    assert [e.assignment for e in few] == [a for a in everything if a in {e.assignment for e in few}]


def build_toy(spec, weights):
    return Toy(**spec.objective.options)


@pytest.mark.parametrize("moment", [2, 4, 3 * TOP])
def test_killed_while_training_and_resumed_equals_uninterrupted(tmp_path, whole, moment):
    folder, first, second = tmp_path / "run", tmp_path / "first", tmp_path / "second"
    pid = os.fork()
    if pid == 0:
        run(spec(), folder, build=logged(first, moment), **QUIET)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    resume(folder, build=logged(second), **QUIET)
    assert equal(folder / "ledger.jsonl", whole / "ledger.jsonl")
    trained = [line.split()[-1] for line in second.read_text().splitlines() if line.startswith("epoch 3")]
    finished = [line.split()[-1] for line in first.read_text().splitlines() if line.startswith("epoch 3")]
    in_training = first.read_text().splitlines()[-1].split()[-1]
    assert len(trained) == len(set(trained))
    assert not set(trained) & (set(finished) - {in_training})
    log = second.read_text()
    resume(folder, build=logged(second), **QUIET)
    assert "epoch" not in second.read_text()[len(log) :]


def test_a_signal_during_training_leaves_a_run_to_be_resumed(tmp_path, whole):
    stop = Stop()

    class Stopped(Toy):
        def finetune(self, *args):
            stop.signum = signal.SIGTERM
            return super().finetune(*args)

    found = run(spec(), tmp_path / "run", build=lambda spec, weights: Stopped(), stop=stop, **QUIET)
    assert found.status == "interrupted"
    assert not any(e.is_finetuned for e in found.evaluations)
    assert resume(tmp_path / "run", build=build_toy, **QUIET).status == "complete"
    assert equal(tmp_path / "run" / "ledger.jsonl", whole / "ledger.jsonl")


def test_divergence_is_recorded_and_the_run_goes_on(tmp_path):
    class Diverging(Toy):
        def finetune(self, assignment, *args):
            if int(assignment.key, 16) % 2:
                raise Diverged("finetuning diverged: the loss was nan at step 3 of epoch 2.")
            return super().finetune(assignment, *args)

    found = run(spec(recipe={"top": 30}), tmp_path / "run", build=lambda spec, weights: Diverging(), **QUIET)
    trained = [e for e in found.evaluations if e.is_finetuned]
    for e in trained:
        assert (e.failure is not None) == bool(int(e.assignment.key, 16) % 2)
    failures = [e.failure for e in trained if e.failure]
    assert {f.kind for f in failures} == {"nan"}
    assert "step 3 of epoch 2" in failures[0].message
    assert found.status == "complete"


def test_what_cannot_be_trained_is_refused_before_the_search(tmp_path):
    class Untrainable(Toy):
        def require_training(self):
            raise BadInput("objective Toy cannot be trained: it does not define training_batches(epoch).")

        def evaluate(self, assignments, split="validation"):
            raise AssertionError("the search began")

    with pytest.raises(BadInput, match="training_batches"):
        run(spec(), tmp_path / "run", build=lambda spec, weights: Untrainable(), **QUIET)


def test_members_that_lost_their_weights_are_trained_again(tmp_path, whole):
    folder = tmp_path / "run"
    run(spec(), folder, build=build_toy, **QUIET)
    before = read(folder / "ledger.jsonl")
    lines = (folder / "ledger.jsonl").read_text().splitlines(keepends=True)
    last = max(i for i, line in enumerate(lines) if '"split": "test"' in line and '"recipe": null' not in line)
    (folder / "ledger.jsonl").write_text("".join(lines[:last]))
    for path in folder.glob("members/*/*"):
        path.unlink()
    resume(folder, build=build_toy, **QUIET)
    assert [e.measures for e in read(folder / "ledger.jsonl")] == [e.measures for e in before]


def test_a_space_without_finetuning_keeps_its_digest():
    assert toy_spec("exhaustive", budget=82).sha256 == PLAIN
    assert spec().sha256 != PLAIN
    recipe = spec().finetune
    assert recipe.recipe.digest == spec(recipe={"top": 7}).finetune.recipe.digest
    assert recipe.recipe.digest != spec(recipe={"epochs": 4}).finetune.recipe.digest
