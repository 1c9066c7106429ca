"""Node classification on one graph: accuracy and log-loss of a GCN, GAT or AGNN."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mpsearch.core.errors import BadInput
from mpsearch.problem.objective import Batch, Objective, Scores, Split
from mpsearch.zoo.neighbours import neighbourhoods
from mpsearch.zoo.nodes import DATASETS, NETWORKS, classifier
from mpsearch.zoo.options import factor, one_of, whole, widened


class Target(NamedTuple):
    """What to score: labels of some nodes, and the classes that the float model gives to others."""

    nodes: Tensor
    labels: Tensor
    judged: Tensor | None = None
    classes: Tensor | None = None


class NodeClassification(Objective):
    """Measures `accuracy` and `log_loss` (nats) over the nodes of a split.

    The model sees the whole graph, and a split's one batch differs from the others in the nodes scored; with `fanouts`
    it sees batches of nodes with sampled neighbours, the same in every evaluation.

    On the whole graph it measures `agreement` too: the share of nodes that keep the class that the float model gives
    them. It needs no labels, so it counts all nodes but those of the test split (of the test split, these), and is much
    less a matter of luck than the accuracy of a few hundred nodes.

    Args:
        dataset: `digits-knn` (scikit-learn's digits, each joined to the nearest) or, with data files, `cora`,
            `citeseer`, `pubmed`, `amazon-photo`, `amazon-computers`.
        network: `gcn`, `gat` (8 heads) or `agnn`, two layers of messages, trained on first use on the whole graph.
        hidden: features of the hidden layer, in each head of a GAT.
        width: how many times as many, rounded up.
        fanouts: the most neighbours of a node that are kept, by hop, for example [10, 10]; -1 keeps all.
        batch_size: nodes in a batch where neighbours are sampled.
        seed: of the training.
    """

    trains = True

    def __init__(
        self,
        dataset: str = "digits-knn",
        network: str = "gcn",
        hidden: int = 16,
        width: float = 1.0,
        fanouts: Sequence[int] | None = None,
        batch_size: int = 256,
        seed: int = 0,
    ) -> None:
        self.dataset = one_of("dataset", dataset, DATASETS)
        self.network = one_of("network", network, NETWORKS)
        self.hidden = widened(whole("hidden", hidden, least=1), factor("width", width))
        if fanouts is not None and (not isinstance(fanouts, (list, tuple)) or not fanouts):
            raise BadInput(f"objective option fanouts: {fanouts!r} is not a list of numbers, one for each hop.")
        self.fanouts = None if fanouts is None else [whole("fanouts", n, least=-1) for n in fanouts]
        self.batch_size = whole("batch_size", batch_size, least=1)
        self.seed = whole("seed", seed, least=0)

    def model(self) -> nn.Module:
        return classifier(self.dataset, self.network, self.hidden, self.seed)

    def batches(self, split: Split) -> Iterable[Batch]:
        return self._batches(split)

    def training_batches(self, epoch: int) -> Iterable[Batch]:
        return self._batches("train", epoch)

    def _batches(self, rows: str, epoch: int = 0) -> Iterable[Batch]:
        data = DATASETS[self.dataset]()
        nodes = data.rows[rows]
        if rows == "train" and self.fanouts is not None:
            nodes = nodes[torch.randperm(len(nodes), generator=torch.Generator().manual_seed(epoch))]
        if self.fanouts is not None:
            for part in neighbourhoods(data.edge_index, len(data.x), nodes, self.fanouts, self.batch_size, seed=epoch):
                asked = torch.arange(part.wanted)
                target = Target(asked, data.labels[part.nodes[asked]])
                yield Batch((data.x[part.nodes], part.edge_index), target, part.wanted, degrees=part.degrees)
            return
        tested = torch.isin(torch.arange(len(data.x)), data.rows["test"])
        judged = (tested if rows == "test" else ~tested).nonzero().flatten()
        target = Target(nodes, data.labels[nodes], judged, self._classes[judged])
        yield Batch((data.x, data.edge_index), target, len(nodes))

    @cached_property
    def _classes(self) -> Tensor:
        """Of each node, by the float model."""
        data = DATASETS[self.dataset]()
        with torch.no_grad():
            return self.model()(data.x, data.edge_index).argmax(1)

    def metric(self, outputs: Sequence[Tensor], targets: Sequence[Target]) -> Scores:
        logits = torch.cat([output[t.nodes] for output, t in zip(outputs, targets, strict=True)])
        labels = torch.cat([t.labels for t in targets])
        found = {
            "accuracy": (logits.argmax(1) == labels).float(),
            "log_loss": F.cross_entropy(logits, labels, reduction="none"),
        }
        same = [
            output[t.judged].argmax(1) == t.classes
            for output, t in zip(outputs, targets, strict=True)
            if t.classes is not None
        ]
        return {**found, "agreement": torch.cat(same).float()} if same else found

    def loss(self, output: Tensor, batch: Batch) -> Tensor:
        return F.cross_entropy(output[batch.target.nodes], batch.target.labels)
