"""The objective of every bundled space sits the exam and scores what it is known to score."""

from itertools import combinations
from pathlib import Path

import pytest
import torch

from mpsearch.core.errors import BadInput
from mpsearch.testing.objectives import CHECKS, SPLITS
from mpsearch.zoo.images import CLASSIFIERS

OFFLINE = ("cnn", "digits_widths", "gnn", "gnn_graphs", "lstm", "mlp", "transformer")
FROM_FILES = (
    *("cifar_resnet20", "digits_resnet10", "fashion_lenet5"),
    *("cora_agnn", "cora_gat", "cora_gcn"),
    *("minilm_sts", "stories_lm"),
)
LARGE = "imagenet_efficientnet_lite0"
EXAMINED = (*sorted((*OFFLINE, *FROM_FILES)), pytest.param(LARGE, marks=pytest.mark.slow))


def measures(objective, split):
    model = objective.model()
    batches = list(objective.batches(split))
    with torch.no_grad():
        outputs = [model(*batch.args) for batch in batches]
    scores = objective.metric(outputs, [batch.target for batch in batches])
    means = {k: float(v.double().mean()) if torch.is_tensor(v) else v for k, v in scores.items()}
    return means, sum(batch.n for batch in batches)


def test_every_space_is_examined():
    folder = Path(__file__).parents[2] / "search_spaces"
    assert sorted(path.stem for path in folder.glob("*.yaml")) == sorted((*OFFLINE, *FROM_FILES, LARGE))


@pytest.mark.parametrize("name", EXAMINED)
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_exam(maker, name, check):
    check(maker(name))


@pytest.mark.parametrize("name", OFFLINE)
def test_what_needs_no_file_is_available_everywhere(maker, name, monkeypatch):
    monkeypatch.delenv("MPSEARCH_DATA", raising=False)
    assert maker(name)().trains


@pytest.mark.parametrize(
    ("name", "accuracy", "samples"),
    [
        ("mlp", 0.97, 450),
        ("cnn", 0.985, 450),
        ("transformer", 0.97, 450),
        ("lstm", 0.97, 450),
        ("gnn", 0.96, 997),
        ("gnn_graphs", 0.88, 450),
    ],
)
def test_trained_models_are_good(maker, name, accuracy, samples):
    found, n = measures(maker(name)(), "test")
    assert found["accuracy"] >= accuracy
    assert n == samples


@pytest.mark.parametrize(
    ("name", "measure", "low", "high", "samples"),
    [
        ("digits_resnet10", "accuracy", 540 / 541 - 1e-9, 540 / 541 + 1e-9, 541),
        ("fashion_lenet5", "accuracy", 0.87, 0.93, 2500),
        ("stories_lm", "log_loss", 1.41035, 1.41045, 60),
        ("stories_lm", "perplexity", 4.0975, 4.0985, 60),
        ("cora_gcn", "accuracy", 0.80, 0.84, 1000),
        ("cora_gat", "accuracy", 0.80, 0.84, 1000),
        ("cora_agnn", "accuracy", 0.80, 0.84, 1000),
    ],
)
def test_recorded_scores_are_met(maker, name, measure, low, high, samples):
    found, n = measures(maker(name)(), "test")
    assert low <= found[measure] <= high
    assert n == samples


@pytest.mark.slow
def test_cifar_halves_together_score_the_recorded_8743_of_10000(maker):
    objective = maker("cifar_resnet20")()
    halves = [measures(objective, split) for split in ("validation", "test")]
    assert [n for _, n in halves] == [5000, 5000]
    assert abs(sum(found["accuracy"] for found, _ in halves) / 2 - 0.8743) < 0.0005  # decoders differ in a pixel


def test_a_search_can_score_fewer_pairs(maker):
    objective = maker("minilm_sts")()
    assert {split: sum(b.n for b in objective.batches(split)) for split in ("validation", "test")} == {
        "validation": 300,
        "test": 1379,
    }


@pytest.mark.slow
def test_minilm_meets_the_recorded_correlation(maker):
    found, n = measures(maker("minilm_sts")(), "test")
    assert abs(found["spearman"] - 0.8203) < 0.0001
    assert n == 1379


def test_standard_errors_can_be_had_of_accuracy_and_loss(maker):
    objective = maker("mlp")()
    batches = list(objective.batches("validation"))
    scores = objective.metric([objective.model()(*b.args) for b in batches], [b.target for b in batches])
    assert {name: tuple(score.shape) for name, score in scores.items()} == {"accuracy": (450,), "log_loss": (450,)}
    assert set(scores["accuracy"].tolist()) <= {0.0, 1.0}


@pytest.mark.parametrize("name", EXAMINED)
def test_export_replays_bit_for_bit(maker, name):
    objective = maker(name)()
    model, batch = objective.model(), next(iter(objective.batches("calibration")))
    replay = torch.export.export(model, batch.args, strict=False).module()
    with torch.no_grad():
        assert torch.equal(replay(*batch.args), model(*batch.args))


def test_sampled_batches_score_the_same_nodes(maker):
    """With all neighbours of two hops, two layers give what they give on the whole graph."""
    whole, sampled, few = (
        type(maker("gnn")())(network="agnn", **more)
        for more in ({}, {"fanouts": [-1, -1]}, {"fanouts": [2, 1], "batch_size": 99})
    )
    expected, n = measures(whole, "validation")
    found, m = measures(sampled, "validation")
    assert n == m == measures(few, "validation")[1]
    assert found["accuracy"] == expected["accuracy"]
    assert abs(found["log_loss"] - expected["log_loss"]) < 1e-5
    assert all(batch.args[0].shape[0] <= batch.n * 5 for batch in few.batches("validation"))


@pytest.mark.parametrize("fanouts", [3, [], [1.5], [-2]])
def test_fanouts_that_mean_nothing_are_refused(maker, fanouts):
    with pytest.raises(BadInput, match="fanouts"):
        type(maker("gnn")())(fanouts=fanouts)


def test_gnn_splits_are_of_different_nodes(maker):
    nodes = {split: next(iter(maker("gnn")().batches(split))).target[0] for split in SPLITS}
    for one, other in combinations(SPLITS, 2):
        assert not torch.isin(nodes[one], nodes[other]).any()


def test_a_gru_reads_digits_as_well():
    entry = CLASSIFIERS["gru"]
    images, labels = entry.rows("test")
    assert (entry.model()(images).argmax(1) == labels).float().mean() >= 0.97
