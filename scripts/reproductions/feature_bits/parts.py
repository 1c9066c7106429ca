"""What is searched: the networks, the spaces of formats, and the limits of what may be lost."""

from __future__ import annotations

from dataclasses import dataclass

from mpsearch.spec.schema import Recipe
from mpsearch.zoo.nodes import DATASETS

GRAPHS = tuple(name for name in DATASETS if name != "digits-knn")
HIDDEN = {"gcn": 16, "gat": 8, "agnn": 16}
"""Features of the hidden layer, by network; of a GAT in each of its 8 heads."""
FEW = {"pubmed": 3, "amazon-computers": 3}
"""Seeds at most, of graphs on which training takes long."""
LOSS, AGREEMENT = 0.004, 0.985
"""What is asked of an assignment to be chosen: the most accuracy that it loses on validation nodes, and the least share
of nodes outside the test set that keep the class that the float model gives them. Of very many assignments some have
the accuracy by luck; that few nodes change is no luck."""
RECIPE = Recipe(epochs=100, learning_rate=0.01, distill=1.0, temperature=0.05)
"""Of finetuning. No more is trained than what the float model says of every node: labels and dropout do worse. Weight
decay leaves its logits so small that classes differ by little; the low temperature tells them apart."""
LEAST_REDUCTION = 29
ROWS = tuple(f"int{bits}:rows" for bits in (1, 2, 3, 4, 8))
LEAST = tuple(f"int{bits}" for bits in (1, 2, 3, 4, 5, 6, 8))
OWN = (*LEAST, "rowscale1")
SPARSE = ("sparse1:row", "sparse8", "sparse32")


@dataclass(frozen=True)
class Part:
    """One space and how it is searched.

    Args:
        what: for the tables.
        features, attention, scores: formats to choose from; attention or scores, not both.
        driver: `exhaustive` where all features are tied, so that only the uniform controls count.
        bins: of hidden features, by degree; the input is then `rowscale1`, so that it does not drown them.
        alone: a format that each feature is given once, all others float.
        agreement: least share of nodes outside the test set that keep their class.
        corrects: whether biases are corrected, so that each layer gives the means of the float one; weights then have
            16 bits, for only layers with a format are corrected.
        is_tuned: whether what the search finds at no more than 2 bits is finetuned; the input is then `rowscale1`.
    """

    what: str
    features: tuple[str, ...]
    attention: tuple[str, ...] = ()
    scores: tuple[str, ...] = ()
    driver: str = "frontier"
    bins: int = 0
    alone: str = ""
    agreement: float = AGREEMENT
    corrects: bool = False
    is_tuned: bool = False

    @property
    def is_tied(self) -> bool:
        return self.driver == "exhaustive"


_FEATURES = (*ROWS, *OWN, *SPARSE)
WITH_ATTENTION, WITH_SCORES = Part("", _FEATURES, ROWS), Part("", _FEATURES, scores=LEAST)
"""All formats of the parts that are exported together."""
PARTS = {
    "uniform": Part("all features alike, SGQuant's range", ROWS, driver="exhaustive", alone="int2:rows"),
    "corrected": Part(
        "all features alike, SGQuant's range, biases corrected", ROWS, driver="exhaustive", corrects=True
    ),
    "alike": Part("all features and attention alike, SGQuant's range", ROWS, ROWS, driver="exhaustive"),
    "integers": Part("SGQuant's formats, searched", ROWS, ROWS, agreement=0.95),  # its range clips at any width
    "rowscale": Part("least squared error, rows of two values, scores, searched", OWN, scores=LEAST),
    "random": Part("the same space, random search", OWN, scores=LEAST, driver="random"),
    "degree": Part("hidden features by degree, searched", OWN, scores=LEAST, bins=4),
    "sparse": Part("sparse storage too, searched", (*OWN, *SPARSE), scores=LEAST),
    "tuned": Part("formats for little memory, searched", LEAST, scores=("int1", "int2"), is_tuned=True),
}
"""In the order of the tables."""
