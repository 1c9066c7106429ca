"""Recurrent layers in a graph: what they keep between steps, and how to write one out step by step.

What an integer LSTM stores (Li, Alvarez, "On the quantization of recurrent neural networks", 2021): the hidden state,
which the next step, the next layer and the output read, and the cell state, which only gathers. Both are quantized
where they are made. The fused operator has no place for that, so it is written out where a state has a choice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from mpsearch.graph.dropout import dropout
from mpsearch.graph.kinds import is_made_up
from mpsearch.graph.ops import aten, is_call

_LSTM = aten.lstm.input
_GATES = {_LSTM: 4, aten.gru.input: 3, aten.rnn_tanh.input: 1, aten.rnn_relu.input: 1}


@dataclass(frozen=True)
class Direction:
    """One layer in one direction.

    Args:
        suffix: as torch names its parameters: `l0`, `l0_reverse`.
        layer: its number.
        place: of its states, among those of all layers and directions.
        of_input, of_hidden: the matrices [gates * cells, inputs] and [gates * cells, hidden].
        biases: added after each of the two; None without.
        projection: [hidden, cells] of an LSTM that has one.
    """

    suffix: str
    layer: int
    place: int
    is_reverse: bool
    of_input: fx.Node
    of_hidden: fx.Node
    biases: tuple[fx.Node | None, fx.Node | None]
    projection: fx.Node | None


def directions(node: fx.Node) -> list[Direction]:
    """Layers and directions of a recurrent call, in the order in which its parameters lie."""
    tensors, has_biases, layers, both_ways = node.args[2], node.args[3], int(node.args[4]), bool(node.args[7])
    size = len(tensors) // (layers * (2 if both_ways else 1))
    found = []
    for place in range(len(tensors) // size):
        own = tensors[place * size : (place + 1) * size]
        layer, is_reverse = divmod(place, 2) if both_ways else (place, 0)
        biases = (own[2], own[3]) if has_biases else (None, None)
        projection = own[-1] if size == (5 if has_biases else 3) else None
        suffix = f"l{layer}_reverse" if is_reverse else f"l{layer}"
        found.append(Direction(suffix, layer, place, bool(is_reverse), own[0], own[1], biases, projection))
    return found


def steps(node: fx.Node) -> int:
    """Length of the sequences; an export fixes it."""
    return int(node.args[0].meta["shape"][_axis(node)])


def state_shapes(node: fx.Node) -> dict[str, tuple[int, int]]:
    """[samples, width] of each state that is kept between steps: `hidden_l0`, `cell_l0`. Needs shapes on the nodes."""
    samples = node.args[0].meta["shape"][1 - _axis(node)]
    found = {}
    for direction in directions(node):
        rows, width = direction.of_hidden.meta["shape"]
        found[f"hidden_{direction.suffix}"] = (samples, width)
        if is_call(node, {_LSTM}):
            found[f"cell_{direction.suffix}"] = (samples, rows // 4)
    return found


def matrix_gates(node: fx.Node) -> dict[fx.Node, int]:
    """Gates that lie one after the other along the rows of each matrix of a recurrent call; 1 for a projection."""
    found = {}
    for direction in directions(node):
        for matrix in (direction.of_input, direction.of_hidden):
            found[matrix] = _GATES[node.target]
        if direction.projection is not None:
            found[direction.projection] = 1
    return found


def write_out(graph: fx.Graph, node: fx.Node) -> dict[str, list[fx.Node]]:
    """Replace a recurrent call by its steps. Returns the nodes of each state, one per step, by its name.

    An initial state that is given comes before them; one of zeros is on every grid.
    """
    with graph.inserting_before(node):
        writer = _Writer(graph, node)
        whole = writer.write()
    node.replace_all_uses_with(whole)
    graph.erase_node(node)
    return writer.states


class _Writer:
    def __init__(self, graph: fx.Graph, node: fx.Node) -> None:
        self.graph, self.node = graph, node
        self.axis, self.steps = _axis(node), steps(node)
        self.samples = node.args[0].meta["shape"][1 - self.axis]
        self.is_lstm = is_call(node, {_LSTM})
        self.given = node.args[1] if self.is_lstm else [node.args[1]]
        self.states: dict[str, list[fx.Node]] = {name: [] for name in state_shapes(node)}
        self.last: tuple[list[fx.Node], ...] = ([], []) if self.is_lstm else ([],)

    def write(self) -> fx.Node:
        below = self.node.args[0]
        share = self.node.meta.get("dropout")
        for layer, pair in groupby(directions(self.node), lambda direction: direction.layer):
            if share and layer:
                below = self._call(dropout, (below, share, False), below.meta["shape"])
            made = [self._direction(direction, below) for direction in pair]
            width = sum(one.meta["shape"][-1] for one in made)
            shape = (*made[0].meta["shape"][:-1], width)
            below = made[0] if len(made) == 1 else self._call(aten.cat.default, (made, -1), shape)
        read = {user.args[1] for user in self.node.users}
        results: list[Any] = [below]
        for place, states in enumerate(self.last, start=1):
            shape = (len(states), *states[0].meta["shape"])
            results.append(self._call(aten.stack.default, (states, 0), shape) if place in read else None)
        return self._call(_together, tuple(results), ())

    def _direction(self, direction: Direction, below: fx.Node) -> fx.Node:
        """The hidden states of all steps of one layer in one direction, laid out as the layer gives them."""
        rows, width = direction.of_hidden.meta["shape"]
        inputs = direction.of_input.meta["shape"][1]
        cells = rows // _GATES[self.node.target]
        names = [f"{kind}_{direction.suffix}" for kind in ("hidden", "cell")]
        hidden, *others = [self._initial(*pair, direction) for pair in zip(self.given, names, strict=False)]
        cell = others[0] if others else None
        products = self._call(
            F.linear,
            (below, direction.of_input, direction.biases[0]),
            (*below.meta["shape"][:2], rows),
            self.samples * self.steps * rows * inputs,
        )
        macs = self.samples * rows * width
        made: list[fx.Node] = []
        for step in reversed(range(self.steps)) if direction.is_reverse else range(self.steps):
            now = self._call(aten.select.int, (products, self.axis, step), (self.samples, rows))
            read = (now, hidden, direction.of_hidden, direction.biases[1])
            if cell is None:
                hidden = self._call(_NEXT[self.node.target], read, (self.samples, width), macs)
            else:
                gates = self._call(_gates, read, (self.samples, rows), macs)
                cell = self._call(_cell, (gates, cell), (self.samples, cells))
                self.states[names[1]].append(cell)
                hidden = self._call(_hidden, (gates, cell), (self.samples, cells))
                if direction.projection is not None:
                    more = self.samples * width * cells
                    hidden = self._call(F.linear, (hidden, direction.projection), (self.samples, width), more)
            self.states[names[0]].append(hidden)
            made.append(hidden)
        for known, state in zip(self.last, (hidden, cell), strict=False):
            assert state is not None
            known.append(state)
        ordered = made[::-1] if direction.is_reverse else made
        return self._call(aten.stack.default, (ordered, self.axis), (*below.meta["shape"][:2], width))

    def _initial(self, given: fx.Node, name: str, direction: Direction) -> fx.Node:
        state = self._call(aten.select.int, (given, 0, direction.place), given.meta["shape"][1:])
        if not is_made_up(given):
            self.states[name].append(state)
        return state

    def _call(
        self, function: Callable[..., Any], arguments: tuple[Any, ...], shape: Sequence[int], macs: int = 0
    ) -> fx.Node:
        new = self.graph.call_function(function, arguments)
        new.meta = {key: value for key, value in self.node.meta.items() if key not in ("val", "shapes")}
        new.meta |= {"shape": tuple(shape), "macs": macs}
        return new


def _axis(node: fx.Node) -> int:
    """Of the steps; samples lie along the other one of the first two."""
    return 1 if node.args[8] else 0


def _gates(now: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Gates [samples, gates * cells] before their activation functions."""
    return now + F.linear(hidden, weight, bias)


