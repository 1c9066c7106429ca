"""Where the numbers of a graph can be narrowed: parameters that are multiplied, and values that are stored.

A value is quantized where it is made, after the activation function that fuses with its producer, and every consumer
reads the quantized one. Sites are named after the module that reads them (`stem:in`), or after the module that makes
them where the reader is an addition (`conv2:out`).
"""

from __future__ import annotations

import operator
from collections.abc import Iterable
from dataclasses import dataclass, field

from torch import fx

from mpsearch.core.site import Role, Site
from mpsearch.graph import attention, messages, recurrent
from mpsearch.graph.export import Lowered, module_path
from mpsearch.graph.ops import (
    ADDED_PRODUCTS,
    COMPUTE,
    EMBEDDINGS,
    LINEAR,
    PRODUCTS,
    RECURRENT,
    RESHAPES,
    SCATTERS,
    SHAPE_ONLY,
    TRANSPOSED,
    UNARY,
    WEIGHTED,
    aten,
    is_call,
    is_float,
    normalized,
    root,
    to_root,
)


@dataclass(frozen=True)
class Found:
    """A site and the node it sits on: a `get_attr`, the value itself, or an attention or recurrent node and a part."""

    site: Site
    node: fx.Node
    part: str | None = None


@dataclass
class Discovery:
    """The sites of a graph in the order in which they are computed, and those that decide together by default.

    Args:
        found: sites with their nodes.
        ties: (kind, site names); kind is `residual` or `qkv`.
    """

    found: list[Found] = field(default_factory=list)
    ties: list[tuple[str, tuple[str, ...]]] = field(default_factory=list)

    @property
    def sites(self) -> tuple[Site, ...]:
        return tuple(f.site for f in self.found)


def discover(lowered: Lowered) -> Discovery:
    """Find every site. Needs shapes of a real run on the nodes (`measure`)."""
    return _Discoverer(lowered).run()


