"""Variants of a model in one run: one front, limits of the base, files that tell them apart, runs that are resumed."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import signal
from dataclasses import replace
from textwrap import dedent

import pytest
from pydantic import ValidationError
from toy_runs import QUIET, replace_fields

from mpsearch.core.errors import BadInput, NothingFeasible
from mpsearch.core.evaluation import BASE, Evaluation
from mpsearch.core.front import Front
from mpsearch.cost.terms import Cost
from mpsearch.engine import plots_costs, report
from mpsearch.engine.costs import Costs
from mpsearch.engine.folder import Folder
from mpsearch.engine.load import load_result
from mpsearch.engine.run import resume, run
from mpsearch.engine.session import LedgerSession
from mpsearch.engine.tracking_content import evaluation_runs
from mpsearch.engine.views import View
from mpsearch.ledger.ledger import Ledger, equal, read
from mpsearch.spec.load import load_spec
from mpsearch.testing.toy import GOALS, Toy, toy_spec

WIDE = "width=2"


class Wide(Toy):
    """A toy whose layers cost `width` times as much; twice the width loses a twentieth."""

    def __init__(self, width=1, **options):
        super().__init__(**options)
        self.width = width
        self.fingerprint = hashlib.sha256(f"{self.fingerprint} {width}".encode()).hexdigest()
        self.sites = tuple(replace(s, shape=(s.shape[0] * width,)) for s in self.sites)
        self.keeps_weights = True

    def save_weights(self, path):
        path.write_text(str(self.width))

    def costs(self, assignment):
        return {name: value * self.width for name, value in super().costs(assignment).items()}

    def cost(self, name):
        found = super().cost(name)
        return None if found is None else Cost(found.rows, found.per // self.width)

    def shares(self, name, assignment):
        return {part: value * self.width for part, value in super().shares(name, assignment).items()}

    def _accuracy(self, assignment):
        return 0.98 - (0.98 - super()._accuracy(assignment)) / 20 ** (self.width - 1)


def build(spec, weights):
    made = Wide(**spec.objective.options)
    assert weights is None or weights.read_text() == str(made.width)
    return made


def spec_of(values=(1, 2), driver="exhaustive", budget=164, **more):
    return toy_spec(driver, budget=budget, variants={"option": "width", "values": values}, **more)


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """All assignments of two widths; the front is finetuned."""
    folder = tmp_path_factory.mktemp("variants") / "run"
    run(spec_of(finetune={"epochs": 1, "top": 99}), folder, build=build, **QUIET)
    return folder


def test_one_width_is_a_run_without_variants(tmp_path):
    plain = run(toy_spec("random", budget=20), tmp_path / "plain", build=build, **QUIET)
    alone = run(spec_of([1], "random", 20), tmp_path / "alone", build=build, **QUIET)
    known = [read(Folder(tmp_path / name).ledger) for name in ("plain", "alone")]
    assert [replace(e, seconds=0) for e in known[0]] == [replace(e, seconds=0) for e in known[1]]
    assert alone.hypervolume == plain.hypervolume
    assert alone.hits == plain.hits


def test_the_front_is_that_of_all_variants_together(both, tmp_path):
    found = load_result(both)
    alone = []
    for name, width in {BASE: 1, WIDE: 2}.items():
        spec = toy_spec("exhaustive", budget=82, toy={"width": width})
        done = run(spec, tmp_path / str(width), build=build, **QUIET)
        alone += [replace(e, variant=name) for e in done.evaluations]
    searched = [e for e in found.evaluations if not e.is_finetuned]
    assert [(e.key, e.measures) for e in searched] == [(e.key, e.measures) for e in alone]
    true = Front.of([*alone, *(e for e in found.evaluations if e.is_finetuned)], found.front.goals)
    assert [e.key for e in found.front.members] == [e.key for e in true.members]
    assert {e.variant for e in Front.of(alone, found.front.goals).members} == {BASE, WIDE}
    assert len({e.key for e in found.evaluations}) == len(found.evaluations)


def test_finetuning_trains_a_member_of_its_own_variant(both):
    found = load_result(both)
    trained = [e for e in found.evaluations if e.is_finetuned]
    before = {e.key: e for e in found.evaluations}
    assert len(trained) < 99
    assert {e.variant for e in trained} == {BASE, WIDE}
    for e in trained:
        assert e.measures["memory_bytes"] == before[replace(e, recipe=None).key].measures["memory_bytes"]
        assert Folder(both).member_weights(e.key).is_file()


def test_files_tell_variants_apart(both):
    found = load_result(both)
    view = View.of(found)
    assert [p.name for p in view.baseline] == ["float", "width=2 float"]
    assert [p.name for p in view.uniform][2:4] == ["uniform 8", "width=2 uniform 2"]
    assert [p.aside for p in view.baseline] == ["", " (width=2)"]
    assert all(p.test is not None for p in view.shown())
    members = json.loads((both / "front.json").read_text())["members"]
    assert {member["variant"] for member in members} == {BASE, WIDE}
    rows = list(csv.DictReader((both / "front.csv").open()))
    assert [row["variant"] for row in rows if row["point"] == "float"] == [BASE, WIDE]
    assert [row["variant"] for row in rows][: len(members)] == [member["variant"] for member in members]
    text = report.markdown(view)
    assert "Variants of the model by `width`" in text
    assert "base→width=2" in text or "width=2→base" in text
    runs = {content.trial_key: content for content in evaluation_runs(view)}
    assert all(runs[m["key"]].params["width"] == {BASE: "1", WIDE: "2"}[m["variant"]] for m in members)
    for variant, width in {BASE: 1, WIDE: 2}.items():
        files = Folder(both).of(variant)
        assert files.weights.read_text() == str(width)
        assert json.loads(files.sites.read_text())[0]["shape"] == [64 * width]
    shares = Costs.read(both).shares["memory_bytes"]
    for e in found.front.members:
        assert sum(shares[e.key].values()) == pytest.approx(e.measures["memory_bytes"], abs=8)
        assert plots_costs.panels(view, view.by_key[e.key])


def test_the_budget_is_shared_and_ends_with_the_run(tmp_path):
    found = run(spec_of([1, 2, 3], "random", 41), tmp_path, build=build, **QUIET)
    asked = [e.variant for e in found.evaluations]
    assert [asked.count(variant) for variant in (BASE, WIDE, "width=3")] == [14, 14, 13]
    assert found.evaluations[14].asked_by == "float"
    assert list(found.floats) == [BASE, WIDE, "width=3"]


@pytest.mark.parametrize("moment", [6, 30, 50])
def test_killed_and_resumed_equals_uninterrupted(tmp_path, moment):
    """Killed in the first variant, in the second, and on the test split."""
    spec = spec_of(driver="random", budget=41)
    run(spec, tmp_path / "whole", build=build, **QUIET)
    pid = os.fork()
    if pid == 0:
        count = []

        def watch(assignment, split):
            count.append(split)
            if len(count) == moment:
                os.kill(os.getpid(), signal.SIGKILL)

        run(spec, tmp_path / "run", build=lambda s, _: Wide(**s.objective.options, watch=watch), **QUIET)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    resume(tmp_path / "run", build=build, **QUIET)
    assert equal(Folder(tmp_path / "run").ledger, Folder(tmp_path / "whole").ledger)


def test_other_weights_of_one_variant_are_not_resumed(tmp_path):
    run(spec_of(driver="random", budget=10), tmp_path, build=build, **QUIET)
    with pytest.raises(BadInput, match="not those of the run"):
        resume(tmp_path, build=lambda s, _: Wide(s.objective.options["width"] * 2 - 1), **QUIET)


def limited(limit, name="memory_bytes"):
    goals = [{**goal, "limit": limit} if goal["name"] == name else goal for goal in GOALS[2]]
    return replace_fields(spec_of(driver="frontier", budget=40), goals=goals)


def test_limits_refer_to_the_base(tmp_path):
    found = run(limited(">= baseline - 0.001", "accuracy"), tmp_path, build=build, **QUIET)
    bound = found.baseline.measures["accuracy"] - 0.001
    assert found.front.members
    assert all(e.measures["accuracy"] >= bound for e in found.front.members)
    half = run(limited("<= baseline * 0.1"), tmp_path / "half", build=build, **QUIET)
    bound = half.baseline.measures["memory_bytes"] * 0.1
    wide = [e for e in half.evaluations if e.variant == WIDE and e.asked_by == "frontier"]
    assert not wide  # 2 bits of 32, twice: more than a tenth
    assert all(e.measures["memory_bytes"] <= bound for e in half.front.members)
    with pytest.raises(NothingFeasible, match="cannot be met: 296 is the least"):
        run(limited("<= 200"), tmp_path / "none", build=build, **QUIET)
    assert not Folder(tmp_path / "none").has_run


def test_what_drivers_see_of_limits_is_of_the_base(tmp_path):
    goals = [goal.goal() for goal in limited("<= baseline * 0.1").goals]
    with Ledger(tmp_path / "ledger.jsonl", "", {}) as ledger:
        base = LedgerSession(Wide(1), ledger, goals, 0)
        wide = LedgerSession(Wide(2), ledger, goals, 0, variant=WIDE, base=base)
        for session in (base, wide):
            session.evaluate_controls()
        assert wide.baseline == base.baseline == base.evaluations[0].measures
        narrow = wide.space.decode([0] * 4)
        assert (base.forbids(narrow), wide.forbids(narrow)) == (False, True)
        assert wide.evaluations[0].asked_by == "float"


def test_each_variant_races_with_itself(tmp_path):
    spec = spec_of(driver="random", budget=120, toy={"batches": 10}, racing={"enabled": True})
    found = run(spec, tmp_path, build=build, **QUIET)
    assert {e.variant for e in found.evaluations if e.fidelity < 1} == {BASE, WIDE}
    assert resume(tmp_path, build=build, **QUIET).front == found.front


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([1.0, 1], "listed twice"),
        ([1, 0], "greater than 0"),
        ([1, -2.0], "greater than 0"),
        ([1, float("inf")], "finite"),
        ([], "at least 1"),
        ([1, "2"], "valid"),
    ],
)
def test_what_is_no_list_of_widths_is_refused(values, said):
    with pytest.raises(ValidationError, match=said):
        spec_of(values)


def test_a_budget_below_the_number_of_variants_is_refused():
    with pytest.raises(ValidationError, match="less than one evaluation of each"):
        spec_of([1, 2, 3], budget=2)


@pytest.mark.parametrize(
    ("model", "variants", "said"),
    [
        (
            "vit",
            "{option: width, values: [1.0, 2.0]}",
            r"variants.*option width: vit is of width 1, not 2.0",
        ),
        ("mlp", "{option: widht, values: [1, 2]}", r"variants.option.*has no option 'widht'.*width"),
        ("mlp", "{option: batch_size, values: [1, 2]}", r"variants.values\[0\].*batch_size: 1 is not"),
    ],
)
def test_what_the_objective_cannot_be_built_with_is_named(tmp_path, model, variants, said):
    path = tmp_path / "space.yaml"
    path.write_text(
        dedent(f"""\
        schema: mpsearch.space/1
        name: wide
        objective: {{use: image_classification, options: {{model: {model}}}}}
        variants: {variants}
        sites: [{{match: "*", formats: [int4]}}]
        goals: [{{name: accuracy, maximise: true}}]
        """)
    )
    with pytest.raises(BadInput, match=said) as caught:
        load_spec(path)
    assert len(caught.value.errors) == 1


def test_the_key_of_the_base_is_the_digest_of_its_assignment():
    plain = Evaluation(Toy().space.decode([0] * 4))
    keys = {replace(plain, variant=v, recipe=r).key for v in (BASE, WIDE, "width=3") for r in (None, "a", "b")}
    assert plain.key == plain.assignment.key
    assert len(keys) == 9
