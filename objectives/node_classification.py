"""Node classification on one graph: accuracy and log-loss of a GCN or GAT."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mpsearch.problem.objective import Batch, Objective, Scores, Split
from mpsearch.zoo.nodes import DATASETS, NETWORKS, classifier
from mpsearch.zoo.options import one_of, whole


class NodeClassification(Objective):
    """Measures `accuracy` and `log_loss` (nats) over the nodes of a split.

    The model always sees the whole graph: a split's one batch differs from the others in the nodes scored.

    Args:
        dataset: `digits-knn` (scikit-learn's digits, each joined to the nearest) or, with data files, `cora`.
        network: `gcn` or `gat` (8 heads), two layers, trained on first use.
        hidden: features of the hidden layer, in each head of a GAT.
    """

    trains = True

    def __init__(self, dataset: str = "digits-knn", network: str = "gcn", hidden: int = 16) -> None:
        self.dataset = one_of("dataset", dataset, DATASETS)
        self.network = one_of("network", network, NETWORKS)
        self.hidden = whole("hidden", hidden, least=1)

    def model(self) -> nn.Module:
        return classifier(self.dataset, self.network, self.hidden)

    def batches(self, split: Split) -> Iterable[Batch]:
        data = DATASETS[self.dataset]()
        nodes = data.rows[split]
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