class _Discoverer:
    def __init__(self, lowered: Lowered) -> None:
        self.lowered = lowered
        self.nodes = list(lowered.graph.nodes)
        self.order = {node: i for i, node in enumerate(self.nodes)}
        self.live = live_nodes(self.nodes)
        self.found: dict[tuple[fx.Node, str | None], tuple[int, Site]] = {}
        self.names: set[str] = set()
        self.ties: list[tuple[str, tuple[str, ...]]] = []

    def run(self) -> Discovery:
        self._weights()
        self._states()
        self._attention()
        self._messages()
        self._inputs()
        self._residuals()
        self._norms()
        ranked = sorted(self.found.items(), key=lambda item: item[1][0])
        return Discovery([Found(site, node, part) for (node, part), (_, site) in ranked], self.ties)

    def _add(
        self,
        node: fx.Node,
        name: str,
        role: Role,
        axis: int,
        at: int | None = None,
        part: str | None = None,
        gates: int = 0,
    ) -> str:
        """Register a site unless the node has one; its name either way."""
        if (node, part) in self.found:
            return self.found[node, part][1].name
        unique, n = name, 2
        while unique in self.names:
            unique, n = f"{name}_{n}", n + 1
        self.names.add(unique)
        shape = node.meta["shapes"][part] if part else node.meta["shape"]
        site = Site(unique, role, tuple(shape), axis % max(1, len(shape)), gates=gates)
        self.found[node, part] = (self.order[node] if at is None else at, site)
        return unique

    def _value(self, value: object, name: str, role: Role, axis: int) -> str | None:
        """Register the value whose numbers `value` are, if it is float and depends on the input data."""
        known = self._known(value)
        if known is not None:
            return known
        node = root(value)
        if not isinstance(node, fx.Node) or node not in self.live or not is_float(node):
            return None
        return self._add(node, name, role, axis)

    def _known(self, value: object) -> str | None:
        """Name of the site that `value` passes on its way from its root."""
        return next((self.found[n, None][1].name for n in to_root(value) if (n, None) in self.found), None)

    def _weights(self) -> None:
        uses: dict[fx.Node, list[tuple[fx.Node, int]]] = {}
        for node in self.nodes:
            for operand, axis in _weight_operands(node):
                source = root(operand)
                if isinstance(source, fx.Node) and source.op == "get_attr" and source.target in self.lowered.parameters:
                    uses.setdefault(source, []).append((node, axis))
        for source, users in uses.items():
            if len(source.meta["shape"]) < 2:
                continue
            role = Role.EMBEDDING if all(is_call(user, EMBEDDINGS) for user, _ in users) else Role.WEIGHT
            axis = next((axis for user, axis in users if not is_call(user, EMBEDDINGS)), users[0][1])
            at = min(self.order[user] for user, _ in users)
            gates = next((recurrent.matrix_gates(user)[source] for user, _ in users if is_call(user, RECURRENT)), 0)
            self._add(source, str(source.target), role, axis, at, gates=gates)

    def _states(self) -> None:
        """What recurrent layers keep between steps. Two directions of a layer are joined, so they decide together."""
        for node in self.nodes:
            if not is_call(node, RECURRENT) or node not in self.live:
                continue
            path = owner(node)
            hidden: dict[str, list[str]] = {}
            for part in node.meta["shapes"]:
                name = self._add(node, f"{path}:{part}" if path else part, Role.STATE, -1, part=part)
                if part.startswith("hidden"):
                    hidden.setdefault(part.removesuffix("_reverse"), []).append(name)
            self.ties += [("residual", tuple(tied)) for tied in hidden.values() if len(tied) > 1]

    def _attention(self) -> None:
        for block in attention.find(self.nodes, self.live):
            keeps = block.probs.meta.get("is_causal", False)  # keys and values of the tokens so far
            names = {
                name: self._add(
                    node, f"{block.name}:{name}", Role.CACHE if keeps and name != "q" else Role.ACTIVATION, -1
                )
                for name, node in attention.owners(block).items()
                if node in self.live and is_float(node)
            }
            if keeps:
                names.pop("q", None)  # gone with its token
            tied = list(dict.fromkeys(names.values()))
            if len(tied) > 1:
                self.ties.append(("qkv", tuple(tied)))
            operands = (block.query, block.key, block.value)
            projections = [attention.projection(node, self.live) for node in operands]
            weights = list(dict.fromkeys(self.found[p, None][1].name for p in projections if (p, None) in self.found))
            if len(weights) > 1:
                self.ties.append(("qkv", tuple(weights)))
            for part, role, node in (("scores", Role.SCORE, block.scores), ("probs", Role.PROB, block.probs)):
                fused = part if node is block.fused else None
                self._add(node, f"{block.name}:{part}", role, -1, part=fused)

    def _messages(self) -> None:
        for part in messages.find(self.nodes, self.live):
            self._add(
                part.node,
                f"{part.module}:{part.role.value}" if part.module else part.role.value,
                part.role,
                -1,
            )

    def _inputs(self) -> None:
        for node in self.nodes:
            if is_call(node, WEIGHTED | RECURRENT):
                path = owner(node)
                axis = -1 if is_call(node, LINEAR | RECURRENT) else 1
                self._value(node.args[0], f"{path}:in" if path else "in", Role.ACTIVATION, axis)
            elif is_call(node, PRODUCTS | ADDED_PRODUCTS):
                path = module_path(node)
                operands = node.args[-2:] if is_call(node, PRODUCTS) else node.args[1:3]
                for operand, side in zip(operands, ("lhs", "rhs"), strict=True):
                    if self._known(attention.unscaled(operand)) is not None:
                        continue  # of an attention, which names its own
                    self._value(operand, f"{path}:{side}" if path else side, Role.ACTIVATION, -1)

    def _residuals(self) -> None:
        through = _ancestors_through_compute(self.nodes, self.order)

        def joined(a: fx.Node, b: fx.Node) -> bool:
            one, other = root(a), root(b)
            skips = through[other] >> self.order[one] & 1 or through[one] >> self.order[other] & 1
            return bool(skips) or (_ends_in_compute(one) and _ends_in_compute(other))

        for node in self.nodes:
            if is_call(node, {aten.add.Tensor}):
                operands = node.args[:2]
            elif is_call(node, {aten.cat.default}):
                operands = node.args[0]
            else:
                continue
            mine = [a for a in operands if isinstance(a, fx.Node) and a in self.live and is_float(a)]
            if len(mine) < 2 or not any(joined(mine[0], b) for b in mine[1:]):
                continue
            axis = 1 if len(node.meta["shape"]) == 4 else -1
            names = [self._value(a, _producer_name(root(a)), Role.ACTIVATION, axis) for a in mine]
            tied = tuple(dict.fromkeys(name for name in names if name))
            if len(tied) > 1:
                self.ties.append(("residual", tied))

    def _norms(self) -> None:
        """Inputs of normalizations that are no site yet: not of a layer, nor of the addition that goes around one."""
        for node in self.nodes:
            x = normalized(node)
            if x is not None:
                path = module_path(node)
                self._value(x, f"{path}:in" if path else "in", Role.ACTIVATION, -1)


