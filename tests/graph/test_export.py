"""One export of the model: what stays whole, what is made functional, and what the outputs equal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from rigs import calls, lower, rig, same
from tiny_models import Encoder, LanguageModel, OneConv, ResidualNet, SelfAttention, Smooth, Transformer, graph, randn
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch_geometric import nn as pyg

from mpsearch.graph.export import Example, ExportError, export
from mpsearch.graph.measure import measure
from mpsearch.graph.ops import aten

X, EDGES = graph()
TOKENS = torch.randint(0, 11, (3, 5), generator=torch.Generator().manual_seed(0))


def targets(model: nn.Module, *inputs: Any) -> set[Any]:
    return {n.target for n in lower(model, inputs).graph.nodes if n.op == "call_function"}


@pytest.mark.parametrize(
    ("model", "inputs", "whole"),
    [
        (ResidualNet(), (randn(2, 3, 6, 6),), {aten.conv2d.default, aten.linear.default}),
        (Transformer(), (randn(2, 5, 8),), {aten.scaled_dot_product_attention.default, aten.layer_norm.default}),
        (Encoder(), (randn(2, 5, 8),), {aten.scaled_dot_product_attention.default, aten.linear.default}),
        (LanguageModel(), (TOKENS,), {aten.lstm.input, aten.embedding.default, aten.linear.default}),
        (OneConv(pyg.GCNConv(8, 8)), (X, EDGES), {aten.linear.default, aten.index_select.default}),
    ],
    ids=["cnn", "transformer", "encoder", "lstm", "gcn"],
)
def test_decompositions_keep_layers_whole_and_make_in_place_operators_functional(
    model: nn.Module, inputs: Any, whole: set[Any]
) -> None:
    found = targets(model, *inputs)
    assert whole <= found
    in_place = [t for t in found if getattr(t, "_opname", "").rstrip(".").endswith("_")]
    assert not in_place
    assert not any(getattr(t, "_schema", None) and t._schema.is_mutable for t in found)


def test_training_graph_and_evaluation_graph_agree() -> None:
    """One export; its training graph keeps `relu_` and `add_`, the evaluation graph has neither."""
    model, x = ResidualNet(), randn(4, 3, 6, 6)
    program = torch.export.export(model, (x,), strict=False)
    training = program.module()
    with pytest.raises(NotImplementedError):
        training.train()
    in_place = {n.target for n in training.graph.nodes} & {aten.relu_.default, aten.add_.Tensor}
    assert in_place
    lowered = export(model, [Example((x,))])
    torch.testing.assert_close(measure(lowered, [x])[0], training(x), rtol=0, atol=0)
    training(x).sum().backward()
    reached = {name for name, p in training.named_parameters() if p.grad is not None and bool(p.grad.any())}
    assert lowered.parameters <= reached, "gradients reach every parameter that the evaluation graph reads"


def test_evaluation_mode_is_what_is_exported() -> None:
    """Dropout does nothing, BatchNorm uses its running statistics, whatever mode the model came in."""
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))
    model.train()
    x = randn(8, 4)
    found = lower(model, (x,))
    assert not {n.target for n in found.graph.nodes} & {aten.dropout.default, aten.batch_norm.default}
    with torch.no_grad():
        torch.testing.assert_close(measure(found, [x])[0], model.eval()(x), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("layer", [Encoder(), SelfAttention()], ids=["encoder", "multi-head"])
def test_the_fast_path_that_hides_layers_is_off(layer: nn.Module) -> None:
    torch.backends.mha.set_fastpath_enabled(True)
    with torch.no_grad():  # the fast path is taken where no gradient is needed
        found = targets(layer.eval().requires_grad_(False), randn(2, 5, 8))
    assert not torch.backends.mha.get_fastpath_enabled()
    assert aten.linear.default in found
    assert not {t for t in found if "_transformer_encoder_layer_fwd" in str(t) or "_native_multi_head" in str(t)}


def test_a_value_may_lie_in_memory_otherwise_than_traced() -> None:
    """Attention written out gives other strides than the fused node; what reads it must not mind."""
    found = rig(Encoder, (randn(3, 5, 8),))
    assert "layer.self_attn:probs" in found.sites
    assert not {"view", "_unsafe_view"} & {c.partition(".")[0] for c in calls(found.program)}


@dataclass
class Named:
    """An output such as transformers' models return."""

    logits: Tensor
    hidden: list[Tensor]


pytree.register_dataclass(Named, serialized_type_name="tests.Named")


class Structured(nn.Module):
    """Keyword inputs, nested inputs, and an output of a class of its own or a dict."""

    def __init__(self, as_dict: bool) -> None:
        super().__init__()
        self.lin, self.as_dict = nn.Linear(4, 4), as_dict

    def forward(self, pair: tuple[Tensor, Tensor], *, scale: Tensor, named: dict[str, Tensor]) -> Any:
        y = self.lin(pair[0]) + pair[1] * scale + named["shift"]
        return {"logits": y, "hidden": [y.relu(), y.sum()]} if self.as_dict else Named(y, [y.relu()])


