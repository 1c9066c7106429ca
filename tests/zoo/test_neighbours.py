"""Sampled neighbourhoods: parts of the graph, no larger than asked, the same for the same seed."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch_geometric import nn as pyg
from torch_geometric.data import Data
from torch_geometric.utils import k_hop_subgraph

from mpsearch.zoo import neighbours
from mpsearch.zoo.neighbours import Neighbourhood, NeighbourSampler, neighbourhoods

NODES = 50


def graph(edges: int, seed: int) -> Tensor:
    """Distinct edges in no order, with loops."""
    numbers = torch.randperm(NODES * NODES, generator=torch.Generator().manual_seed(seed))[:edges]
    return torch.stack([numbers // NODES, numbers % NODES])


@settings(max_examples=30)
@given(
    edges=st.integers(0, 400),
    seed=st.integers(0, 5),
    fanouts=st.lists(st.integers(-1, 4), min_size=1, max_size=3),
    size=st.integers(1, 60),
)
def test_a_neighbourhood_is_a_part_of_the_graph(edges: int, seed: int, fanouts: list[int], size: int) -> None:
    edge_index = graph(edges, seed)
    wanted = torch.randperm(NODES, generator=torch.Generator().manual_seed(seed))[:31]
    known = set(map(tuple, edge_index.T.tolist()))
    degrees = torch.bincount(edge_index[1], minlength=NODES)
    parts = list(NeighbourSampler(edge_index, NODES, fanouts, seed).batches(wanted, size))
    assert torch.equal(torch.cat([part.nodes[: part.wanted] for part in parts]), wanted)
    most = max(degrees.tolist() if -1 in fanouts else [0], default=0)
    for part in parts:
        assert part.nodes.unique().numel() == part.nodes.numel()
        assert (part.edge_index[1].diff() >= 0).all()
        assert torch.equal(part.degrees, degrees[part.nodes]), "of the whole graph, whatever was drawn"
        drawn = list(map(tuple, part.nodes[part.edge_index].T.tolist()))
        assert len(set(drawn)) == len(drawn)
        assert set(drawn) <= known
        into = torch.bincount(part.edge_index[1], minlength=len(part.nodes))
        assert (into <= max(most, *fanouts)).all()
        first = degrees[part.nodes[: part.wanted]]
        expected = first if fanouts[0] < 0 else first.clamp(max=fanouts[0])
        assert torch.equal(into[: part.wanted], expected), "as many as there are, or as may be kept"


def test_all_neighbours_are_the_k_hop_subgraph() -> None:
    edge_index = graph(120, 1)
    wanted = torch.tensor([3, 7, 11])
    (part,) = NeighbourSampler(edge_index, NODES, (-1, -1)).batches(wanted, 3)
    assert set(part.nodes.tolist()) == set(k_hop_subgraph(wanted, 2, edge_index, num_nodes=NODES)[0].tolist())


def test_a_model_of_as_many_layers_gives_what_it_gives_on_the_whole_graph() -> None:
    torch.manual_seed(0)
    x, edge_index = torch.randn(NODES, 8), graph(300, 2)
    one, two = pyg.SAGEConv(8, 6), pyg.SAGEConv(6, 4)

    def run(x: Tensor, edges: Tensor) -> Tensor:
        return two(one(x, edges).relu(), edges)

    with torch.no_grad():
        whole = run(x, edge_index)
        for part in NeighbourSampler(edge_index, NODES, (-1, -1)).batches(torch.arange(NODES), 7):
            wanted = part.nodes[: part.wanted]
            torch.testing.assert_close(run(x[part.nodes], part.edge_index)[: part.wanted], whole[wanted])


def test_draws_repeat_and_differ_by_seed_and_are_even() -> None:
    star = torch.stack([torch.arange(1, NODES), torch.zeros(NODES - 1, dtype=torch.int64)])

    def drawn(seed: int) -> list[int]:
        (part,) = NeighbourSampler(star, NODES, (5,), seed).batches(torch.tensor([0]), 1)
        return sorted(part.nodes[1:].tolist())

    assert drawn(0) == drawn(0) != drawn(1)
    often = torch.bincount(torch.tensor([drawn(seed) for seed in range(400)]).flatten(), minlength=NODES)[1:]
    assert 15 < often.min() <= often.max() < 75, "41 of 400 are expected, with a deviation of 6"


def drawn(seed: int) -> list[Neighbourhood]:
    return neighbourhoods(graph(300, 0), NODES, torch.arange(20), (3, 2), 8, seed)


def equal(one: list[Neighbourhood], other: list[Neighbourhood]) -> bool:
    pairs = zip(one, other, strict=True)
    return all(torch.equal(a.nodes, b.nodes) and torch.equal(a.edge_index, b.edge_index) for a, b in pairs)


def test_without_a_back_end_the_own_sampler_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "has_loader", lambda: False)
    assert [part.wanted for part in drawn(0)] == [8, 8, 4]
    own = NeighbourSampler(graph(300, 0), NODES, (3, 2), 0).batches(torch.arange(20), 8)
    assert equal(drawn(0), list(own))
    assert not equal(drawn(0), drawn(1))


def test_with_a_back_end_the_loader_of_torch_geometric_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in gives batches as the loader does: local edges in any order, `n_id`, `batch_size`."""

    def loader(data: Data, fanouts: list[int], input_nodes: Tensor, batch_size: int, shuffle: bool) -> list[Data]:
        assert not shuffle
        assert data.num_nodes == NODES
        seed = int(torch.randint(1 << 30, ()))
        found = []
        for part in NeighbourSampler(data.edge_index, NODES, fanouts, seed).batches(input_nodes, batch_size):
            found.append(Data(edge_index=part.edge_index.flip(1), n_id=part.nodes, batch_size=part.wanted))
        return found

    monkeypatch.setattr(neighbours, "has_loader", lambda: True)
    monkeypatch.setattr(neighbours, "NeighborLoader", loader)
    state = torch.get_rng_state()
    degrees = torch.bincount(graph(300, 0)[1], minlength=NODES)
    assert equal(drawn(0), drawn(0))
    assert not equal(drawn(0), drawn(1))
    assert torch.equal(torch.get_rng_state(), state), "the caller's random numbers are left alone"
    for part in drawn(0):
        assert (part.edge_index[1].diff() >= 0).all()
        assert torch.equal(part.degrees, degrees[part.nodes])
    assert [part.wanted for part in drawn(0)] == [8, 8, 4]
