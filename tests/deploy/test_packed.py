"""A packed file takes what the memory measure says, to the byte, and gives what the evaluator gives, to the bit."""

from __future__ import annotations

from collections import OrderedDict, namedtuple
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch_geometric import nn as pyg

from mpsearch.core.assignment import Assignment
from mpsearch.core.errors import BadInput
from mpsearch.core.format import Format
from mpsearch.core.site import Role
from mpsearch.deploy import output_tree
from mpsearch.deploy.packed import load_packed, write_packed
from mpsearch.deploy.packed_module import PackedModule
from mpsearch.graph.frozen import by_name
from mpsearch.problem.build import assemble
from mpsearch.problem.finetune import restored
from mpsearch.problem.frozen import FrozenModel, frozen, frozen_trained
from mpsearch.problem.model import ModelProblem
from mpsearch.problem.objective import Batch, Objective, Scores, Split
from mpsearch.spec import registry
from mpsearch.spec.schema import Recipe, Spec

Data = Mapping[str, Sequence[Batch]]


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class Given(Objective):
    """Outputs by their sum; trains on fixed rows."""

    def __init__(self, model: nn.Module, data: Data) -> None:
        self._model, self._data = model, data

    def model(self) -> nn.Module:
        return self._model

    def batches(self, split: Split) -> Iterable[Batch]:
        return self._data[split]

    def metric(self, outputs: Sequence[Any], targets: Sequence[Any]) -> Scores:
        return {"score": float(torch.cat([o.flatten(1) for o in outputs]).double().sum())}

    def loss(self, output: Tensor, batch: Batch) -> Tensor:
        return F.cross_entropy(output, batch.target)

    def training_batches(self, epoch: int) -> Iterable[Batch]:
        x = randn(8, 2, 6, 6, seed=epoch)
        return [Batch((x,), x.flatten(1)[:, :3].argmax(1), 8)]


def problem_of(model: nn.Module, make: Any, sites: Sequence[Mapping[str, Any]], **named: Tensor) -> ModelProblem:
    """A problem of two batches of 4 and 3 samples a split; `make(n, seed)` gives the inputs of one."""
    splits = ("calibration", "validation", "test")
    data = {
        s: [Batch(make(n, 10 * i + n), torch.zeros(n).long(), n, named) for n in (4, 3)] for i, s in enumerate(splits)
    }
    goals = [{"name": "score", "maximise": True}, {"name": "memory_bytes"}]
    fields = {"name": "t", "objective": {"use": "given"}, "sites": list(sites), "goals": goals}
    model = model.eval()
    return assemble(Spec.model_validate(fields), Given(model, data), model, data, torch.device("cpu"))


def offered(role: Role) -> list[str]:
    """A format of each scheme that has one for `role`."""
    found = []
    for scheme in registry.names("quantizers"):
        quantizer = registry.load("quantizers", scheme)()
        for text in (*quantizer.menu, f"{scheme}16"):
            try:
                quantizer.canonical(Format.parse(text), role)
            except BadInput:
                continue
            found.append(text)
            break
    return found


class Net(nn.Module):
    """A convolution without a bias, one by channel, a ReLU6, a residual, and a table that is read twice."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv2d(2, 6, 3, bias=False), nn.Conv2d(6, 6, 3, padding=1, groups=6)
        self.head, self.again = nn.Linear(6, 6), nn.Linear(6, 6, bias=False)
        self.again.weight = self.head.weight

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu6(self.first(x))
        x = F.relu(x + self.second(x)).mean((2, 3))
        return self.again(F.relu(self.head(x)))


@pytest.fixture(scope="module")
def net() -> ModelProblem:
    sites = [
        {"match": {"role": "weight"}, "formats": [*offered(Role.WEIGHT), "fp32"]},
        {"match": {"role": "activation"}, "formats": [*offered(Role.ACTIVATION), "int4:affine:channel", "fp32"]},
    ]
    return problem_of(Net(), lambda n, seed: (randn(n, 2, 6, 6, seed=seed),), sites)


def bits(leaf: Any) -> Any:
    return leaf.contiguous().reshape(-1).view(torch.uint8).tolist() if isinstance(leaf, Tensor) else leaf


def packed(model: FrozenModel, memory_bytes: float | None) -> PackedModule:
    with TemporaryDirectory() as folder:
        sizes = write_packed(Path(folder), model, {})
        file_bytes = sum(path.stat().st_size for path in Path(folder).iterdir())
        module = load_packed(folder)
    assert sizes.tensor_bytes == module.sizes.tensor_bytes
    assert memory_bytes in (None, sizes.tensor_bytes)
    assert sizes.tensor_bytes + sizes.header_bytes == file_bytes
    return module


def check(problem: ModelProblem, assignment: Assignment) -> None:
    module = packed(frozen(problem, assignment), problem.costs(assignment)["memory_bytes"])
    for split in ("validation", "test"):
        for number, batch in enumerate(problem.objective.batches(split)):
            want = problem.runner.run(assignment, split, number)
            ours = module(*batch.args, **batch.kwargs)
            assert pytree.tree_structure(ours) == pytree.tree_structure(want)
            for one, other in zip(pytree.tree_leaves(ours), pytree.tree_leaves(want), strict=True):
                assert bits(one) == bits(other)


def test_every_scheme_takes_what_is_counted_and_gives_what_is_scored(net: ModelProblem) -> None:
    for text in {str(option) for choice in net.space.choices for option in choice.options}:
        fmt = Format.parse(text)
        sites = {site: fmt for choice in net.space.choices if fmt in choice.options for site in choice.sites}
        assert sites
        check(net, Assignment(sites))


@settings(max_examples=10)
@given(data=st.data())
def test_and_so_do_mixtures(net: ModelProblem, data: st.DataObject) -> None:
    drawn = {}
    for choice in net.space.choices:
        fmt = data.draw(st.sampled_from(choice.options))
        drawn |= dict.fromkeys(choice.sites, fmt)
    check(net, Assignment(drawn))


class Steps(nn.Module):
    """A GRU with states on the grid and attention written out, in a dict; a batch is padded to its largest."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.rnn, self.out = nn.LSTM(4, 6, batch_first=True), nn.Linear(6, 6)

    def forward(self, x: Tensor, *, scale: Tensor) -> dict[str, Any]:
        hidden = self.rnn(x)[0]
        mixed = F.scaled_dot_product_attention(hidden, self.out(hidden), hidden, is_causal=True)
        return {"last": mixed[:, -1] * scale, "pair": (hidden[:, 0], [mixed.mean(1)])}


