"""Assignments that a search is measured against, besides float: uniform ones, and published rules."""

from __future__ import annotations

import math
from collections.abc import Sequence

from mpsearch.core.assignment import Assignment
from mpsearch.core.site import Bin, Site
from mpsearch.core.space import Choice, Space

DEGREE_RULE, DEGREE_STEPS = "degree rule", "degree steps"


def controls(space: Space, sites: Sequence[Site]) -> dict[str, Assignment]:
    """By name, in the order in which they are evaluated: the uniform ones, and two by degree where there are bins.

    What is known by an earlier name is left out.
    """
    found = space.uniform()
    for name, rule in ((DEGREE_RULE, degree_rule(space, sites)), (DEGREE_STEPS, degree_steps(space, sites))):
        if rule is not None and rule not in found.values():
            found[name] = rule
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


def degree_steps(space: Space, sites: Sequence[Site]) -> Assignment | None:
    """One width per bin, falling with the degree: SGQuant's table; None for a space without bins.

    The bins of a value step evenly through the widths of its options, from the widest to the narrowest. Tied bins have
    the width of the least degree; what is split into no bins has its widest option.
    """
    bins: dict[str, list[str]] = {}
    for site in sites:
        if site.bin is not None and site.name in space.choice_of:
            bins.setdefault(site.whole, []).append(site.name)
    if not bins:
        return None
    place = {name: i / max(1, len(names) - 1) for names in bins.values() for i, name in enumerate(names)}
    picked = []
    for choice in space.choices:
        widths = [fmt.bits for fmt in choice.options]
        falling = sorted(set(widths), reverse=True)
        step = min((place[site] for site in choice.sites if site in place), default=0.0)
        picked.append(widths.index(falling[round(step * (len(falling) - 1))]))
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
