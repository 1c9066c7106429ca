"""Batches of a large graph: some nodes with sampled neighbours, hop by hop, as GraphSAGE draws them.

Hamilton, Ying, Leskovec, "Inductive representation learning on large graphs" (2017). `neighbourhoods` is what an
objective calls: it gives each batch its nodes, edges, and the degrees of its nodes in the whole graph, which bins by
degree go by (`Batch(..., degrees=part.degrees)`): all edges of a node count, not those that were drawn.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch_geometric.typing
from torch import Tensor
from torch_geometric.data import Data
from torch_geometric.loader import NeighborLoader


@dataclass(frozen=True)
class Neighbourhood:
    """A part of a graph.

    Args:
        nodes: numbers of its nodes in the graph [n], the ones that were asked for first.
        edge_index: [2, e] among `nodes`, by place, sorted by target.
        wanted: how many nodes were asked for.
        degrees: edges into each of `nodes` [n] in the whole graph.
    """

    nodes: Tensor
    edge_index: Tensor
    wanted: int
    degrees: Tensor


def neighbourhoods(
    edge_index: Tensor, nodes: int, wanted: Tensor, fanouts: Sequence[int], size: int, seed: int = 0
) -> list[Neighbourhood]:
    """Neighbourhoods of the nodes `wanted` [n], `size` of them at a time, in order; the same for the same seed.

    Drawn by torch-geometric's `NeighborLoader` where pyg-lib or torch-sparse is installed, which it needs, and by
    `NeighbourSampler` where neither is. The two draw different neighbours.
    """
    if not has_loader():
        return list(NeighbourSampler(edge_index, nodes, fanouts, seed).batches(wanted, size))
    degrees = torch.bincount(edge_index[1], minlength=nodes)
    graph = Data(edge_index=edge_index, num_nodes=nodes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        drawn = list(NeighborLoader(graph, list(fanouts), input_nodes=wanted, batch_size=size, shuffle=False))
    found = []
    for part in drawn:
        order = part.edge_index[1].argsort(stable=True)
        found.append(Neighbourhood(part.n_id, part.edge_index[:, order], int(part.batch_size), degrees[part.n_id]))
    return found


def has_loader() -> bool:
    """Whether torch-geometric's `NeighborLoader` can run here."""
    return bool(torch_geometric.typing.WITH_PYG_LIB or torch_geometric.typing.WITH_TORCH_SPARSE)


class NeighbourSampler:
    """Draws neighbourhoods. The same seed and nodes give the same ones.

    Args:
        edge_index: of the graph [2, e], sources above targets.
        nodes: of the graph.
        fanouts: the most edges into a node that are kept, by hop; -1 keeps all.
        seed: of the draws.
    """

    def __init__(self, edge_index: Tensor, nodes: int, fanouts: Sequence[int], seed: int = 0) -> None:
        order = torch.argsort(edge_index[1], stable=True)
        self._sources = edge_index[0][order]
        self._begins = torch.cat([torch.zeros(1, dtype=torch.int64), torch.bincount(edge_index[1], minlength=nodes)])
        self._begins = self._begins.cumsum(0)
        self.fanouts, self.seed = tuple(fanouts), seed

    def batches(self, nodes: Tensor, size: int) -> Iterator[Neighbourhood]:
        """Neighbourhoods of `nodes` [n], `size` of them at a time, in order."""
        generator = torch.Generator().manual_seed(self.seed)
        for wanted in nodes.split(size):
            yield self.around(wanted, generator)

    def around(self, wanted: Tensor, generator: torch.Generator) -> Neighbourhood:
        """`wanted` nodes [n], each once, with what reaches them in as many hops as there are fan-outs."""
        place = torch.full((len(self._begins) - 1,), -1)
        place[wanted] = torch.arange(len(wanted))
        found, outer, edges = [wanted], wanted, [torch.zeros(2, 0, dtype=torch.int64)]
        for fanout in self.fanouts:
            source, target = self._into(outer, fanout, generator)
            outer = source[place[source] < 0].unique()
            place[outer] = torch.arange(len(outer)) + sum(map(len, found))
            found.append(outer)
            edges.append(torch.stack([place[source], place[target]]))
        edge_index = torch.cat(edges, dim=1)
        nodes, order = torch.cat(found), edge_index[1].argsort(stable=True)
        return Neighbourhood(nodes, edge_index[:, order], len(wanted), self._begins.diff()[nodes])

    def _into(self, targets: Tensor, fanout: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Sources and targets of edges into `targets`, at most `fanout` of each, drawn without replacement."""
        begins, degrees = self._begins[targets], self._begins[targets + 1] - self._begins[targets]
        owner = torch.repeat_interleave(torch.arange(len(targets)), degrees)
        rank = torch.arange(len(owner)) - (degrees.cumsum(0) - degrees)[owner]  # of an edge among those of its target
        edge = begins[owner] + rank
        if fanout >= 0:
            shuffled = torch.rand(len(edge), generator=generator, dtype=torch.float64).argsort()
            shuffled = shuffled[owner[shuffled].argsort(stable=True)]  # target by target, in a random order each
            kept = shuffled[rank < fanout].sort().values
            edge, owner = edge[kept], owner[kept]
        return self._sources[edge], targets[owner]
