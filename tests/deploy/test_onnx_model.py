"""ONNX models give what torch and the evaluator give, and run on integers where they are asked to, and nowhere else."""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from deployed import (
    INT8,
    Attention,
    Chain,
    Mlp,
    Residual,
    evaluated,
    everywhere,
    exported,
    problem,
    randn,
    run,
    session,
    sites,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch_geometric.nn import GATConv, GCNConv, SAGEConv

from mpsearch.core.assignment import Assignment
from mpsearch.core.errors import BadInput
from mpsearch.core.format import Format
from mpsearch.problem.model import ModelProblem


class Convolutions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.line = nn.Conv1d(4, 6, 3, padding=1, dilation=1)
        self.same = nn.Conv1d(6, 6, 4, padding="same", groups=3)
        self.plane = nn.Conv2d(1, 4, (3, 2), stride=(1, 2), padding=(1, 0), dilation=(2, 1))
        self.depthwise = nn.Conv2d(4, 8, 3, padding=1, groups=4, bias=False)
        self.up = nn.ConvTranspose2d(8, 2, 3, stride=2, padding=1, output_padding=1)
        self.space = nn.Conv3d(2, 3, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.same(self.line(x)).unsqueeze(1)
        x = self.up(self.depthwise(self.plane(x)))
        return self.space(torch.stack([x, -x], 2)).flatten(1)


class Activations(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.norm = nn.Linear(6, 6), nn.BatchNorm1d(5)
        nn.init.normal_(self.norm.running_mean)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.layer(x))
        y = F.gelu(y) + F.gelu(y, approximate="tanh") + F.silu(y) + F.elu(y) + F.leaky_relu(y, 0.2) + F.hardswish(y)
        y = F.relu6(y) + torch.sigmoid(y) * torch.tanh(y) + torch.rsqrt(y.square() + 1) + torch.erf(y)
        y = torch.where(y > 0.5, y, y.clamp(-1, 1)) / (1 + y.abs()) - 0.5 * torch.exp(-y.abs()) ** 2
        return F.softmax(y, -1).masked_fill(y < 0, 0.0) + F.layer_norm(y, (6,))


class Shapes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(6, 8)

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x)  # [2, 5, 8]
        a, b = y.chunk(2, -1)
        c = torch.cat([a.permute(0, 2, 1), b.transpose(1, 2)], 1)[:, ::2, 1:4]  # [2, 4, 3]
        d = F.pad(c, (1, 0, 2, 1)).repeat(1, 2, 1).repeat_interleave(2, -1)
        e = torch.stack([d, 2 * d], 1).flatten(1, 2).unflatten(1, (2, -1))
        parts = y.split([3, 5], -1)
        f = parts[1].sum(1, keepdim=True).expand(2, 3, 5).reshape(2, -1).unsqueeze(0).squeeze(0)
        g = y.select(1, 2).amax(-1, keepdim=True) + y.unbind(1)[0].amin(-1, keepdim=True)
        return torch.cat([e.flatten(1), f, g, y.mean((1, 2))[:, None]], 1)


class Pools(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer(x)
        found = [F.max_pool2d(x, 2), F.max_pool2d(x, 3, 1, 1), F.avg_pool2d(x, 2, padding=1), F.avg_pool2d(x, 3, 2)]
        found += [F.adaptive_avg_pool2d(x, 1), F.adaptive_avg_pool2d(x, 4), F.avg_pool2d(x, 3, 2, ceil_mode=True)]
        return torch.cat([f.flatten(1) for f in found], 1)


class Words(nn.Module):
    """Token and position embeddings, causal and masked attention, written out and fused."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words, self.places = nn.Embedding(11, 8), nn.Embedding(6, 8)
        self.qkv, self.out = nn.Linear(8, 24, bias=False), nn.Linear(8, 8)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.words(tokens) + self.places(torch.arange(tokens.shape[1]))
        q, k, v = (t.unflatten(-1, (2, 4)).transpose(1, 2) for t in self.qkv(x).chunk(3, -1))
        x = x + self.out(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))
        mask = (tokens > 2)[:, None, None, :]
        x = x + F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)
        scores = (q @ k.transpose(-2, -1) / 2).masked_fill(~mask, -1e9)
        return x + (torch.softmax(scores, -1) @ v).transpose(1, 2).flatten(2)


class Graph(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c = GCNConv(5, 8), GATConv(8, 4, heads=2), SAGEConv(8, 3)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        return self.c(F.elu(self.b(F.relu(self.a(x, edges)), edges)), edges)


EDGES = torch.randint(0, 12, (2, 40), generator=torch.Generator().manual_seed(0))
TOKENS = torch.randint(3, 11, (3, 6), generator=torch.Generator().manual_seed(0)) * (torch.arange(6) > 0)
MODELS = {
    "activations": (Activations, (randn(4, 5, 6),)),
    "attention": (Attention, (randn(3, 7, 16),)),
    "convolutions": (Convolutions, (randn(2, 4, 9),)),
    "graph": (Graph, (randn(12, 5), EDGES)),
    "mlp": (Mlp, (randn(5, 16),)),
    "pools": (Pools, (randn(2, 3, 8, 8),)),
    "residual": (Residual, (randn(4, 3, 8, 8),)),
    "shapes": (Shapes, (randn(2, 5, 6),)),
    "words": (Words, (TOKENS,)),
}


@cache
def made(name: str) -> tuple[nn.Module, tuple[Tensor, ...], ModelProblem]:
    model, batch = MODELS[name]
    module = model().eval()
    return module, batch, problem(module, *batch)


def close(ours: list[np.ndarray], truth: list[np.ndarray], share: float) -> None:
    for a, b in zip(ours, truth, strict=True):
        assert a.shape == b.shape
        assert np.abs(a - b).max() <= share * np.abs(b).max()


@pytest.mark.parametrize("name", MODELS)
def test_in_float_it_gives_what_torch_gives(name: str, tmp_path: Path) -> None:
    module, batch, prepared = made(name)
    found, ran = run(exported(prepared), batch, tmp_path / "o.onnx")
    with torch.no_grad():
        close(found, [module(*batch).numpy()], 1e-5)
    assert not ran.integer


@pytest.mark.parametrize("name", MODELS)
def test_quantized_it_gives_what_the_evaluator_gives(name: str, tmp_path: Path) -> None:
    _, batch, prepared = made(name)
    found, _ = run(exported(prepared, everywhere(prepared)), batch, tmp_path / "o.onnx")
    (ours,), (truth,) = found, evaluated(prepared, everywhere(prepared))
    # a sum of integers rounds otherwise than one of floats, so that a value may end one step aside; and the next too
    assert np.abs(ours - truth).mean() < 0.01 * np.abs(truth).max()
    assert np.corrcoef(ours.ravel(), truth.ravel())[0, 1] > 0.998


@pytest.mark.parametrize("name", ["residual", "attention", "words", "graph"])
@pytest.mark.parametrize("text", ["int2", "int4", "int8", "int4:g4", "int8:affine", "bf16"])
def test_weights_alone_are_the_numbers_of_the_evaluator_in_any_format(name: str, text: str, tmp_path: Path) -> None:
    _, batch, prepared = made(name)
    weights = [s.name for s in prepared.runner.interpreter.program.sites if s.role.is_parameter]
    assignment = Assignment(dict.fromkeys(weights, Format.parse(text)))
    found, ran = run(exported(prepared, assignment), batch, tmp_path / "o.onnx")
    close(found, evaluated(prepared, assignment), 1e-5)
    assert not ran.integer


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
@pytest.mark.parametrize("name", ["residual", "attention", "graph", "mlp"])
def test_what_was_asked_is_what_runs(name: str, data: st.DataObject, tmp_path: Path) -> None:
    prepared = made(name)[2]
    chosen = data.draw(st.sets(st.sampled_from(sites(prepared))))
    if data.draw(st.booleans()):  # mostly narrow: only then much runs on integers
        chosen = set(sites(prepared)) - chosen
    symmetric = data.draw(st.booleans())  # where a ReLU is no clipping of codes
    roles = {site.name: site.role for site in prepared.runner.interpreter.program.sites}
    value = Format("int", 8, ("sym",)) if symmetric else INT8
    model = exported(prepared, Assignment({s: INT8 if roles[s].is_parameter else value for s in chosen}))
    assert session(model, tmp_path / "o.onnx")[1].integer == model.integer


def test_all_layers_of_a_quantized_network_run_on_integers(tmp_path: Path) -> None:
    prepared = made("residual")[2]
    model = exported(prepared, everywhere(prepared))
    ran = session(model, tmp_path / "o.onnx")[1]
    assert ran.count["QLinearConv"] == 5
    assert ran.count["QLinearAdd"] == 1  # the second sum has no site: the mean reads it
    assert ran.count["QGemm"] == 1
    assert len(ran.integer) == 7
    assert ran.count["Conv"] == 0


def test_a_float_convolution_between_quantized_values_stays_one(tmp_path: Path) -> None:
    """Left to itself, onnxruntime quantizes it."""
    prepared = problem(Chain(), randn(2, 3, 8, 8))
    model = exported(prepared, Assignment({s: INT8 for s in sites(prepared) if s != "b.weight"}))
    asked, left_alone = (session(model, tmp_path / "o.onnx", off)[1] for off in (("WeightBiasQuantization",), ()))
    assert (asked.count["QLinearConv"], asked.count["Conv"]) == (2, 2)  # the last has a float result
    assert left_alone.count["QLinearConv"] == 3
    assert asked.integer == model.integer == {"conv2d", "conv2d_2"}


def test_weights_of_integer_layers_are_stored_as_codes_per_channel() -> None:
    prepared = made("residual")[2]
    stored = {t.name: t for t in exported(prepared, everywhere(prepared)).proto.graph.initializer}
    assert list(stored["one.weight.codes"].dims) == [8, 8, 3, 3]
    assert list(stored["one.weight.scale"].dims) == [8]
    assert len(stored["one.weight.codes"].raw_data) == 8 * 8 * 9
    assert "one.weight" not in stored


class Odd(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cumsum(self.inner(x), 0)


def test_an_operator_without_a_form_is_named() -> None:
    with pytest.raises(BadInput, match=r"the model calls cumsum\.default, which has no form in ONNX"):
        exported(problem(Odd(), randn(3, 4)))


def test_a_format_of_values_without_a_form_is_named() -> None:
    prepared = made("residual")[2]
    with pytest.raises(BadInput, match=r"site 'one:in': values in int4 have no form .* use int8, or leave it fp32"):
        exported(prepared, Assignment({"one:in": Format("int", 4)}))


@pytest.mark.parametrize("package", ["onnx"])
def test_a_missing_package_is_answered_with_the_command(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(BadInput, match=r"pip install 'mpsearch\[onnx\]'"):
        exported(made("residual")[2])
