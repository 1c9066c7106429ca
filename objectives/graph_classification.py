"""Graph classification: a three-layer GIN on digits whose brightest pixels are nodes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mpsearch.core.errors import BadInput
from mpsearch.problem.objective import Batch, Objective, Scores, Split
from mpsearch.zoo import digits
from mpsearch.zoo.graphs import classifier
from mpsearch.zoo.options import shuffled_parts, whole

_GRAPHS = 150  # divides every split: 150, 450 and 450


class GraphClassification(Objective):
    """Measures `accuracy` and `log_loss` (nats).

    Args:
        hidden: features of every node after each layer.
        batch_size: graphs in every batch, for pooling is exported for that number: a divisor of 150.
    """

    trains = True

    def __init__(self, hidden: int = 48, batch_size: int = _GRAPHS) -> None:
        self.hidden = whole("hidden", hidden, least=1)
        self.batch_size = whole("batch_size", batch_size, least=2, most=_GRAPHS)
        if _GRAPHS % self.batch_size:
            raise BadInput(f"objective option batch_size: {batch_size} does not divide {_GRAPHS}; try 50, 75 or 150.")

    def model(self) -> nn.Module:
        return classifier(self.hidden, self.batch_size)

    def batches(self, split: Split) -> Iterable[Batch]:
        data = digits.pixel_graphs()
        for rows in data.rows[split].split(self.batch_size):
            yield Batch(data.batch(rows), data.labels[rows], len(rows))  # node features, edges, graph of each node

    def training_batches(self, epoch: int) -> Iterable[Batch]:
        data = digits.pixel_graphs()
        train = data.rows["train"]
        for part in shuffled_parts(len(train), self.batch_size, epoch):
            if len(part) == self.batch_size:  # pooling knows no other number; the rest waits for the next order
                yield Batch(data.batch(train[part]), data.labels[train[part]], len(part))

    def metric(self, outputs: Sequence[Tensor], targets: Sequence[Tensor]) -> Scores:
        logits, labels = torch.cat(list(outputs)), torch.cat(list(targets))
        return {
            "accuracy": (logits.argmax(1) == labels).float(),
            "log_loss": F.cross_entropy(logits, labels, reduction="none"),
        }

    def loss(self, output: Tensor, batch: Batch) -> Tensor:
        return F.cross_entropy(output, batch.target)
