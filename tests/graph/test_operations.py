"""The operations of layers against formulas written by hand: multiply-accumulates, sizes, operands, what is moved."""

from __future__ import annotations

from math import prod
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tiny_models import Attention, Encoder, LanguageModel, OneConv, graph, randn
from torch import Tensor, nn
from torch_geometric import nn as pyg
from workloads import Call, listed, moved, only, sites

from mpsearch.cost.workload import Gemm, Held, Kind


def test_four_models_counted_by_hand() -> None:
    """3 -> 16 channels on 16 x 16, depthwise, 16 -> 32 and a head; an encoder; an LSTM; the dense part of a GCN."""
    cnn = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1, groups=16),
        nn.Conv2d(16, 32, 1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 10),
    )
    assert listed(cnn, randn(1, 3, 16, 16)).macs == 256 * (16 * 27 + 16 * 9 + 32 * 16) + 320 == 278_848
    encoder = nn.TransformerEncoderLayer(64, 4, 128, batch_first=True)
    assert listed(encoder, randn(2, 10, 64)).macs == 20 * (4 * 64**2 + 2 * 64 * 128) + 2 * 2 * 4 * 100 * 16 == 680_960
    lstm = nn.LSTM(32, 48, 2, batch_first=True)
    assert listed(lstm, randn(2, 10, 32)).macs == 2 * 10 * 4 * 48 * ((32 + 48) + (48 + 48)) == 675_840

    class Gcn(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1, self.conv2 = pyg.GCNConv(128, 16), pyg.GCNConv(16, 7)

        def forward(self, x: Tensor, edges: Tensor) -> Tensor:
            return self.conv2(F.relu(self.conv1(x, edges)), edges)

    found = listed(Gcn(), *graph(300, 900, 128))
    assert sum(o.macs for o in only(found, Kind.LINEAR)) == 300 * (128 * 16 + 16 * 7) == 648_000


@pytest.mark.parametrize(
    ("layer", "inputs", "kind", "gemm", "macs"),
    [
        (
            nn.Conv1d(4, 6, 5, stride=2, dilation=2),
            (2, 4, 21),
            Kind.CONV,
            Gemm(2 * 7, 6, 20, 1, 5, 2),
            2 * 7 * 6 * 4 * 5,
        ),
        (
            nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=1, groups=2),
            (2, 4, 7, 7),
            Kind.CONV,
            Gemm(2 * 4 * 8, 3, 12, 2, 6, 2),
            2 * 6 * 4 * 8 * 2 * 6,
        ),
        (
            nn.Conv2d(6, 12, 3, padding="same", groups=6),
            (1, 6, 5, 5),
            Kind.CONV,
            Gemm(25, 2, 9, 6, 9),
            12 * 25 * 9,
        ),
        (nn.Conv3d(2, 4, 3), (1, 2, 5, 5, 5), Kind.CONV, Gemm(27, 4, 54, 1, 27), 4 * 27 * 2 * 27),
        (
            nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2),
            (2, 4, 5, 5),
            Kind.CONV_TRANSPOSED,
            Gemm(50, 27, 2, 2),
            2 * 4 * 25 * 3 * 9,
        ),
        (nn.Linear(8, 5), (3, 7, 8), Kind.LINEAR, Gemm(21, 5, 8), 21 * 8 * 5),
    ],
    ids=["conv1d", "grouped", "depthwise", "conv3d", "transposed", "linear"],
)
def test_weighted_layers(layer: nn.Module, inputs: tuple[int, ...], kind: Kind, gemm: Gemm, macs: int) -> None:
    found = listed(OneConv(layer), randn(*inputs), samples=inputs[0])
    (operation,) = found.operations
    assert (operation.name, operation.kind, operation.gemm, operation.macs) == ("conv", kind, gemm, macs)
    assert operation.is_first
    assert operation.gemm is not None
    assert operation.gemm.is_depthwise == (getattr(layer, "groups", 1) == 6)
    assert sites(found, operation) == ("conv.weight", "conv:in")
    weight, bias = layer.weight, layer.bias
    read, written = moved(found, operation)
    assert read == {"conv:in": prod(inputs), "conv.weight": weight.numel(), "conv.bias": bias.numel()}
    assert list(written.values()) == [layer(randn(*inputs)).numel()]
    assert found.samples == inputs[0]
    stored = next(t for t in found.tensors if t.name == "conv.weight")
    rows = weight.shape[1 if kind is Kind.CONV_TRANSPOSED else 0]
    assert stored == Held("conv.weight", weight.numel(), rows, site="conv.weight", is_parameter=True)


