"""Networks, data and options of the zoo against independent computations."""

import struct

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from mpsearch.core.errors import BadInput
from mpsearch.zoo import digits
from mpsearch.zoo.llama import Llama, Shape, rotated
from mpsearch.zoo.options import in_parts, one_of, whole
from mpsearch.zoo.resnet import ResNet10, ResNet20
from mpsearch.zoo.stories import START, Tokenizer
from mpsearch.zoo.train import jittered
from mpsearch.zoo.vit import Attention

TOKENS = [b"<unk>", b"<s>", b"</s>", *(bytes([i]) for i in range(256)), b"ab", b"bc", b"abc", b" a", b"aa"]
SCORES = [0.0] * 259 + [-1.0, -2.0, -0.5, -1.0, -3.0]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    path = tmp_path_factory.mktemp("tok") / "tok.bin"
    parts = (struct.pack("<fi", s, len(t)) + t for s, t in zip(SCORES, TOKENS, strict=True))
    path.write_bytes(struct.pack("<i", 8) + b"".join(parts))
    return Tokenizer(path)


def merged_one_by_one(text):
    """The definition, slowly: merge the best pair, the leftmost of equal ones, until there is none."""
    ids = [TOKENS.index(b" "), *(TOKENS.index(c.encode()) for c in text)]
    while True:
        pairs = [(at, TOKENS[ids[at]] + TOKENS[ids[at + 1]]) for at in range(len(ids) - 1)]
        known = [(-SCORES[TOKENS.index(pair)], at, TOKENS.index(pair)) for at, pair in pairs if pair in TOKENS]
        if not known:
            return [START, *ids]
        _, at, new = min(known)
        ids[at : at + 2] = [new]


@given(st.text(alphabet="abc ", max_size=40))
def test_tokenizer_merges_as_defined(tokenizer, text):
    ids = tokenizer.encode(text)
    assert ids == merged_one_by_one(text)
    assert b"".join(tokenizer.tokens[i] for i in ids[1:]) == b" " + text.encode()


def test_unknown_characters_become_bytes(tokenizer):
    assert tokenizer.encode("é")[-2:] == [byte + 3 for byte in "é".encode()]


def test_rotation_is_a_product_of_complex_numbers():
    x, angle = torch.randn(2, 5, 3, 8), torch.randn(5, 4)
    turned = torch.view_as_complex(x.unflatten(-1, (4, 2))) * torch.polar(torch.ones(5, 1, 4), angle[:, None])
    assert torch.allclose(rotated(x, angle.cos(), angle.sin()), torch.view_as_real(turned).flatten(-2), atol=1e-6)


def test_llama_is_causal_and_ties_its_head():
    model = Llama(Shape(width=16, hidden=24, layers=2, heads=4, kv_heads=2, vocabulary=11, length=9)).eval()
    tokens = torch.randint(0, 11, (2, 9))
    changed = tokens.clone()
    changed[:, 6:] = (changed[:, 6:] + 1) % 11
    assert torch.allclose(model(tokens)[:, :6], model(changed)[:, :6], atol=1e-6)
    assert not torch.allclose(model(tokens)[:, 6:], model(changed)[:, 6:])
    assert model.head.weight is model.embedding.weight


def test_attention_equals_torchs_own():
    ours, theirs = Attention(16, 4), nn.MultiheadAttention(16, 4, batch_first=True)
    with torch.no_grad():
        layers = (ours.q_proj, ours.k_proj, ours.v_proj)
        theirs.in_proj_weight.copy_(torch.cat([layer.weight for layer in layers]))
        theirs.in_proj_bias.copy_(torch.cat([layer.bias for layer in layers]))
        theirs.out_proj.load_state_dict(ours.out_proj.state_dict())
    x = torch.randn(3, 5, 16)
    assert torch.allclose(ours(x), theirs(x, x, x)[0], atol=1e-6)


def test_residual_networks_have_the_published_sizes():
    weights = [p for p in ResNet10().parameters() if p.ndim > 1]
    assert sum(p.numel() for p in weights) == 77_072
    assert sum(p.numel() for p in ResNet20().parameters()) == 269_722