class Graph(nn.Module):
    """One layer whose messages have a site, one that becomes a sparse product."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.gat, self.gcn = pyg.GATConv(4, 3, heads=2), pyg.GCNConv(6, 3)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        return self.gcn(F.relu(self.gat(x, edges)), edges)


def graph(n: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return randn(3 * n, 4, seed=seed), torch.randint(0, 3 * n, (2, 9 * n), generator=generator)


@pytest.mark.parametrize("kind", ["sequence", "graph"])
def test_layers_that_are_written_out_or_fused(kind: str) -> None:
    if kind == "sequence":
        sites = [
            {"match": {"role": role}, "formats": ["int4", "fp32"]} for role in ("state", "score", "prob", "weight")
        ]
        problem = problem_of(Steps(), lambda n, seed: (randn(n, 5, 4, seed=seed),), sites, scale=torch.tensor(0.5))
    else:
        sites = [
            {"match": {"role": "feature"}, "bins": {"by": "degree", "edges": [3]}, "formats": ["int2", "fp32"]},
            {"match": {"role": ["weight", "message", "attention"]}, "formats": ["int4", "fp32"]},
        ]
        problem = problem_of(Graph(), graph, sites)
    quantized = {s: c.options[0] for c in problem.space.choices for s in c.sites}
    for assignment in (Assignment(), Assignment(quantized), Assignment(dict(list(quantized.items())[::2]))):
        check(problem, assignment)
    if kind == "graph":
        module = packed(frozen(problem, Assignment()), problem.costs(Assignment())["memory_bytes"])
        x, edges = graph(4, 0)
        with pytest.raises(BadInput, match="names node 12, and there are 11 nodes"):
            module(x[:-1], edges.clamp(max=12).index_fill(1, torch.tensor([0]), 12))


@pytest.mark.parametrize("method", ["lsq", "ste", "alq"])
def test_finetuned_members(net: ModelProblem, method: str) -> None:
    formats = {"first.weight": "int3", "second.weight": "multibit1.5", "head.weight": "int4", "second:in": "int4"}
    assignment = Assignment.parse(formats)
    trained = net.finetune(assignment, Recipe(epochs=1, method=method), seed=0)
    most = net.costs(assignment)["memory_bytes"]
    module = packed(frozen_trained(net, trained), None if method == "alq" else most)
    assert module.sizes.tensor_bytes <= most, "bases that were pruned away are not stored"
    assert not module.tensors["first.bias"].any(), "training knows of none"
    wanted = net.trainer.outputs("test", restored(net.trainer, trained))
    for batch, want in zip(net.objective.batches("test"), wanted, strict=True):
        assert bits(module(*batch.args)) == bits(want)


def test_only_operators_that_change_nothing_have_names() -> None:
    assert by_name("aten.relu.default") is torch.ops.aten.relu.default
    for name in ("os.system", "builtins.eval", "aten.relu_.default", "aten.from_file.default", "aten.nothing", "relu"):
        with pytest.raises(ValueError, match="there is no operator"):
            by_name(name)


def test_outputs_of_many_kinds_come_back() -> None:
    class Output(OrderedDict[str, Any]):
        """As libraries of models have them."""

    pair = namedtuple("pair", ["mean", "rest"])
    pytree._register_namedtuple(pair, serialized_type_name="test.pair")
    pytree.register_pytree_node(
        Output, lambda o: (list(o.values()), list(o)), lambda v, c: Output(zip(c, v, strict=True))
    )
    tree = {"a": [1.0, (2.0,)], "b": pair(3.0, Output(logits=4.0, states=None))}
    flat, spec = pytree.tree_flatten(tree)
    again = output_tree.restored(output_tree.written(spec), flat)
    assert again == {"a": [1.0, (2.0,)], "b": (3.0, {"logits": 4.0, "states": None})}
    assert again["b"].mean == 3.0
    assert again["b"].rest.logits == again["b"].rest[0] == again["b"].rest["logits"] == 4.0
    with pytest.raises(AttributeError, match="logits, states"):
        _ = again["b"].rest.loss
    _, spec = pytree.tree_flatten({1: 2.0})
    with pytest.raises(BadInput, match="dicts with texts as keys"):
        output_tree.written(spec)
    for bad in ({"list": 3}, {"os.system": []}, 5, {"dict": [[1, 0]]}):
        with pytest.raises(ValueError, match="is no output"):
            output_tree.restored(bad, flat)
