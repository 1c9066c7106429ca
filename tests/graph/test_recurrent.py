"""An LSTM is one node; its matrices and states are sites."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from rigs import Rig, calls, rig
from tiny_models import randn
from torch import Tensor, nn

from mpsearch.core.assignment import Assignment
from mpsearch.core.site import Role


class Recurrent(nn.Module):
    """A recurrent layer read at its last step."""

    def __init__(self, kind: Any, **options: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.rnn = kind(4, 5, batch_first=True, **options)
        self.head = nn.Linear(10 if options.get("bidirectional") else 5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x)[0][:, -1])


@cache
def built(kind: Any, **options: Any) -> Rig:
    """Its matrices have a choice, its states none."""
    model, batches = Recurrent(kind, **options), ((randn(3, 6, 4),), (randn(2, 6, 4, seed=1),))
    sites = rig(model, *batches).sites
    return rig(model, *batches, active=[name for name, site in sites.items() if site.role is not Role.STATE])


@pytest.mark.parametrize(("kind", "node"), [(nn.LSTM, "lstm.input"), (nn.GRU, "gru.input"), (nn.RNN, "rnn_tanh.input")])
def test_one_node_with_sites_for_its_matrices_and_states(kind: Any, node: str) -> None:
    found = built(kind)
    assert calls(found.program).count(node) == 1
    gates = {"lstm.input": 20, "gru.input": 15, "rnn_tanh.input": 5}[node]
    sites = {name: (site.role, site.shape) for name, site in found.sites.items()}
    assert sites == {
        "rnn:in": (Role.ACTIVATION, (3, 6, 4)),
        "rnn.weight_ih_l0": (Role.WEIGHT, (gates, 4)),
        "rnn.weight_hh_l0": (Role.WEIGHT, (gates, 5)),
        "rnn:hidden_l0": (Role.STATE, (3, 5)),
        **({"rnn:cell_l0": (Role.STATE, (3, 5))} if kind is nn.LSTM else {}),
        "head:in": (Role.ACTIVATION, (3, 6, 5)),
        "head.weight": (Role.WEIGHT, (3, 5)),
    }


@pytest.mark.parametrize("options", [{"num_layers": 2}, {"bidirectional": True}, {"bias": False}], ids=str)
def test_layers_and_directions_have_their_own_sites(options: dict[str, Any]) -> None:
    found = built(nn.LSTM, **options)
    matrices = [n for n, p in found.model.rnn.named_parameters() if p.ndim == 2]
    assert {f"rnn.{name}" for name in matrices} <= set(found.sites)
    ours, theirs = found.replay
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_a_quantized_matrix_is_what_the_layer_multiplies_with() -> None:
    found = built(nn.LSTM)
    names = [site.name for site in found.program.sites]
    text = {"rnn.weight_hh_l0": "int3"}
    index = names.index("rnn.weight_hh_l0")
    expected = Recurrent(nn.LSTM)
    expected.load_state_dict(found.model.state_dict())
    expected.rnn.weight_hh_l0.data = found.grids.parameter(index, found.formats(text)[index])
    with torch.no_grad():
        torch.testing.assert_close(found.run(text)[0], expected(found.flat[0][0]), rtol=1e-5, atol=1e-6)


def test_batches_may_differ_in_size() -> None:
    found = built(nn.LSTM)
    assert found.lowered.padded is None
    with torch.no_grad():
        torch.testing.assert_close(found.run({}, 1)[0], found.model(found.flat[1][0]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.filterwarnings("error::UserWarning")  # torch warns of each export of an LSTM
def test_average_bits_count_its_matrices(kind: Any) -> None:
    found = built(kind)
    sizes = {name: found.program.tensors[name].numel() for name, s in found.sites.items() if s.role is Role.WEIGHT}
    assert len(sizes) == 3
    texts = dict(zip(sizes, ("int2", "int4", "int8"), strict=True))
    expected = sum(n * bits for n, bits in zip(sizes.values(), (2, 4, 8), strict=True)) / sum(sizes.values())
    measures = found.memory.at(Assignment.parse(texts))
    assert measures["weight_bits"] == pytest.approx(expected, rel=1e-12)