def test_no_jitter_is_the_identity():
    images = digits.images().inputs[:8]
    assert torch.allclose(jittered(images, 0.0), images, atol=1e-5)
    assert not torch.allclose(jittered(images, 0.1), images, atol=1e-2)


def test_digit_splits_are_parts_of_the_whole():
    rows = digits.images().rows
    parts = torch.cat([rows["train"], rows["validation"], rows["test"]])
    assert torch.equal(parts.sort().values, torch.arange(1797))
    assert torch.isin(rows["calibration"], rows["train"]).all()


def test_the_graph_of_digits_is_the_same_whatever_the_threads() -> None:
    before, found = torch.get_num_threads(), []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        found.append(digits.knn_graph.__wrapped__().edge_index)
    torch.set_num_threads(before)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_neighbour_graph_is_symmetric_without_loops_and_joins_the_nearest():
    data = digits.knn_graph()
    source, target = data.edge_index
    edges = set(zip(source.tolist(), target.tolist(), strict=True))
    assert edges == {(b, a) for a, b in edges}
    assert len(edges) == len(source)
    assert (source != target).all()
    assert (target.diff() >= 0).all()
    distance = torch.cdist(data.x[:50], data.x)
    distance[torch.arange(50), torch.arange(50)] = torch.inf
    for node, nearest in enumerate(distance.argmin(1).tolist()):
        assert (nearest, node) in edges
    parts = torch.cat([data.rows[part] for part in ("train", "validation", "test")])
    assert torch.equal(parts.sort().values, torch.arange(1797))
    assert data.labels[data.rows["train"]].bincount().tolist() == [20] * 10


def test_pixel_graphs_batch_without_edges_between_graphs():
    data = digits.pixel_graphs()
    x, edge_index, batch = data.batch(torch.tensor([4, 9, 2]))
    assert x.shape == (96, 3)
    assert edge_index.shape == (2, 3 * 192)
    assert torch.equal(batch[edge_index[0]], batch[edge_index[1]])
    assert torch.equal(edge_index[1].bincount(), torch.full((96,), 6))
    assert (edge_index[0] != edge_index[1]).all()
    dropped = digits.images().inputs[4].sum() + 64 - (x[:32, 0] + 1).sum()  # brightness that the graph leaves out
    assert dropped <= 32 * (x[:32, 0].min() + 1)


@given(st.integers(2, 400), st.integers(2, 50))
def test_batches_hold_every_row_once_and_none_is_single(n, size):
    parts = in_parts(n, size)
    assert torch.equal(torch.cat(parts), torch.arange(n))
    assert min(map(len, parts)) >= 2
    assert max(map(len, parts)) <= size + 1


@given(st.integers(2, 400), st.integers(2, 400))
def test_fewer_rows_are_evenly_spaced(n, most):
    rows = torch.cat(in_parts(n, 50, most))
    assert len(rows) == min(n, most)
    assert rows[0] == 0
    assert rows.diff().max() - rows.diff().min() <= 1
    assert n - rows[-1] <= rows.diff().max() + 1


@pytest.mark.parametrize("value", ["cn", 3, None, ["cnn"]])
def test_unknown_names_are_bad_input(value):
    with pytest.raises(BadInput, match=r"option model: .* Allowed: cnn, vit"):
        one_of("model", value, ["vit", "cnn"])


def test_the_nearest_name_is_offered():
    with pytest.raises(BadInput, match="Did you mean 'transformer'"):
        one_of("model", "transfromer", ["transformer", "mlp"])


@pytest.mark.parametrize("value", [1, 0, 11, 2.0, True, "3", None])
def test_what_is_no_whole_number_in_range_is_bad_input(value):
    with pytest.raises(BadInput, match="from 2 to 10"):
        whole("batch_size", value, least=2, most=10)


def test_softmax_scores_of_attention_do_not_depend_on_the_batch():
    layer, x = Attention(16, 4), torch.randn(4, 5, 16)
    assert torch.allclose(layer(x)[:2], layer(x[:2]), atol=1e-6)
    assert F.mse_loss(layer(x), layer(x.flip(0))) > 0
