"""A small network measured on this machine: the card says what was measured, and is refused where it does not hold."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from deployed import Residual, everywhere, exported, problem, randn

from mpsearch.core.assignment import Assignment
from mpsearch.core.errors import BadInput, OutOfResources
from mpsearch.core.format import Format
from mpsearch.core.space import Choice
from mpsearch.cost.accelerators.load import load_accelerator
from mpsearch.cost.calibrate import Quality
from mpsearch.cost.device import latency
from mpsearch.cost.promotions import promotions
from mpsearch.deploy import mixes
from mpsearch.deploy import profile as module
from mpsearch.deploy.card import card_text, write_card
from mpsearch.deploy.cut import operation_model
from mpsearch.deploy.features import Features
from mpsearch.deploy.operations import steps_of
from mpsearch.deploy.profile import Profile, profile
from mpsearch.deploy.timing import Failed
from mpsearch.graph.grids import SiteGrids
from mpsearch.problem.build import build_problem
from mpsearch.problem.model import ModelProblem
from mpsearch.spec.load import load_spec
from mpsearch.testing.accelerators import packed_in

TOLD: list[tuple[str, int]] = []


@pytest.fixture(scope="module")
def prepared() -> ModelProblem:
    return problem(Residual(), randn(4, 3, 8, 8))


@pytest.fixture(scope="module")
def found(prepared: ModelProblem) -> Profile:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "WHOLE_S", 1.0)
        patch.setattr(module, "ALONE_S", 0.2)
        patch.setattr(module, "ANCHORS_S", 0.1)
        return profile(prepared, tell=lambda what, rounds, models: TOLD.append((what, models)))


def test_everything_ran_and_ran_as_asked(found: Profile) -> None:
    assert found.strange == 0
    assert found.failed == {}
    assert found.features.capable == {"stem", "one", "two", "three", "four", "head", "add"}
    assert found.runs >= 38
    assert found.quality.n >= 12
    assert found.apart == 3
    assert 0 < found.float_s < 0.1
    assert [what for what, _ in dict.fromkeys(TOLD)] == ["anchors", "single operations", "whole models"]


def test_the_table_is_compared_with_what_needs_no_mixed_models(found: Profile) -> None:
    assert list(found.predictors) == [
        "this table", "sum of single operations", "the same, on a line through two anchors"
    ]  # fmt: skip
    assert all(np.isfinite([q.mape, q.worst, q.bias, q.spearman]).all() for q in found.predictors.values())


def test_the_card_predicts_what_was_fitted(found: Profile, prepared: ModelProblem, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    write_card(found, path)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.yaml"]
    device = load_accelerator(path)
    assert device.refuses("latency_s") is None
    workload = prepared.cost_model.workload
    measure = latency(device, workload, packed_in(workload))
    rng = np.random.default_rng(0)
    for assignment in [Assignment(), *(prepared.space.sample(rng) for _ in range(50))]:
        narrow = found.features.narrow(assignment)
        expected = found.times([found.features.row(narrow)], [found.features.switches(assignment, narrow)])
        assert measure.measure(assignment) == pytest.approx(float(expected[0]), rel=1e-4)
    assert any("run as int8" in note for note in promotions(device, workload, prepared.space))


def test_anchors_are_predicted(found: Profile) -> None:
    """As far as a second of measuring goes."""
    row = found.features.row(())
    ours = found.times([row], [found.features.switches(Assignment(), ())])
    assert float(ours[0]) == pytest.approx(found.float_s, rel=0.3)


def test_the_card_of_one_model_is_refused_for_another(found: Profile, tmp_path: Path) -> None:
    write_card(found, tmp_path / "mine.yaml")
    device = load_accelerator(tmp_path / "mine.yaml")
    for batch, told in ((5, "batches of 4, and this model runs on 5"), (4, "another model")):
        other = problem(Residual(4 if batch == 4 else 8), randn(batch, 3, 8, 8))
        with pytest.raises(BadInput, match=told):
            device.parts(other.cost_model.workload)


def test_a_table_that_misses_by_much_is_no_calibrated_one(found: Profile) -> None:
    good = replace(found, predictors={"this table": Quality(0.01, 0.02, 0.0, 0.99, 0.8, 12)})
    bad = replace(found, predictors={"this table": Quality(0.20, 0.40, 0.1, 0.99, 0.8, 12)})
    rank = replace(found, predictors={"this table": Quality(0.01, 0.02, 0.0, 0.90, 0.8, 12)})
    flat = replace(found, predictors={"this table": Quality(0.01, 0.02, 0.0, 0.30, 0.06, 12)})
    assert (good.is_good, bad.is_good, rank.is_good, flat.is_good) == (True, False, False, True)
    assert "status: calibrated" in card_text(good, "x")
    assert "heldout_mape: 0.01" in card_text(good, "x")
    assert f"n_anchors: {found.runs - 12}" in card_text(good, "x")
    assert "status: analytic" in card_text(bad, "x")
    assert "n_anchors" not in card_text(bad, "x")
    assert "mean error 20.0%" in " ".join(card_text(bad, "x").split())


def test_one_operation_is_cut_out_with_its_activation_and_conversions(prepared: ModelProblem) -> None:
    program = prepared.runner.interpreter.program
    step = steps_of(prepared.cost_model.workload, program)["one"]
    wide, given = operation_model(program, exported(prepared), step)
    assert [node.op_type for node in wide.graph.node] == ["Conv", "Relu"]
    assert len(given) == 1
    narrow, _ = operation_model(program, exported(prepared, everywhere(prepared)), step)
    operators = [node.op_type for node in narrow.graph.node]
    assert operators.count("Conv") == 1
    assert operators.count("QuantizeLinear") == 2
    assert operators.count("DequantizeLinear") == 4  # input, weight, bias, result
    assert [list(i.type.tensor_type.shape.dim)[1].dim_value for i in narrow.graph.input] == [8]


def test_a_space_without_integer_arithmetic_is_refused() -> None:
    weights_alone = problem(Residual(), randn(4, 3, 8, 8), match="*.weight")
    with pytest.raises(BadInput, match="nothing of this space can run on integers"):
        profile(weights_alone)


def test_a_float_model_that_does_not_run_ends_it(prepared: ModelProblem, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        module.Bench, "measure", lambda self, files, seconds, **more: dict.fromkeys(files, Failed("it broke"))
    )
    with pytest.raises(OutOfResources, match="the float model does not run in onnxruntime: it broke"):
        profile(prepared)


def test_a_mixed_model_that_does_not_run_is_left_out(prepared: ModelProblem, monkeypatch: pytest.MonkeyPatch) -> None:
    measure = module.Bench.measure

    def lossy(self, files, seconds, **more):
        found = measure(self, files, 0.1, least_rounds=1, tell=more["tell"])
        return {name: Failed("it broke") if name == "mix 3" else result for name, result in found.items()}

    monkeypatch.setattr(module.Bench, "measure", lossy)
    monkeypatch.setattr(module, "WHOLE_S", 0.1)
    found = profile(prepared)
    assert found.failed == {"mix 3": "it broke"}


def test_formats_that_the_space_lacks_are_calibrated_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    narrow = problem(Residual(), randn(4, 3, 8, 8), formats=("int4", "fp32"))
    asked: list[dict[int, tuple[Format, ...]]] = []
    calibrate = SiteGrids.calibrate_more

    def noted(self, wanted):
        asked.append(wanted)
        calibrate(self, wanted)
        monkeypatch.setattr(module.Bench, "measure", stop)

    def stop(*arguments: object, **more: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(SiteGrids, "calibrate_more", noted)
    with pytest.raises(KeyboardInterrupt):
        profile(narrow)
    (wanted,) = asked
    assert len(wanted) == len(narrow.runner.interpreter.program.sites)


@pytest.mark.parametrize(
    ("options", "taken"),
    [
        (("int4", "int8", "fp32"), "int8"),
        (("int4", "fp32"), "int8"),
        (("int8:sym", "int4"), "int8:sym"),
        (("int8:channel", "int4"), "int8"),
        (("int8:g32", "int8:max"), "int8:max"),
    ],
)
def test_the_format_that_stands_for_integers_is_the_spaces_own_if_kernels_know_it(options, taken) -> None:
    choice = Choice("a", ("a",), tuple(map(Format.parse, options)))
    assert mixes.narrow(choice) == Format.parse(taken)


def test_operations_that_overflow_the_cache_are_named(found: Profile) -> None:
    assert found.contended == []
    small = found.machine.model_copy(update={"l3_bytes": 30_000})
    assert replace(found, machine=small).contended == ["one", "two", "add", "three", "four", "add_2"]
    unknown = found.machine.model_copy(update={"l3_bytes": None, "l2_bytes": None})
    assert replace(found, machine=unknown).contended == []


@pytest.mark.slow
def test_the_network_on_digits_is_predicted_to_a_few_percent(tmp_path: Path) -> None:
    """About a minute on an idle core."""
    found = profile(build_problem(load_spec("cnn", [])))
    assert found.strange == 0
    assert found.quality.mape <= 0.05
    assert found.quality.spearman >= 0.97
    assert found.quality.mape < min(q.mape for name, q in found.predictors.items() if name != "this table")
    assert found.is_good


def test_calm_rounds_count() -> None:
    assert module._calm(np.array([1.0, 1.5, 1.01, 1.02, 1.2, 1.029])).tolist() == [0, 2, 3, 5]
    assert module._calm(np.array([1.0, 1.5, 1.4, 1.6])).tolist() == [0, 2, 1]


def test_features_know_what_they_were_made_with(found: Profile, prepared: ModelProblem) -> None:
    same = Features(prepared.cost_model.workload, found.features.capable)
    assert same.conversions == found.features.conversions
    assert len(found.times.switch_s) == len(same.conversions)
