"""Graphs read from files made up here, training that keeps its best epoch, and agreement with the float model."""

import pickle
from itertools import combinations

import numpy as np
import pytest
import scipy.sparse
import torch
from torch import nn

from mpsearch.core.errors import BadInput
from mpsearch.zoo import amazon, gnn, planetoid
from mpsearch.zoo.train import fit_whole


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.setenv("MPSEARCH_DATA", str(tmp_path))
    monkeypatch.setenv("MPSEARCH_CACHE", str(tmp_path / "cache"))
    return tmp_path


@pytest.fixture
def papers(data, monkeypatch):
    """A CiteSeer of 10 papers: numbers 0 to 6 in `allx`, 7 and 9 in `tx`, 8 in no file."""
    monkeypatch.setattr(planetoid, "unpickle", lambda path: pickle.loads(path.read_bytes()))
    words = scipy.sparse.csr_matrix(np.eye(9, 4) + 1)
    classes = np.eye(3)[[0, 1, 2, 0, 1, 2, 0, 1, 2]]
    parts = {
        "allx": words[:7],
        "tx": words[[8, 7]],
        "ally": classes[:7],
        "ty": classes[[8, 7]],
        "y": classes[:3],
        "graph": {0: [1, 1, 0], 1: [0], 9: [7]},
    }
    folder = data / "gnn/planetoid/CiteSeer/raw"
    folder.mkdir(parents=True)
    for part, value in parts.items():
        (folder / f"ind.citeseer.{part}").write_bytes(pickle.dumps(value))
    (folder / "ind.citeseer.test.index").write_text("9\n7\n")
    planetoid.citations.cache_clear()
    yield planetoid.citations("citeseer")
    planetoid.citations.cache_clear()


def test_papers_stand_where_their_numbers_say(papers):
    expected = torch.tensor(np.eye(9, 4) + 1).float()
    expected /= expected.sum(1, keepdim=True)
    assert torch.allclose(papers.x[:8], expected[:8])
    assert torch.allclose(papers.x[9], expected[8])
    assert papers.x[8].count_nonzero() == 0  # known by citations alone
    assert papers.labels[[0, 1, 2, 7, 9]].tolist() == [0, 1, 2, 1, 2]
    assert papers.rows["test"].tolist() == [7, 9]
    assert papers.rows["train"].tolist() == [0, 1, 2]
    assert papers.edge_index.tolist() == [[1, 0, 9, 7], [0, 1, 7, 9]]


def goods(folder, **changes):
    joined = scipy.sparse.csr_matrix(np.array([[1, 1, 0], [0, 0, 0], [1, 1, 0]], np.float32))
    joined.resize(10, 10)
    words = scipy.sparse.csr_matrix(np.eye(10, 5, dtype=np.float32) + np.eye(10, 5, 1, dtype=np.float32))
    stored = {
        f"{name}_{part}": getattr(matrix, part)
        for name, matrix in (("adj", joined), ("attr", words))
        for part in ("data", "indices", "indptr", "shape")
    }
    path = folder / "gnn/amazon/Photo/raw/amazon_electronics_photo.npz"
    path.parent.mkdir(parents=True)
    np.savez(path, **{**stored, "labels": np.arange(10) % 3, **changes})


def test_purchases_are_joined_both_ways_without_loops_and_split_into_all_nodes(data):
    goods(data)
    amazon.purchases.cache_clear()
    graph = amazon.purchases("amazon-photo")
    amazon.purchases.cache_clear()
    assert graph.edge_index.tolist() == [[1, 2, 0, 2, 0, 1], [0, 0, 1, 1, 2, 2]]
    assert torch.allclose(graph.x[0], torch.tensor([0.5, 0.5, 0.0, 0.0, 0.0]).sqrt()), "rows have length 1"
    assert torch.equal(graph.x[5:], torch.zeros(5, 5))
    parts = [graph.rows[split] for split in ("train", "validation", "test")]
    assert [len(part) for part in parts] == [6, 2, 2]
    assert torch.cat(parts).sort().values.tolist() == list(range(10))


def test_a_damaged_graph_is_bad_input_and_a_missing_one_is_asked_for(data):
    amazon.purchases.cache_clear()
    with pytest.raises(BadInput, match=r"amazon_electronics_computers\.npz.*gnn-benchmark"):
        amazon.purchases("amazon-computers")
    goods(data, adj_indptr=np.array([0, 5]))
    with pytest.raises(BadInput, match="not a graph of gnn-benchmark"):
        amazon.purchases("amazon-photo")


def test_dropout_of_bags_of_words_is_dropout():
    x = torch.zeros(200, 300)
    x[::2, ::10] = 2.0
    torch.manual_seed(0)
    dropped = gnn._dropout(x, 0.6, True)
    assert set(dropped.unique().tolist()) == {0.0, 5.0}
    assert (dropped[x == 0] == 0).all()
    assert abs(float((dropped[x > 0] > 0).float().mean()) - 0.4) < 0.03
    assert torch.equal(gnn._dropout(x, 0.6, False), x)


def test_training_keeps_the_epoch_that_scores_best_and_of_equal_ones_the_first():
    model, seen = nn.Linear(2, 1), []
    scores = iter([(0.0, 1.0), (1.0, 0.0), (1.0, 0.0), (0.5, 9.0)])

    def score(model):
        assert not model.training
        seen.append(model.weight.detach().clone())
        return next(scores)

    fit_whole(model, lambda m: m(torch.ones(1, 2)).sum(), 4, 0.1, 0.0, score)
    assert torch.equal(model.weight, seen[1])
    assert not any(torch.equal(a, b) for a, b in combinations(seen, 2))


def test_agreement_is_with_the_float_model_and_leaves_test_nodes_out(maker):
    objective = maker("gnn")()
    (batch,) = objective.batches("validation")
    (test,) = objective.batches("test")
    output = objective.model()(*batch.args).detach()
    assert objective.metric([output], [batch.target])["agreement"].mean() == 1
    assert not torch.isin(batch.target.judged, test.target.judged).any()
    assert len(batch.target.judged) + len(test.target.judged) == len(output)
    changed = output.clone()
    changed[test.target.judged] *= -1
    assert objective.metric([changed], [batch.target])["agreement"].mean() == 1
    assert objective.metric([changed], [test.target])["agreement"].mean() < 0.1
    changed[batch.target.judged[:7]] *= -1
    assert int((objective.metric([changed], [batch.target])["agreement"] == 0).sum()) == 7
