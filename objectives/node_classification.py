"""Node classification on one graph: accuracy and log-loss of a GCN, GAT or AGNN."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mpsearch.core.errors import BadInput
from mpsearch.problem.objective import Batch, Objective, Scores, Split
from mpsearch.zoo.neighbours import NeighbourSampler
from mpsearch.zoo.nodes import DATASETS, NETWORKS, classifier
from mpsearch.zoo.options import one_of, whole


class NodeClassification(Objective):
    """Measures `accuracy` and `log_loss` (nats) over the nodes of a split.

    The model sees the whole graph, and a split's one batch differs from the others in the nodes scored; with `fanouts`
    it sees batches of nodes with sampled neighbours, the same in every evaluation.

    Args:
        dataset: `digits-knn` (scikit-learn's digits, each joined to the nearest) or, with data files, `cora`.
        network: `gcn`, `gat` (8 heads) or `agnn`, two layers of messages, trained on first use on the whole graph.
        hidden: features of the hidden layer, in each head of a GAT.
        fanouts: the most neighbours of a node that are kept, by hop, for example [10, 10]; -1 keeps all.
        batch_size: nodes in a batch where neighbours are sampled.
    """

    trains = True

    def __init__(
        self,
        dataset: str = "digits-knn",
        network: str = "gcn",
        hidden: int = 16,
        fanouts: Sequence[int] | None = None,
        batch_size: int = 256,
    ) -> None:
        self.dataset = one_of("dataset", dataset, DATASETS)
        self.network = one_of("network", network, NETWORKS)
        self.hidden = whole("hidden", hidden, least=1)
        if fanouts is not None and (not isinstance(fanouts, (list, tuple)) or not fanouts):
            raise BadInput(f"objective option fanouts: {fanouts!r} is not a list of numbers, one for each hop.")
        self.fanouts = None if fanouts is None else [whole("fanouts", n, least=-1) for n in fanouts]
        self.batch_size = whole("batch_size", batch_size, least=1)

    def model(self) -> nn.Module:
        return classifier(self.dataset, self.network, self.hidden)

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
            sampler = NeighbourSampler(data.edge_index, len(data.x), self.fanouts, seed=epoch)
            for part in sampler.batches(nodes, self.batch_size):
                asked = torch.arange(part.wanted)
                target = asked, data.labels[part.nodes[asked]]
                yield Batch((data.x[part.nodes], part.edge_index), target, part.wanted)
            return
        yield Batch((data.x, data.edge_index), (nodes, data.labels[nodes]), len(nodes))

    def metric(self, outputs: Sequence[Tensor], targets: Sequence[tuple[Tensor, Tensor]]) -> Scores:
        logits = torch.cat([output[nodes] for output, (nodes, _) in zip(outputs, targets, strict=True)])
        labels = torch.cat([labels for _, labels in targets])
        return {
            "accuracy": (logits.argmax(1) == labels).float(),
            "log_loss": F.cross_entropy(logits, labels, reduction="none"),
        }

    def loss(self, output: Tensor, batch: Batch) -> Tensor:
        nodes, labels = batch.target
        return F.cross_entropy(output[nodes], labels)
