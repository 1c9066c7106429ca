"""A training graph keeps the dropout that the evaluation graph has lost, and has the same sites."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tiny_models import graph, randn
from torch import Tensor, fx, nn
from torch_geometric import nn as pyg

from mpsearch.graph.dropout import dropout
from mpsearch.graph.export import Example, export
from mpsearch.graph.fold import fold_batch_norm
from mpsearch.graph.measure import measure
from mpsearch.graph.program import compile_program
from mpsearch.graph.sites import discover
from mpsearch.graph.training import Trainable, as_it_is


class Gat(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = pyg.GATConv(6, 4, 2, dropout=0.5), nn.Linear(8, 3)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        return self.head(F.dropout(F.elu(self.conv(x, edge_index)), 0.5, self.training))


class Conv(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(3, 8, 3),
            nn.BatchNorm2d(8),
            nn.ReLU(inplace=True),
            nn.Dropout2d(0.5),
            nn.Conv2d(8, 4, 3),
            nn.Dropout(0.5, inplace=True),
            nn.Flatten(),
        )


class Encoder(nn.Module):
    """Drops inside of the fused attention alone."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, dropout=0.5, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x, x, x, need_weights=False)[0]


class Reader(nn.Module):
    """Drops between its layers alone."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(6, 5, 2, dropout=0.5, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.rnn(x)[0]


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[Any, ...]]] = {
    "gat": (Gat, graph(20, channels=6)),
    "conv": (Conv, (randn(4, 3, 8, 8),)),
    "encoder": (Encoder, (randn(3, 5, 8),)),
    "reader": (Reader, (randn(3, 4, 6),)),
}


@pytest.mark.parametrize("name", MODELS)
def test_the_same_sites_and_outputs_and_dropout_that_acts(name: str) -> None:
    make, inputs = MODELS[name]
    torch.manual_seed(0)
    model = make().eval()
    found = {}
    for keep in (False, True):
        lowered = export(model, [Example(inputs)], keep_dropout=keep)
        fold_batch_norm(lowered)
        measure(lowered, Example(inputs).leaves())
        found[keep] = lowered, discover(lowered)
    evaluation, training = found[False][1], found[True][1]
    assert training.sites == evaluation.sites
    assert training.ties == evaluation.ties
    assert not any(node.target is dropout for node in found[False][0].graph.nodes)
    assert not any(node.meta.get("dropout") for node in found[False][0].graph.nodes)
    with torch.no_grad():
        wanted = model(*inputs)
    fused = [site.name for site in training.sites if ":probs" in site.name or ":hidden" in site.name]
    for active in [[], fused] if fused else [[]]:
        lowered = found[True][0]
        graph = fx.Graph()
        graph.output(graph.graph_copy(lowered.graph, {}))
        copy = replace(lowered, graph=graph)
        trainable = Trainable(compile_program(copy, discover(copy), active), lowered.parameters)
        (plain,) = trainable.run(Example(inputs).leaves(), as_it_is)
        torch.testing.assert_close(plain, wanted, rtol=1e-4, atol=1e-5)
        draws = [trainable.run(Example(inputs).leaves(), as_it_is, training=True)[0] for _ in range(2)]
        assert not torch.equal(draws[0], draws[1])
        assert not torch.allclose(draws[0], plain)
        draws[0].square().sum().backward()
        assert all(parameter.grad is not None for parameter in trainable.parameters.values())


def test_the_share_that_is_dropped_is_the_models_own() -> None:
    class Ones(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.dropout(x, 0.3, self.training) * 1.0

    x = torch.ones(200, 100)
    lowered = export(Ones().eval(), [Example((x,))], keep_dropout=True)
    measure(lowered, [x])
    (out,) = Trainable(compile_program(lowered, discover(lowered), []), []).run([x], as_it_is, training=True)
    assert abs(float((out == 0).float().mean()) - 0.3) < 0.02
    torch.testing.assert_close(out[out != 0], torch.full_like(out[out != 0], 1 / 0.7))