def _cell(gates: Tensor, cell: Tensor) -> Tensor:
    """The next cell state."""
    enter, keep, new, _ = gates.chunk(4, -1)
    return torch.sigmoid(keep) * cell + torch.sigmoid(enter) * torch.tanh(new)


def _hidden(gates: Tensor, cell: Tensor) -> Tensor:
    """What the output gate lets through."""
    return torch.sigmoid(gates.chunk(4, -1)[3]) * torch.tanh(cell)


def _gru(now: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The next state of a GRU, whose reset gate comes after the product with the hidden state."""
    reset, keep, new = now.chunk(3, -1)
    of_reset, of_keep, of_new = F.linear(hidden, weight, bias).chunk(3, -1)
    candidate = torch.tanh(new + torch.sigmoid(reset + of_reset) * of_new)
    return candidate + torch.sigmoid(keep + of_keep) * (hidden - candidate)


def _tanh(now: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return torch.tanh(_gates(now, hidden, weight, bias))


def _relu(now: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return torch.relu(_gates(now, hidden, weight, bias))


def _together(*results: Tensor | None) -> tuple[Tensor | None, ...]:
    return results


_NEXT = {aten.gru.input: _gru, aten.rnn_tanh.input: _tanh, aten.rnn_relu.input: _relu}
WRITTEN = (_gates, _cell, _hidden, _gru, _tanh, _relu, _together)
"""What a layer is written out as, besides operators of torch."""
