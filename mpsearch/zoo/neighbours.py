"""Batches of a large graph: some nodes with sampled neighbours, hop by hop, as GraphSAGE draws them.

Hamilton, Ying, Leskovec, "Inductive representation learning on large graphs" (2017).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Neighbourhood:
    """A part of a graph.

    Args:
        nodes: numbers of its nodes in the graph [n], the ones that were asked for first.
        edge_index: [2, e] among `nodes`, by place, sorted by target.
        wanted: how many nodes were asked for.
    """

    nodes: Tensor
    edge_index: Tensor
    wanted: int


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
        return Neighbourhood(torch.cat(found), edge_index[:, edge_index[1].argsort(stable=True)], len(wanted))

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