def test_the_sums_of_a_strided_transposed_convolution() -> None:
    found = listed(OneConv(nn.ConvTranspose2d(4, 6, 4, stride=2, padding=1)), randn(1, 4, 8, 8))
    assert found.operations[0].reduction == 4 * 16 / 4


@pytest.mark.parametrize(
    ("model", "inputs", "gemm", "operands"),
    [
        (Call(torch.matmul), [(2, 3, 4), (2, 4, 5)], Gemm(3, 5, 4, 2), ("rhs", "lhs")),
        (Call(torch.matmul, (4, 5)), [(2, 3, 4)], Gemm(6, 5, 4), ("w0", "lhs")),
        (Call(lambda x, w: w @ x, (5, 4)), [(2, 4, 3)], Gemm(6, 5, 4), ("w0", "rhs")),
        (Call(lambda x, w: x @ w.t(), (5, 4)), [(3, 4)], Gemm(3, 5, 4), ("w0", "lhs")),
        (Call(torch.matmul, (4,)), [(2, 3, 4)], Gemm(6, 1, 4), (None, "lhs")),
        (Call(lambda x, w, b: torch.addmm(b, x, w), (4, 5), (5,)), [(3, 4)], Gemm(3, 5, 4), ("w0", "lhs")),
        (
            Call(lambda b, x, y: torch.baddbmm(b, x, y)),
            [(2, 3, 5), (2, 3, 4), (2, 4, 5)],
            Gemm(3, 5, 4, 2),
            ("rhs", "lhs"),
        ),
        (Call(lambda x, w: torch.einsum("bij,jk->bik", x, w), (4, 5)), [(2, 3, 4)], Gemm(6, 5, 4), (None, None)),
        (
            Call(lambda x, y: torch.einsum("...id,...jd->...ij", x, y)),
            [(2, 2, 3, 4), (2, 2, 5, 4)],
            Gemm(3, 5, 4, 4),
            (None, None),
        ),
    ],
    ids=["bmm", "right", "left", "turned", "vector", "addmm", "baddbmm", "einsum", "einsum of heads"],
)
def test_products(
    model: nn.Module, inputs: list[tuple[int, ...]], gemm: Gemm, operands: tuple[str | None, ...]
) -> None:
    tensors = [randn(*shape, seed=i) for i, shape in enumerate(inputs)]
    found = listed(model, *tensors)
    (operation,) = only(found, Kind.MATMUL)
    assert (operation.gemm, operation.macs) == (gemm, prod((gemm.m, gemm.n, gemm.k, gemm.count)))
    assert sites(found, operation) == operands
    assert None not in (operation.weight, operation.value)


def test_an_einsum_of_three_goes_from_left_to_right() -> None:
    model = Call(lambda x, v, w: torch.einsum("bi,ij,jk->bk", x, v, w), (3, 4), (4, 5))
    first, second = listed(model, randn(2, 3)).operations
    assert (first.macs, second.macs) == (2 * 3 * 4, 2 * 4 * 5)
    assert first.write is None
    assert second.value is None


def test_an_einsum_of_one_multiplies_nothing() -> None:
    (operation,) = listed(Call(lambda x: torch.einsum("ij->j", x)), randn(2, 3)).operations
    assert (operation.kind, operation.macs) == (Kind.POOL, 0)


def test_bilinear() -> None:
    found = listed(OneConv(nn.Bilinear(3, 4, 5)), randn(2, 3), randn(2, 4))
    assert found.macs == 2 * 5 * 3 * 4 + 2 * 5 * 4


@pytest.mark.parametrize("written_out", [False, True])
def test_attention_that_is_held(written_out: bool) -> None:
    """B T 4 d^2 + 2 B H T^2 dh; the products read (key, query) and (probabilities, value)."""
    found = listed(OneConv(Attention(8, 2, written_out)), randn(3, 5, 8))
    assert found.macs == 3 * 5 * 4 * 64 + 2 * 3 * 2 * 25 * 4
    first, second = only(found, Kind.MATMUL)
    assert sites(found, first) == ("conv:k", "conv:q")
    assert sites(found, second) == ("conv:probs", "conv:v")
    assert (first.gemm, second.gemm) == (Gemm(5, 5, 4, 6), Gemm(5, 4, 5, 6))
    (softmax,) = only(found, Kind.SOFTMAX)
    assert moved(found, softmax) == ({"conv:scores": 150}, {"conv:probs": 150})


