"""Node classifiers by name, each trained on the labelled nodes of one graph."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from mpsearch.zoo import amazon, digits, planetoid
from mpsearch.zoo.cache import trained
from mpsearch.zoo.digits import NodeData
from mpsearch.zoo.gnn import AGNN, GAT, GCN
from mpsearch.zoo.train import fit_whole

NETWORKS: dict[str, Callable[[int, int, int], nn.Module]] = {"gcn": GCN, "gat": GAT, "agnn": AGNN}
"""Name to `network(inputs, hidden, classes)`."""

DATASETS: dict[str, Callable[[], NodeData]] = {
    "digits-knn": digits.knn_graph,
    **{name: partial(planetoid.citations, name) for name in ("cora", "citeseer", "pubmed")},
    **{name: partial(amazon.purchases, name) for name in ("amazon-photo", "amazon-computers")},
}


@dataclass(frozen=True)
class Recipe:
    """Adam on the whole graph, weight decay added to the gradient.

    Args:
        selects: whether the epoch with the best accuracy on validation nodes is kept (of equals, the least loss).
    """

    epochs: int
    learning_rate: float
    weight_decay: float = 5e-4
    selects: bool = True


_RECIPES = {"gcn": Recipe(200, 0.01), "gat": Recipe(200, 0.005), "agnn": Recipe(200, 0.01)}
_ON_DIGITS = {
    "gcn": Recipe(200, 0.01, selects=False),
    "gat": Recipe(100, 0.01, selects=False),
    "agnn": Recipe(200, 0.01, selects=False),
}


def classifier(dataset: str, network: str, hidden: int, seed: int = 0) -> nn.Module:
    """The trained network, in evaluation mode.

    Args:
        hidden: features, in each head of a GAT.
        seed: of initialization and dropout.
    """
    data, recipe = DATASETS[dataset](), (_ON_DIGITS if dataset == "digits-knn" else _RECIPES)[network]

    def loss(model: nn.Module) -> Tensor:
        rows = data.rows["train"]
        return cross_entropy(model(data.x, data.edge_index)[rows], data.labels[rows])

    def score(model: nn.Module) -> tuple[float, float]:
        rows = data.rows["validation"]
        logits, labels = model(data.x, data.edge_index)[rows], data.labels[rows]
        return float((logits.argmax(1) == labels).float().mean()), -float(cross_entropy(logits, labels))

    def fit(model: nn.Module) -> None:
        selecting = score if recipe.selects else None
        fit_whole(model, loss, recipe.epochs, recipe.learning_rate, recipe.weight_decay, selecting)

    def build() -> nn.Module:
        return NETWORKS[network](data.x.shape[1], hidden, int(data.labels.max()) + 1)

    return trained(f"{dataset}-{network}", build, fit, recipe, seed)