@pytest.mark.parametrize("as_dict", [True, False], ids=["dict", "dataclass"])
def test_keywords_nested_inputs_and_structured_outputs(as_dict: bool) -> None:
    model = Structured(as_dict).eval()
    pair, shift = (randn(3, 4), randn(3, 4, seed=1)), randn(3, 4, seed=2)
    example = Example((pair,), {"scale": randn(4), "named": {"shift": shift}})
    lowered = export(model, [example])
    output = pytree.tree_unflatten(list(measure(lowered, example.leaves())), lowered.out_spec)
    with torch.no_grad():
        expected = model(*example.args, **example.kwargs)
    assert type(output) is type(expected)
    assert same(pytree.tree_leaves(output), pytree.tree_leaves(expected))


@pytest.mark.parametrize("sizes", [(4, 3), (2, 5, 2)], ids=str)
def test_batches_of_other_sizes_replay_exactly(sizes: tuple[int, ...]) -> None:
    model = Transformer().eval()
    batches = [(randn(n, 5, 8, seed=n),) for n in sizes]
    lowered = lower(model, *batches)
    assert lowered.padded is None
    with torch.no_grad():
        for (x,) in batches:
            torch.testing.assert_close(measure(lowered, [x])[0], model(x), rtol=1e-5, atol=1e-6)


def test_graphs_of_other_sizes_replay_exactly() -> None:
    model = OneConv(pyg.GATConv(8, 4, heads=2)).eval()
    graphs = [graph(12, 40), graph(9, 21, seed=3), graph(15, 50, seed=5)]
    lowered = lower(model, *graphs)
    with torch.no_grad():
        for inputs in graphs:
            assert same(list(measure(lowered, list(inputs))), [model(*inputs)])


class FixesItsBatch(nn.Module):
    """Branches on the size of the batch, which the export therefore fixes."""

    def __init__(self) -> None:
        super().__init__()
        self.lin = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.lin(x) if x.shape[0] == 5 else self.lin(x).tanh()


def test_a_batch_size_that_the_export_fixes_is_padded_to() -> None:
    lowered = export(FixesItsBatch().eval(), [Example((randn(5, 4),)), Example((randn(3, 4),))])
    assert lowered.padded == 5


def test_a_sequence_length_that_the_export_fixes_is_refused() -> None:
    model = LanguageModel().eval()
    with pytest.raises(ExportError, match=r"LSTM fixes its sequence length.*pad all batches to one length"):
        export(model, [Example((TOKENS,)), Example((TOKENS[:, :4],))])
    assert export(model, [Example((TOKENS,)), Example((TOKENS[:2],))]).padded in (None, 3)


def test_batches_of_other_structure_are_refused() -> None:
    with pytest.raises(ExportError, match="different numbers of inputs: 2 and 1"):
        export(nn.Linear(4, 4), [Example((randn(3, 4),)), Example((randn(2, 4), randn(2, 4)))])


class Pooled(nn.Module):
    """A graph-level readout, with or without the number of graphs."""

    def __init__(self, graphs: int | None) -> None:
        super().__init__()
        self.graphs, self.lin = graphs, nn.Linear(8, 3)

    def forward(self, x: Tensor, batch: Tensor) -> Tensor:
        return self.lin(pyg.global_mean_pool(x, batch, self.graphs))


@pytest.mark.parametrize(
    ("model", "inputs", "named"),
    [
        (OneConv(pyg.RGCNConv(8, 8, 3)), (X, EDGES, EDGES[0] % 3), r"module 'conv' \(RGCNConv\)"),
        (OneConv(pyg.TopKPooling(8)), (X, EDGES), r"module 'conv.select' \(SelectTopK\)"),
        (Pooled(None), (X, torch.arange(12) // 4), "Pooled"),
    ],
    ids=["RGCN", "TopK", "pooling without size"],
)
def test_what_cannot_be_exported_is_named(model: nn.Module, inputs: Any, named: str) -> None:
    with pytest.raises(ExportError, match=named + r" cannot be exported: its computation depends on values of tensors"):
        export(model, [Example(inputs)])


def test_any_other_failure_names_module_and_reason() -> None:
    class Refuses(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise OSError("no such\n  codebook")

    with pytest.raises(ExportError, match=r"module '1' \(Refuses\) cannot be exported: no such codebook\."):
        export(nn.Sequential(nn.Linear(2, 2), Refuses()), [Example((randn(2, 2),))])


def test_tied_tensors_appear_once() -> None:
    lowered = lower(LanguageModel(), (TOKENS,))
    assert "embed.weight" in lowered.tensors
    assert "head.weight" not in lowered.tensors


def test_shapes_are_read_from_the_earliest_value() -> None:
    """A `new_zeros(x, ...)` reads nothing of x: what is made with it depends on no site."""
    found = rig(OneConv(Smooth()), (X, EDGES))
    zeros = [s for s in found.program.steps if s.call is aten.new_zeros.default]
    assert zeros
    assert not any(step.upstream for step in zeros)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("model", [nn.Sequential(nn.Linear(8, 8), nn.ReLU()), LanguageModel()], ids=["mlp", "lstm"])
def test_what_torch_warns_of_is_not_for_the_user(model: nn.Module) -> None:
    inputs = TOKENS if isinstance(model, LanguageModel) else randn(2, 8)
    assert export(model, [Example((inputs,))]).graph.nodes