def test_attention_whose_scores_have_no_choice_holds_none() -> None:
    found = listed(OneConv(Attention(8, 2)), randn(3, 5, 8), active=["conv:q"])
    first, second = only(found, Kind.MATMUL)
    assert sites(found, first) == ("conv:k", "conv:q")
    assert first.write is None
    assert second.weight is None
    assert sites(found, second) == (None, "conv:v")
    assert not only(found, Kind.SOFTMAX)
    assert not {t.site for t in found.tensors} & {"conv:scores", "conv:probs"}
    assert found.macs == 3 * 5 * 4 * 64 + 2 * 3 * 2 * 25 * 4


def test_a_mask_is_read_and_a_causal_one_made() -> None:
    def attend(x: Tensor, mask: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(x, x, x, attn_mask=mask)

    for active in (None, []):
        found = listed(Call(attend), randn(2, 3, 5, 4), torch.ones(5, 5, dtype=torch.bool), active=active)
        assert sum(t.elements == 25 for t in found.tensors) == 1
    causal = listed(Call(lambda x: F.scaled_dot_product_attention(x, x, x, is_causal=True)), randn(2, 3, 5, 4))
    assert {t.elements for t in causal.tensors} == {2 * 3 * 5 * 4, 2 * 3 * 25}


def test_shared_heads_are_read_once() -> None:
    def attend(q: Tensor, k: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, k, enable_gqa=True)

    found = listed(Call(attend), randn(2, 6, 5, 4), randn(2, 2, 5, 4, seed=1), active=[])
    first, second = found.operations
    assert first.macs == second.macs == 2 * 6 * 25 * 4
    assert [a.elements for a in second.reads] == [2 * 2 * 5 * 4]


def test_a_packed_projection_writes_query_key_and_value() -> None:
    found = listed(Encoder(), randn(3, 5, 8))
    projection = next(o for o in found.operations if o.name == "layer.self_attn:linear")
    assert moved(found, projection)[1] == {f"layer.self_attn:{part}": 120 for part in "qkv"}
    assert projection.gemm == Gemm(15, 24, 8)


def test_a_multiplication_with_a_number_is_the_tensor_it_scales() -> None:
    """Queries that are scaled before the product still have their own bits there."""
    found = listed(OneConv(nn.MultiheadAttention(8, 2, batch_first=True)), *[randn(3, 5, 8)] * 3)
    assert sites(found, only(found, Kind.MATMUL)[0]) == ("conv:k", "conv:q")


def test_embeddings_look_rows_up_and_tied_weights_are_one_tensor() -> None:
    tokens = torch.zeros(3, 5, dtype=torch.long)
    found = listed(LanguageModel(), tokens)
    look = found.operations[0]
    assert (look.kind, look.name, look.macs) == (Kind.EMBEDDING, "embed", 0)
    assert moved(found, look) == ({"embed.weight": 3 * 5 * 6, "tokens": 15}, {"lstm:in": 90})
    head = found.operations[-1]
    assert head.name == "head"
    assert look.reads[0].tensor == head.reads[head.weight or 0].tensor
    assert [t.name for t in found.tensors if t.is_parameter].count("embed.weight") == 1
    assert next(t for t in found.tensors if t.name == "tokens").float_bits == 64


def test_bags_of_words_look_up_every_word() -> None:
    model = nn.Sequential(nn.EmbeddingBag(7, 3), nn.Linear(3, 2))
    found = listed(model, torch.zeros(2, 4, dtype=torch.long))
    assert [o.kind for o in found.operations] == [Kind.EMBEDDING, Kind.LINEAR]
    assert moved(found, found.operations[0])[0]["0.weight"] == 2 * 4 * 3


@pytest.mark.parametrize(("kind", "gates"), [(nn.LSTM, 4), (nn.GRU, 3), (nn.RNN, 1)])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_recurrent_layers(kind: Any, gates: int, bidirectional: bool) -> None:
    """One operation per matrix; sum over layers of directions * B * T * gates * h * (in + h). No state has a choice."""
    layer = kind(6, 5, 2, batch_first=True, bidirectional=bidirectional)
    found = listed(OneConv(layer), randn(3, 7, 6), active=["conv:in", "conv.weight_ih_l0"])
    both = 2 if bidirectional else 1
    assert found.macs == both * 3 * 7 * gates * 5 * (6 + 5 + both * 5 + 5)
    assert len(found.operations) == 4 * both
    assert all(o.kind is Kind.RECURRENT for o in found.operations)
    first, state = found.operations[:2]
    assert first.name == "conv:weight_ih_l0"
    assert (first.gemm, state.gemm) == (Gemm(21, gates * 5, 6), Gemm(3, gates * 5, 5, 7))
    assert (sites(found, first), sites(found, state)) == (("conv.weight_ih_l0", "conv:in"), ("conv.weight_hh_l0", None))
    inner = next(t for t in found.tensors if t.name == "conv:l0")
    assert (inner.elements, inner.site) == (3 * 7 * both * 5, None)
    written = [a for o in found.operations for a in o.writes if found.tensors[a.tensor] == inner]
    assert sum(a.elements for a in written) == inner.elements
    assert found.operations[0].is_first
    assert not found.operations[2 * both].is_first


def test_states_that_are_given_are_read_once() -> None:
    found = listed(nn.GRU(6, 5, 2), randn(7, 3, 6), randn(2, 3, 5))
    reads = [a.elements for o in found.operations for a in o.reads if found.tensors[a.tensor].name == "hx"]
    assert reads == [2 * 3 * 5]


def test_a_projected_lstm() -> None:
    found = listed(OneConv(nn.LSTM(6, 5, proj_size=3)), randn(7, 2, 6))
    assert found.macs == 2 * 7 * (20 * 6 + 20 * 3 + 3 * 5)
    assert [o.name for o in found.operations] == [f"conv:weight_{part}_l0" for part in ("ih", "hh", "hr")]


@pytest.mark.parametrize(("cell", "gates"), [(nn.LSTMCell, 4), (nn.GRUCell, 3), (nn.RNNCell, 1)])
def test_recurrent_cells(cell: Any, gates: int) -> None:
    assert listed(OneConv(cell(6, 5)), randn(3, 6)).macs == 3 * gates * 5 * (6 + 5)


def test_what_multiplies_no_sums_is_no_product() -> None:
    def forward(x: Tensor) -> Tensor:
        y = F.layer_norm(x * x.sigmoid(), (6,)) + x.softmax(-1)
        return torch.cat([y, F.max_pool1d(y, 2), x.mean(-1, keepdim=True)], -1)

    found = listed(Call(forward), randn(2, 3, 6))
    assert found.macs == 0
    kinds = [o.kind for o in found.operations]
    assert [kinds.count(k) for k in (Kind.NORM, Kind.SOFTMAX, Kind.POOL, Kind.COPY)] == [1, 1, 2, 3]
    assert kinds.count(Kind.ELEMENTWISE) == 3


def test_activations_and_reshapes_are_no_operations() -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Unflatten(1, (2, 4)), nn.Flatten(), nn.Linear(8, 3))
    found = listed(model, randn(2, 6))
    assert [o.name for o in found.operations] == ["0", "4"]
    assert found.operations[0].write == found.operations[1].reads[0]


