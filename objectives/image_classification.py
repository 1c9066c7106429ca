"""Image classification: accuracy and log-loss of a small convolutional, recurrent or other network."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mpsearch.core.errors import BadInput
from mpsearch.problem.objective import Batch, Objective, Scores, Split
from mpsearch.zoo.images import CLASSIFIERS
from mpsearch.zoo.options import factor, in_parts, one_of, shuffled_parts, whole


class ImageClassification(Objective):
    """Measures `accuracy` and `log_loss` (nats).

    Args:
        model: `mlp`, `cnn` (10-layer ResNet), `vit`, or `lstm` and `gru`, which read row by row, on scikit-learn's
            8x8 digits, trained on first use; or, with data files, `fashion_lenet5`, trained on first use,
            `digits_resnet10` (16x16 digits), `cifar_resnet20` or `imagenet_efficientnet_lite0`.
        batch_size: images in a batch, at least 2.
        validation: how many images the search scores at most, evenly spaced; None for all of the split.
        training_batch_size: images in a step of finetuning, at least 2.
        width: how many times as many channels the layers have, rounded up; other than 1 for `mlp`, `cnn` and
            `fashion_lenet5`.
    """

    trains = True

    def __init__(
        self,
        model: str = "cnn",
        batch_size: int = 150,
        validation: int | None = None,
        training_batch_size: int = 50,
        width: float = 1.0,
    ) -> None:
        self.entry = CLASSIFIERS[one_of("model", model, CLASSIFIERS)]
        self.width = factor("width", width)
        if self.width != 1 and self.entry.wide is None:
            able = ", ".join(name for name, entry in CLASSIFIERS.items() if entry.wide)
            raise BadInput(f"objective option width: {model} is of width 1, not {width!r}; those of any width: {able}.")
        self.batch_size = whole("batch_size", batch_size, least=2)
        self.training_batch_size = whole("training_batch_size", training_batch_size, least=2)
        self.most = {"validation": None if validation is None else whole("validation", validation, least=2)}

    def model(self) -> nn.Module:
        return self.entry.model() if self.width == 1 or self.entry.wide is None else self.entry.wide(self.width)

    def batches(self, split: Split) -> Iterable[Batch]:
        images, labels = self.entry.rows(split)
        for rows in in_parts(len(labels), self.batch_size, self.most.get(split)):
            yield Batch((images[rows],), labels[rows], len(rows))

    def training_batches(self, epoch: int) -> Iterable[Batch]:
        images, labels = self.entry.rows("train")
        for rows in shuffled_parts(len(labels), self.training_batch_size, epoch):
            yield Batch((images[rows],), labels[rows], len(rows))

    def metric(self, outputs: Sequence[Tensor], targets: Sequence[Tensor]) -> Scores:
        logits, labels = torch.cat(list(outputs)), torch.cat(list(targets))
        return {
            "accuracy": (logits.argmax(1) == labels).float(),
            "log_loss": F.cross_entropy(logits, labels, reduction="none"),
        }

    def loss(self, output: Tensor, batch: Batch) -> Tensor:
        return F.cross_entropy(output, batch.target)
