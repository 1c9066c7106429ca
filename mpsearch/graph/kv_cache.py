"""What a causal language model would keep of the tokens so far: keys and values of its attentions."""

from __future__ import annotations

import math
from collections.abc import Iterable

from torch import fx

from mpsearch.cost.workload import Held
from mpsearch.graph import attention
from mpsearch.graph.export import Lowered
from mpsearch.graph.sites import Discovery, live_nodes
from mpsearch.graph.workload import value_rows


def cached(lowered: Lowered, discovery: Discovery, active: Iterable[str]) -> tuple[Held, ...]:
    """Keys and values of every causal attention, on the batch that the graph was measured on.

    Heads that several queries share count once: what is repeated for them is a copy. Nothing for models in which a
    token sees later ones.

    Args:
        active: names of the sites that have a choice.
    """
    nodes, names = list(lowered.graph.nodes), set(active)
    sites = {f.node: f.site for f in discovery.found if f.part is None}
    found: dict[fx.Node, Held] = {}
    for block in attention.find(nodes, live_nodes(nodes)):
        if block.probs.meta["is_causal"]:
            for part, node in attention.owners(block).items():
                if part != "q":
                    site = sites.get(node)
                    found[node] = Held(
                        f"{block.name}:{part}",
                        math.prod(node.meta["shape"]),
                        value_rows(site) if site is not None else 1,
                        float_bits=8 * node.meta["val"].dtype.itemsize,
                        site=site.name if site is not None and site.name in names else None,
                    )
    return tuple(found.values())