def live_nodes(nodes: Iterable[fx.Node]) -> set[fx.Node]:
    """Values that depend on the input's numbers: on a float input, or on an embedding of an integer one.

    What follows from the structure alone (degrees, masks, positions) is not among them.
    """
    live: set[fx.Node] = set()
    given: set[fx.Node] = set()
    for node in nodes:
        if is_call(node, SHAPE_ONLY):
            continue
        if node.op == "placeholder" or any(source in given for source in node.all_input_nodes):
            given.add(node)
        if node.op == "placeholder":
            if is_float(node):
                live.add(node)
        elif (is_call(node, EMBEDDINGS) and node.args[1] in given) or any(s in live for s in node.all_input_nodes):
            live.add(node)
    return live


def owner(node: fx.Node) -> str:
    """Module that owns the weight of a weighted call: its parameter's name without the last word.

    A weight that is known by the name of another module (a head tied to the embedding) says nothing about the caller.
    """
    weight, caller = root(node.args[2][0] if is_call(node, RECURRENT) else node.args[1]), module_path(node)
    if isinstance(weight, fx.Node) and weight.op == "get_attr":
        path = str(weight.target).rpartition(".")[0]
        if path and f"{path}.".startswith(f"{caller}." if caller else ""):
            return path
    return caller


def _weight_operands(node: fx.Node) -> list[tuple[object, int]]:
    """(operand, output-channel axis of the parameter) pairs of a call."""
    if is_call(node, TRANSPOSED):
        return [(node.args[1], 1)]
    if is_call(node, WEIGHTED):
        return [(node.args[1], 0)]
    if is_call(node, EMBEDDINGS):
        return [(node.args[0], 0)]
    if is_call(node, RECURRENT):
        return [(weight, 0) for weight in node.args[2]]
    if is_call(node, PRODUCTS):
        return [(node.args[0], 0), (node.args[1], _product_axis(node.args[1]))]
    if is_call(node, ADDED_PRODUCTS):
        return [(node.args[1], 0), (node.args[2], _product_axis(node.args[2]))]
    return []


def _product_axis(operand: object) -> int:
    """Output axis of a right operand [K, N]: its last, or the one before if it is read transposed."""
    while is_call(operand, RESHAPES):
        if is_call(operand, {aten.t.default, aten.transpose.int, aten.permute.default}):
            return -2
        operand = operand.args[0]
    return -1


def _producer_name(node: fx.Node) -> str:
    if is_call(node, WEIGHTED):
        return f"{owner(node)}:out"
    what = {aten.add.Tensor: "sum", aten.embedding.default: "out", operator.getitem: "out"}.get(node.target)
    if what is None:
        what = "in" if node.op == "placeholder" else str(getattr(node.target, "_opname", node.name))
    path = module_path(node)
    return f"{path}:{what}" if path else what


def _ends_in_compute(node: fx.Node) -> bool:
    while is_call(node, UNARY) or is_call(node, {operator.getitem}):
        node = node.args[0]
    return is_call(node, COMPUTE | SCATTERS)


def _ancestors_through_compute(nodes: list[fx.Node], order: dict[fx.Node, int]) -> dict[fx.Node, int]:
    """Per node a bit mask of the ancestors that reach it through at least one compute operator."""
    above: dict[fx.Node, int] = {}
    through: dict[fx.Node, int] = {}
    for node in nodes:
        above[node] = through[node] = 0
        for source in node.all_input_nodes:
            up = above[source] | 1 << order[source]
            above[node] |= up
            through[node] |= through[source] | (up if is_call(node, COMPUTE | SCATTERS) else 0)
    return through
