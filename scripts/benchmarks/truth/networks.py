"""The trained networks of the enumerated truths, small enough that every assignment can be scored, and their objective.

None of them is a network of the zoo, and they train with a seed of their own, so that no driver was developed on them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn
from torch_geometric.nn import GCNConv

from mpsearch.problem.objective import Batch, Objective, Scores, Split
from mpsearch.zoo import digits
from mpsearch.zoo.cache import seeded
from mpsearch.zoo.options import in_parts
from mpsearch.zoo.train import Recipe, fit_batches, fit_whole, jittered
from mpsearch.zoo.vit import ViT

SEED = 7
_BATCH = 75  # divides validation (450) and calibration (150)


class Chain(nn.Module):
    """Grey images [n, 1, 16, 16] to 10 logits: six convolutions in a row, a mean over pixels, a linear layer."""

    def __init__(self, widths: Sequence[int] = (16, 16, 32, 32, 64, 64)) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 1
        for width in widths:
            stride = 2 if before not in (1, width) else 1
            layers += [nn.Conv2d(before, width, 3, stride, padding=1), nn.ReLU()]
            before = width
        self.features, self.head = nn.Sequential(*layers), nn.Linear(before, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).mean((2, 3)))


class GCN(nn.Module):
    """Node features [n, 64] and edges [2, e] to logits [n, 10] in three layers."""

    def __init__(self, hidden: int = 48) -> None:
        super().__init__()
        self.conv1, self.conv2, self.conv3 = GCNConv(64, hidden), GCNConv(hidden, hidden), GCNConv(hidden, 10)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        x = F.relu(self.conv1(F.dropout(x, 0.5, self.training), edge_index))
        x = F.relu(self.conv2(F.dropout(x, 0.5, self.training), edge_index))
        return self.conv3(x, edge_index)


@dataclass(frozen=True)
class Entry:
    """How to build and train a network, and its batches. Logits come with a target that `score` understands."""

    build: Callable[[], nn.Module]
    fit: Callable[[nn.Module], None]
    batches: Callable[[Split], list[Batch]]

    def train(self) -> dict[str, Tensor]:
        """Weights by name. Rounded to 16 bits, which is how the files keep them."""
        with seeded(SEED):
            model = self.build()
            self.fit(model)
        return {name: tensor.detach().half() for name, tensor in model.state_dict().items()}


def _images(size: int, rows: Tensor) -> Tensor:
    return F.interpolate(digits.images().inputs[rows], (size, size), mode="bilinear", align_corners=False)


def _image_batches(size: int, split: Split) -> list[Batch]:
    data = digits.images()
    inputs, labels = _images(size, data.rows[split]), data.labels[data.rows[split]]
    parts = in_parts(len(labels), _BATCH)
    return [Batch((inputs[rows],), (torch.arange(len(rows)), labels[rows]), len(rows)) for rows in parts]


def _fit_images(size: int, recipe: Recipe, model: nn.Module) -> None:
    data = digits.images()
    inputs, labels = _images(size, data.rows["train"]), data.labels[data.rows["train"]]
    fit_batches(model, lambda rows: (jittered(inputs[rows], recipe.jitter),), labels, recipe)


def _graph_batches(split: Split) -> list[Batch]:
    data = digits.knn_graph()
    nodes = data.rows[split]
    return [Batch((data.x, data.edge_index), (nodes, data.labels[nodes]), len(nodes))]


def _fit_graph(model: nn.Module) -> None:
    data = digits.knn_graph()
    rows = data.rows["train"]

    def loss(m: nn.Module) -> Tensor:
        return F.cross_entropy(m(data.x, data.edge_index)[rows], data.labels[rows])

    fit_whole(model, loss, 200, 0.01, weight_decay=5e-4)


def _on_images(build: Callable[[], nn.Module], size: int, recipe: Recipe) -> Entry:
    return Entry(build, partial(_fit_images, size, recipe), partial(_image_batches, size))


NETWORKS = {
    "cnn": _on_images(Chain, 16, Recipe(epochs=25, learning_rate=0.005, batch_size=32, weight_decay=0.05, jitter=0.08)),
    "gcn": Entry(GCN, _fit_graph, _graph_batches),
    "vit": _on_images(
        partial(ViT, width=64, depth=1),
        8,
        Recipe(epochs=60, learning_rate=0.005, batch_size=32, weight_decay=0.1, smoothing=0.1, jitter=0.08),
    ),
}


def score(logits: Tensor, target: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Log-loss (nats) and error (0 or 1) of every sample; `target` holds the rows that count and their labels."""
    rows, labels = target
    chosen = logits[rows]
    return F.cross_entropy(chosen, labels, reduction="none"), (chosen.argmax(1) != labels).float()


class Network(Objective):
    """Measures `log_loss` (nats) and `error` (share of samples) of a network whose weights lie beside this file.

    Args:
        name: `cnn`, `gcn` or `vit`.
    """

    def __init__(self, name: str) -> None:
        self.name, self.entry = name, NETWORKS[name]

    def model(self) -> nn.Module:
        model = self.entry.build()
        weights = load_file(Path(__file__).parent / f"{self.name}.safetensors")
        model.load_state_dict({name: tensor.float() for name, tensor in weights.items()})
        return model.eval()

    def batches(self, split: Split) -> Iterable[Batch]:
        return self.entry.batches(split)

    def metric(self, outputs: Sequence[Tensor], targets: Sequence[Any]) -> Scores:
        log_loss, error = zip(*map(score, outputs, targets), strict=True)
        return {"log_loss": torch.cat(log_loss), "error": torch.cat(error)}

    def loss(self, output: Tensor, batch: Batch) -> Tensor:
        return score(output, batch.target)[0].mean()
