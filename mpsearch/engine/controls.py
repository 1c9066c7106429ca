"""Assignments that a search is measured against, besides float: uniform ones, and published rules."""

from __future__ import annotations

import math
from collections.abc import Sequence

from mpsearch.core.assignment import Assignment
from mpsearch.core.site import Bin, Site
from mpsearch.core.space import Choice, Space

DEGREE_RULE = "degree rule"


def controls(space: Space, sites: Sequence[Site]) -> dict[str, Assignment]:
    """By name, in the order in which they are evaluated: the uniform ones, and the degree rule where there are bins."""
    found = space.uniform()
    rule = degree_rule(space, sites)
    if rule is not None and rule not in found.values():
        found[DEGREE_RULE] = rule
    return found


def degree_rule(space: Space, sites: Sequence[Site]) -> Assignment | None:
    """Fewer bits for nodes of higher degree, as SGQuant's code does; None for a space without bins.

    A bin has the bits of its least degree, so that no node has fewer than its own degree asks for. What is split into
    no bins has its widest option.
    """
    bin_of = {site.name: site.bin for site in sites}
    bins = [[bin_of[s] for s in choice.sites if bin_of.get(s) is not None] for choice in space.choices]
    if not any(bins):
        return None
    picked = [_option(choice, mine) for choice, mine in zip(space.choices, bins, strict=True)]
    return space.decode(picked)


def degree_bits(degree: int) -> float:
    """Bits that a node asks for by its in-degree d: 32 up to 1, then 32 / sqrt(d), at least 2.

    Feng et al., arXiv 2007.05100, in the authors' repository YukeWang96/SGQuant.
    """
    return 32.0 if degree <= 1 else max(2.0, 32 / math.sqrt(degree))


def _option(choice: Choice, bins: Sequence[Bin | None]) -> int:
    """The narrowest option that has the bits; the widest where none does, or nothing asks for any."""
    widths = [fmt.bits for fmt in choice.options]
    asked = max((degree_bits(of.least) for of in bins if of is not None), default=math.inf)
    return widths.index(min((w for w in widths if w >= asked), default=max(widths)))