def test_an_activation_of_what_another_one_reads_is_one() -> None:
    found = listed(Call(lambda x, w: (lambda y: F.relu(y) + y)(x @ w), (6, 6)), randn(2, 6))
    assert [o.kind for o in found.operations] == [Kind.MATMUL, Kind.ELEMENTWISE, Kind.ELEMENTWISE]


def test_a_pool_that_keeps_the_shape_works_in_place() -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 1), nn.MaxPool2d(3, 1, 1), nn.Conv2d(3, 2, 1))
    conv, pool, _ = listed(model, randn(1, 2, 4, 4)).operations
    assert pool.kind is Kind.POOL
    assert pool.write == pool.reads[0] == conv.write


def test_a_format_of_half_a_tensor_is_not_that_of_all_of_it() -> None:
    """An activation function with a site on a slice makes a tensor of the slice's size."""

    class Halves(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.wide, self.narrow = nn.Linear(6, 8), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            one, other = self.wide(x).chunk(2, -1)
            return self.narrow(F.relu(one)) + other[:, :3]

    found = listed(Halves(), randn(2, 6))
    assert next(t for t in found.tensors if t.site == "narrow:in").elements == 2 * 4


def test_operations_have_names_of_their_own() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lin = nn.Linear(6, 6)

        def forward(self, x: Tensor) -> Tensor:
            return self.lin(self.lin(x)) + x + x.sum()

    assert [o.name for o in listed(Twice(), randn(2, 6)).operations] == [
        "lin:linear",
        "lin:linear_2",
        "add",
        "sum",
        "add_2",
    ]
