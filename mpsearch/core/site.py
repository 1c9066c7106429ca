"""A site: one place in a model where numbers can be narrowed."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Role(StrEnum):
    """What a site's values are. Rules of a space select sites by role, quantizers choose defaults by it."""

    WEIGHT = "weight"
    EMBEDDING = "embedding"
    ACTIVATION = "activation"
    FEATURE = "feature"
    MESSAGE = "message"
    ATTENTION = "attention"
    AGGREGATE = "aggregate"
    SCORE = "score"
    PROB = "prob"
    CACHE = "cache"
    STATE = "state"

    @property
    def is_parameter(self) -> bool:
        """Whether the values are stored with the model (weights), not made while it runs (activations)."""
        return self in (Role.WEIGHT, Role.EMBEDDING)


@dataclass(frozen=True)
class Bin:
    """The nodes of a graph whose in-degree lies in a range.

    Args:
        least: degree.
        most: degree; None where there is no end.
        shares: whether grids are fitted on all nodes, so that all bins have one range.
    """

    least: int
    most: int | None
    shares: bool = True

    @property
    def label(self) -> str:
        """`deg4`, `deg4-7` or `deg8+`."""
        end = "+" if self.most is None else "" if self.most == self.least else f"-{self.most}"
        return f"deg{self.least}{end}"


@dataclass(frozen=True)
class Site:
    """One place whose precision can be chosen.

    Args:
        name: readable and stable: a parameter's name, or `module:part` (`stem:in`, `enc.0.attn:probs`).
        role: what the values are.
        shape: of the parameter, or of the value for one batch as exported (batch axis included).
        axis: the output-channel axis of a parameter; the channel axis of a value. Per-channel grids run along it.
        bin: the nodes whose rows of a value these are; None for all of it.
        gates: of a recurrent matrix, how many gates lie one after the other along `axis`; 0 for anything else.
    """

    name: str
    role: Role
    shape: tuple[int, ...]
    axis: int = 0
    bin: Bin | None = None
    gates: int = 0

    @property
    def whole(self) -> str:
        """Name of the value whose rows these are: the site's own where it has all of them."""
        return self.name if self.bin is None else self.name.removesuffix(f"@{self.bin.label}")
