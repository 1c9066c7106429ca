"""The driver that prunes bases over all layers, on a small network: what it finds, what it says, what it refuses."""

from __future__ import annotations

import logging

import pytest
import torch
from small_network import QUIET, Lossless, Untrained, build_with

from mpsearch.core.errors import BadInput
from mpsearch.core.format import Format
from mpsearch.core.space import Choice
from mpsearch.drivers.alq import Alq, _spread
from mpsearch.engine.run import run
from mpsearch.problem.trained import Trained
from mpsearch.spec.schema import Recipe, Spec
from mpsearch.testing.learners import Largest

OFFERED = ("multibit0.5:g4", "multibit0.75:g4", "multibit1:g4:adaptive", "multibit1.5:g4", "multibit3:g4:adaptive")


def spec(weights=OFFERED, budget=50, **options):
    return Spec.model_validate(
        {
            "name": "pruned",
            "objective": {"use": "largest"},
            "sites": [
                {"match": {"role": "weight"}, "formats": list(weights)},
                {"match": {"role": "activation"}, "formats": ["int8"]},
            ],
            "goals": [{"name": "log_loss"}, {"name": "weight_bits"}],
            "driver": {"use": "alq", "budget": budget, "options": {"epochs": 6, "rate": 0.02, **options}},
            "tracking": {"enabled": False},
        }
    )


def test_targets_make_a_front_of_formats_that_hold_what_was_left(tmp_path):
    found = run(spec(averages=[3.0, 0.6]), tmp_path / "run", build=build_with(), **QUIET)
    members = [e for e in found.evaluations if e.is_finetuned]
    assert [e.asked_by for e in members] == ["alq average 3", "alq average 0.6"]
    for target, member in zip((3.0, 0.6), members, strict=True):
        trained = Trained.load(tmp_path / "run" / "members" / member.key / "weights.safetensors")
        digits = weights = 0
        for name, fmt in member.assignment.items():
            if fmt.scheme == "multibit":
                mine = 4 * int((trained.tensors[f"coordinates/{name}"] > 0).sum())
                assert mine <= fmt.bits * trained.tensors[name].numel()
                digits, weights = digits + mine, weights + trained.tensors[name].numel()
        assert digits <= target * weights < member.measures["weight_bits"] * weights + 1e-6
    assert members[0].measures["log_loss"] < members[1].measures["log_loss"] < found.baseline.measures["log_loss"] + 2
    assert len({fmt.bits for name, fmt in members[1].assignment.items() if "weight" in name}) > 1, "layers differ"
    assert any(e in found.front.members for e in members)


@pytest.mark.parametrize(
    ("kind", "weights", "says"),
    [
        (Untrained, OFFERED, "training_batches"),
        (Lossless, OFFERED, "loss"),
        (Largest, ("int2", "int4"), "add formats such as multibit0.5"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_the_search(tmp_path, kind, weights, says):
    with pytest.raises(BadInput, match=says):
        run(spec(weights), tmp_path, build=build_with(kind), **QUIET)
    assert len((tmp_path / "ledger.jsonl").read_text().splitlines()) <= 1


def test_one_format_leaves_nothing_to_choose(tmp_path, caplog):
    with caplog.at_level(logging.WARNING, logger="mpsearch.drivers"):
        found = run(spec(("multibit2",)), tmp_path, build=build_with(), **QUIET)
    assert "no site offers several" in caplog.text
    assert not any(e.is_finetuned for e in found.evaluations)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"averages": []}, "averages is empty"),
        ({"averages": [1.0, 0.0]}, "average=0.0"),
        ({"epochs": 0}, "epochs is 0"),
        ({"distill": 2.0}, "distill"),
        ({"rate": -1.0, "averages": [1.0]}, "rate=-1.0"),
    ],
)
def test_bad_options_are_named(options, says):
    with pytest.raises(BadInput, match=says):
        Alq(**options)


def test_targets_are_spread_over_what_is_offered():
    choices = [Choice("a", ("a",), tuple(map(Format.parse, OFFERED)))]
    assert _spread(choices, None) == [3, 1.5, 1, 0.75, 0.5]
    assert _spread(choices, 3) == [3, 1, 0.5]
    assert _spread(choices, 1) == [3]


def test_a_training_goes_on_after_the_formats_were_chosen(tmp_path):
    def dies(step):
        if (step.epoch, step.step) == (4, 2):
            raise KeyboardInterrupt

    of, file = build_with()(spec(), None), tmp_path / "checkpoint.pt"
    start = of.space.decode([len(choice.options) - 1 for choice in of.space.choices])
    recipe = Recipe(epochs=4, method="alq", options={"average": 0.6, "rate": 0.02})
    whole = of.finetune(start, recipe, 3)
    with pytest.raises(KeyboardInterrupt):
        of.finetune(start, recipe, 3, None, dies, file)
    resumed = of.finetune(start, recipe, 3, None, lambda step: None, file)
    assert resumed.assignment == whole.assignment != start
    assert resumed.history == whole.history
    assert all(torch.equal(resumed.tensors[name], whole.tensors[name]) for name in whole.tensors)
    assert whole.best >= 3, "before that no format holds the bases"
