"""The driver that learns bits, on a small network: what it finds, what it says, what it refuses."""

from __future__ import annotations

import logging

import pytest
from small_network import QUIET, Lossless, Untrained, build_with

from mpsearch.core.errors import BadInput
from mpsearch.drivers.dropbits import DropBits, _epochs
from mpsearch.engine.run import resume, run
from mpsearch.spec.schema import Spec
from mpsearch.testing.learners import Largest
from mpsearch.testing.toy import Toy, toy_spec


def spec(*, goals=("log_loss", "weight_bits"), weights=("int2", "int4", "int3"), budget=50, finetune=None, **options):
    return Spec.model_validate(
        {
            "name": "learned",
            "objective": {"use": "largest"},
            "sites": [
                {"match": {"role": "weight"}, "formats": list(weights)},
                {"match": {"role": "activation"}, "formats": ["int4", "int8"]},
            ],
            "goals": [{"name": name} for name in goals],
            "driver": {"use": "dropbits", "budget": budget, "options": {"epochs": 6, **options}},
            "tracking": {"enabled": False},
            "finetune": finetune,
        }
    )


def learned(found):
    return [e for e in found.evaluations if e.is_finetuned and e.is_searched]


def test_bits_fall_as_penalties_rise_and_a_resumed_run_is_the_same(tmp_path):
    options = {"least": 1e-6, "most": 100.0, "trainings": 2, "learning_rate": 5e-3}
    of = spec(finetune={"epochs": 1, "top": 1}, **options)
    found = run(of, tmp_path / "run", build=build_with(), **QUIET)
    members = learned(found)
    assert [e.asked_by for e in members] == [f"dropbits penalty {p}" for p in ("1e-06", "100")]
    bits = [e.measures["weight_bits"] for e in members]
    assert 3 < bits[0] <= 4
    assert bits[1] == 2
    assert {e.assignment.at("0:in").bits for e in members} == {8}, "what costs nothing stays as it starts"
    assert sum(not e.is_searched for e in found.evaluations) == 1
    assert any(e in found.front.members for e in members)
    assert all(found.test[e.key].measures for e in found.front.members)
    kept = (tmp_path / "run" / "ledger.jsonl").read_text()
    resume(tmp_path / "run", build=build_with(), **QUIET)
    assert (tmp_path / "run" / "ledger.jsonl").read_text() == kept


def test_both_ends_are_told(tmp_path, caplog):
    def build_toy(spec, weights):
        return Toy()

    of = toy_spec("dropbits", options={"least": 1e-9, "most": 1e9, "trainings": 3, "epochs": 4})
    with caplog.at_level(logging.WARNING, logger="mpsearch.drivers"):
        found = run(of, tmp_path, build=build_toy, **QUIET)
    assert "penalty 1e-09 drives every choice to its highest format; raise most" in caplog.text
    assert "penalty 1e+09 drives every choice to its lowest format; lower least" in caplog.text
    assert "penalty 1 drives" not in caplog.text
    assert [e.asked_by for e in learned(found)] == [f"dropbits penalty {p}" for p in ("1e-09", "1", "1e+09")]


def test_divergence_is_recorded_with_its_step_and_the_next_penalty_tried(tmp_path):
    found = run(spec(trainings=2, learning_rate=1e30), tmp_path, build=build_with(), **QUIET)
    failures = [e.failure for e in learned(found)]
    assert len(failures) == 2
    assert all(failure.kind == "nan" and "step" in failure.message for failure in failures)
    assert found.status == "complete"


@pytest.mark.parametrize(
    ("kind", "options", "says"),
    [
        (Untrained, {}, "training_batches"),
        (Lossless, {}, "loss"),
        (Largest, {"goals": ("log_loss",)}, "log_loss does not"),
        (Largest, {"cost": "energy"}, "energy does not"),
        (Largest, {"weights": ("multibit2", "fp32")}, "0.weight"),
    ],
)
def test_what_cannot_be_learned_is_refused_before_the_search(tmp_path, kind, options, says):
    with pytest.raises(BadInput, match=says):
        run(spec(**options), tmp_path, build=build_with(kind), **QUIET)
    assert len((tmp_path / "ledger.jsonl").read_text().splitlines()) <= 1


def test_options_that_are_left_out_are_named(tmp_path, caplog):
    with caplog.at_level(logging.WARNING, logger="mpsearch.drivers"):
        run(spec(weights=("int1", "int2", "int4"), trainings=1), tmp_path, build=build_with(), **QUIET)
    assert "0.weight between int2, int4; left out: int1" in caplog.text


@pytest.mark.parametrize(
    "options",
    [{"least": 0}, {"most": 0.001}, {"trainings": 0}, {"epochs": 3}, {"distill": 2}, {"nesting": "up"}, {"most": "1"}],
)
def test_bad_options_are_named(options):
    with pytest.raises(BadInput, match=next(iter(options)) if options != {"most": "1"} else "penalty"):
        DropBits(**options)


def test_few_steps_an_epoch_make_many_epochs():
    assert (_epochs(1), _epochs(10), _epochs(1000)) == (400, 150, 20)
