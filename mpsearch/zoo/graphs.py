"""A graph classifier: GIN on digits whose brightest pixels are nodes."""

from __future__ import annotations

from torch import nn

from mpsearch.zoo import digits
from mpsearch.zoo.cache import trained
from mpsearch.zoo.gnn import GIN
from mpsearch.zoo.train import Recipe, fit_batches

_RECIPE = Recipe(epochs=60, learning_rate=0.01, batch_size=39, weight_decay=0.05)  # 39 divides the 897 training graphs


def classifier(hidden: int, graphs: int) -> GIN:
    """The trained network, for batches of `graphs` graphs; the weights are the same for all."""
    data = digits.pixel_graphs()
    train = data.rows["train"]

    def fit(model: nn.Module) -> None:
        fit_batches(model, lambda rows: data.batch(train[rows]), data.labels[train], _RECIPE)

    weights = trained("digits-gin", lambda: GIN(3, hidden, 10, _RECIPE.batch_size), fit, _RECIPE).state_dict()
    model = GIN(3, hidden, 10, graphs)
    model.load_state_dict(weights)
    return model.eval()
