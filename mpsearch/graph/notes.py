"""What the authors of SGQuant count of a layer with attention (`mem_notes`), site by site, read off the graph.

Features of nodes before and after the linear map, at the width of the feature; both ends of each edge, at that of the
message; score, score after the activation function and coefficient, at that of the attention, or the first two at that
of the score where it has a choice.
"""

from __future__ import annotations

import math
from fractions import Fraction

from torch import fx

from mpsearch.core.site import Role, Site
from mpsearch.cost.workload import Held
from mpsearch.graph.messages import is_edge_softmax, is_gather
from mpsearch.graph.ops import root
from mpsearch.graph.sites import Discovery
from mpsearch.graph.workload import scored

_ENDS, _EDGE_VALUES, _SCORES = 2, 3, 2


def counted(discovery: Discovery) -> dict[str, Fraction]:
    """How often the numbers of each site count; nothing for a site that is in no layer with a softmax over edges."""
    layers: dict[str, dict[Role, tuple[Site, fx.Node]]] = {}
    for found in discovery.found:
        layers.setdefault(found.site.name.rpartition(":")[0], {}).setdefault(found.site.role, (found.site, found.node))
    times: dict[str, Fraction] = {}
    for parts in layers.values():
        if not {Role.FEATURE, Role.MESSAGE, Role.ATTENTION} <= set(parts):
            continue
        (feature, source), (message, sent), (attention, factor) = (
            parts[role] for role in (Role.FEATURE, Role.MESSAGE, Role.ATTENTION)
        )
        if not is_edge_softmax(factor):
            continue
        is_mapped = is_gather(sent) and root(sent.args[0]) is not source
        mapped = math.prod(message.shape[1:]) if is_mapped else 0
        times[feature.name] = 1 + Fraction(mapped, math.prod(feature.shape[1:]))
        times[message.name] = Fraction(_ENDS)
        times[attention.name] = Fraction(_EDGE_VALUES)
    return times


def noted(discovery: Discovery, times: dict[str, Fraction], active: set[str]) -> list[tuple[Held, Fraction]]:
    """The tensors that are counted, bins apart, and how often.

    Args:
        times: by site, as `counted` gave it before values were split.
        active: names of the sites that have a choice.
    """
    times = dict(times)
    for attention, score in scored(discovery, active):
        if attention in times:
            times[attention] -= _SCORES
            times[score] = Fraction(_SCORES)
    found = []
    for site in discovery.sites:
        if site.whole in times:
            choice = site.name if site.name in active else None
            found.append((Held(site.name, math.prod(site.shape), site=choice), times[site.whole]))
    return found
