"""No dead knobs: every site that is found changes the output at its lowest format. Single layers: `test_layers_doc`."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from rigs import Rig, distance, rig
from tiny_models import (
    Encoder,
    LanguageModel,
    OneConv,
    PlainNet,
    ResidualNet,
    SelfAttention,
    Transformer,
    TwoLayerGcn,
    graph,
    randn,
)
from torch import nn
from torch_geometric import nn as pyg

X, EDGES = graph()
TOKENS = torch.randint(0, 11, (3, 5), generator=torch.Generator().manual_seed(0))


def of(layer: Callable[[], nn.Module], *inputs: Any) -> Callable[[], Rig]:
    def build() -> Rig:
        torch.manual_seed(0)
        return rig(OneConv(layer()), inputs)

    return cache(build)


FAMILIES: dict[str, Callable[[], Rig]] = {
    "residual net": cache(lambda: rig(ResidualNet, (randn(4, 3, 6, 6),))),
    "plain net": cache(lambda: rig(PlainNet, (randn(4, 3, 6, 6),))),
    "transformer, fused": cache(lambda: rig(Transformer, (randn(3, 5, 8),))),
    "transformer, written out": cache(lambda: rig(Transformer(written_out=True), (randn(3, 5, 8),))),
    "encoder layer": cache(lambda: rig(Encoder, (randn(3, 5, 8),))),
    "multi-head, self": cache(lambda: rig(SelfAttention, (randn(3, 5, 8),))),
    "language model": cache(lambda: rig(LanguageModel, (TOKENS,))),
    "two GCN": cache(lambda: rig(TwoLayerGcn, (X, EDGES))),
    "SAGE max": of(lambda: pyg.SAGEConv(8, 8, aggr="max"), X, EDGES),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_site_is_live(family: str) -> None:
    found = FAMILIES[family]()
    machine = found.machine()
    base = machine.run(found.formats({}))
    assert found.program.sites
    dead = [s.name for s in found.program.sites if not distance(base, machine.run(found.formats({s.name: "int1"})))]
    assert not dead


@pytest.mark.parametrize("family", FAMILIES)
def test_graph_replays_the_model(family: str) -> None:
    ours, theirs = FAMILIES[family]().replay
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
