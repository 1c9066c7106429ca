"""The driver that learns bits, on a small network and on the toy: what it finds, what it says, what it refuses."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest
from small_network import QUIET, Lossless, build_with

from mpsearch.core.errors import BadInput
from mpsearch.core.format import Format
from mpsearch.core.goal import Goal
from mpsearch.drivers.dropbits import DropBits, _epochs
from mpsearch.engine.run import run
from mpsearch.spec.schema import Spec
from mpsearch.testing.toy import Toy, toy_spec


def spec(**options):
    return Spec.model_validate(
        {
            "name": "learned",
            "objective": {"use": "largest"},
            "sites": [
                {"match": {"role": "weight"}, "formats": ["int2", "int4", "int3"]},
                {"match": {"role": "activation"}, "formats": ["int4", "int8"]},
            ],
            "goals": [{"name": "log_loss"}, {"name": "weight_bits"}],
            "driver": {"use": "dropbits", "options": {"epochs": 6, **options}},
            "tracking": {"enabled": False},
        }
    )


@pytest.fixture(scope="module")
def small():
    return build_with()(spec(), None)


def learned(found):
    return [e for e in found.evaluations if e.is_finetuned and e.is_searched]


def test_bits_fall_as_penalties_rise(tmp_path, small):
    of = spec(least=1e-6, most=100.0, trainings=2, learning_rate=5e-3)
    found = run(of, tmp_path, build=lambda spec, weights: small, **QUIET)
    members = learned(found)
    assert [e.asked_by for e in members] == [f"dropbits penalty {p}" for p in ("1e-06", "100")]
    bits = [e.measures["weight_bits"] for e in members]
    assert 3 < bits[0] <= 4
    assert bits[1] == 2
    assert {e.assignment.at("0:in").bits for e in members} == {8}, "what costs nothing stays as it starts"
    assert any(e in found.front.members for e in members)
    assert all(found.test[e.key].measures for e in found.front.members)


def test_divergence_is_recorded_with_its_step_and_the_next_penalty_tried(tmp_path, small):
    of = spec(trainings=2, learning_rate=1e30)
    found = run(of, tmp_path, build=lambda spec, weights: small, **QUIET)
    failures = [e.failure for e in learned(found)]
    assert len(failures) == 2
    assert all(failure.kind == "nan" and "step" in failure.message for failure in failures)
    assert found.status == "complete"


def test_both_ends_and_what_is_left_out_are_told(tmp_path, caplog):
    formats = tuple(map(Format.parse, ("int2", "int4", "int8", "int8:tensor")))

    def build(spec, weights):
        return Toy(options=formats)

    of = toy_spec("dropbits", options={"least": 1e-9, "most": 1e9, "trainings": 3, "epochs": 4})
    with caplog.at_level(logging.WARNING, logger="mpsearch.drivers"):
        found = run(of, tmp_path, build=build, **QUIET)
    assert "layer0.weight between int2, int4, int8; left out: int8:tensor" in caplog.text
    assert "penalty 1e-09 drives every choice to its highest format; raise most" in caplog.text
    assert "penalty 1e+09 drives every choice to its lowest format; lower least" in caplog.text
    assert "penalty 1 drives" not in caplog.text
    assert [e.asked_by for e in learned(found)] == [f"dropbits penalty {p}" for p in ("1e-09", "1", "1e+09")]


def test_what_cannot_be_learned_is_refused_before_the_search(tmp_path, small):
    goals = (Goal("log_loss"), Goal("weight_bits"))
    ready = SimpleNamespace(problem=small, space=small.space, goals=goals)
    DropBits().check(ready)
    for driver, changed, says in (
        (DropBits(), {"goals": goals[:1]}, "log_loss does not"),
        (DropBits(cost="energy"), {}, "energy does not"),
        (DropBits(), {"space": Toy(options=(Format("multibit", 2), Format("fp", 32))).space}, "layer0.weight: bits"),
    ):
        with pytest.raises(BadInput, match=says):
            driver.check(SimpleNamespace(**{**vars(ready), **changed}))
    with pytest.raises(BadInput, match="does not define loss"):
        run(spec(), tmp_path, build=build_with(Lossless), **QUIET)
    assert "validation" not in (tmp_path / "ledger.jsonl").read_text(), "nothing was evaluated"


@pytest.mark.parametrize(
    "options",
    [{"least": 0}, {"most": 0.001}, {"trainings": 0}, {"epochs": 3}, {"distill": 2}, {"nesting": "up"}, {"most": "1"}],
)
def test_bad_options_are_named(options):
    with pytest.raises(BadInput, match=next(iter(options)) if options != {"most": "1"} else "penalty"):
        DropBits(**options)


def test_few_steps_an_epoch_make_many_epochs():
    assert (_epochs(1), _epochs(10), _epochs(1000)) == (400, 150, 20)
