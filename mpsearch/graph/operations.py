"""The operations of a graph on one batch: what each multiplies, reads and writes.

Listed is what runs for every batch. What follows from the structure of the input alone (degrees, masks, positions), or
from parameters alone, is computed once: it is a given tensor. The gather, the multiplication and the scatter of message
passing are always three operations; whether one kernel does all of it is for the device to say.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from torch import fx
from torch.utils import _pytree as pytree

from mpsearch.core.site import Role
from mpsearch.cost.workload import Access, Gemm, Kind, Operation, Workload
from mpsearch.graph import kinds, products, recurrent
from mpsearch.graph.bin_operations import by_bin
from mpsearch.graph.export import Lowered, module_path
from mpsearch.graph.holders import numel
from mpsearch.graph.ops import ATTENTION, CELLS, RECURRENT, WEIGHTED, aten, is_call, root
from mpsearch.graph.sites import Discovery, live_nodes, owner
from mpsearch.graph.tensors import Operand, Tensors


def operations(lowered: Lowered, discovery: Discovery, active: Iterable[str], samples: int = 1) -> Workload:
    """Everything that `lowered` computes on the batch it was measured on. The graph stays as it is.

    Args:
        active: names of the sites that have a choice. A fused attention is written out where its scores or
            probabilities are among them, as the compiled program does.
        samples: of the batch.
    """
    lister = _Lister(lowered, discovery, set(active))
    for node in lowered.graph.nodes:
        if node.op == "call_function" and node in lister.live:
            lister.visit(node)
    (output,) = (node for node in lowered.graph.nodes if node.op == "output")
    returned = [access.tensor for node in output.all_input_nodes for access in lister.tensors.read(node)]
    return Workload(tuple(lister.tensors.held), tuple(_named(lister.found)), samples, frozenset(returned))


class _Lister:
    def __init__(self, lowered: Lowered, discovery: Discovery, active: set[str]) -> None:
        nodes = list(lowered.graph.nodes)
        self.active = active
        self.live = kinds.computed(nodes, live_nodes(nodes), lowered.parameters)
        self.tensors = Tensors(lowered, discovery, self.live, active)
        self.parts = {part for parts in self.tensors.holders.slices.values() for part in parts}
        self.found: list[tuple[str, str, Operation]] = []  # module path, operator, what it does

    def visit(self, node: fx.Node) -> None:
        """List what the call `node` does."""
        made = [result for result in kinds.results(node) if result in self.live]
        if not made or node in self.parts:
            return
        kind = kinds.kind_of(node, made[0])
        if is_call(node, ATTENTION):
            self._attention(node)
        elif is_call(node, RECURRENT | CELLS):
            self._recurrent(node, made)
        elif is_call(node, kinds.CONTRACTIONS):
            self._contraction(node)
        elif self.tensors.holders.of[made[0]] is made[0] or kind is Kind.POOL:  # the rest lies in its source
            self._plain(node, kind, made)

    def _plain(self, node: fx.Node, kind: Kind, made: list[fx.Node]) -> None:
        reads: list[Operand] = list(node.all_input_nodes)
        writes = [access for result in made for access in self.tensors.write(result)]
        if kind in (Kind.CONV, Kind.CONV_TRANSPOSED, Kind.LINEAR, Kind.MATMUL):
            self._add(node, kind, reads, writes, *self._factors(node), products.gemms(node)[0])
        elif kind is Kind.SPMM:
            self._add(node, kind, reads, writes, *self._factors(node), macs=products.macs(node))
        elif kinds.is_multiplied_and_added(node):
            weight, value = sorted(node.args[:2], key=self._rank)
            self._add(node, Kind.SCALE, reads, writes, weight, value, macs=numel(node))
        elif kind in (Kind.GATHER, Kind.EMBEDDING):
            words = numel(node.args[1]) if is_call(node, kinds.BAGS) else 0
            looked_up = words * node.args[0].meta["shape"][-1] or numel(made[0])
            self._add(node, kind, reads, writes, looked_up=looked_up)
        elif is_call(node, {aten.cat.default, aten.stack.default}) and len(writes) == 1:
            parts: list[fx.Node] = node.args[0]  # each goes to its place alone, whatever the formats of the others
            for part in parts:
                self._add(node, kind, [part], [Access(writes[0].tensor, numel(part))])
        else:
            self._add(node, kind, reads, writes)

    def _factors(self, node: fx.Node) -> tuple[fx.Node, fx.Node]:
        """(weight, value) of a product: a parameter, a sparse matrix, probabilities, or else the right factor."""
        if is_call(node, WEIGHTED):
            return node.args[1], node.args[0]
        left, right = products.operands(node)
        is_left = products.is_tensor(left) and not products.is_tensor(right)
        if is_left or "nnz" in left.meta or self.tensors.role(left) is Role.PROB:
            return left, right
        return right, left

    def _rank(self, factor: fx.Node) -> tuple[bool, bool, int]:
        """The weight of two factors comes first: what the input does not change, attention, or the smaller."""
        return factor in self.live, self.tensors.role(factor) is not Role.ATTENTION, numel(root(factor))

    def _attention(self, node: fx.Node) -> None:
        """q k^T, softmax, p v. Scores and probabilities never leave the kernel where they have no choice."""
        query, key, value = products.operands(node)
        masks = [source for source in node.all_input_nodes if source not in (query, key, value)]
        first, second = products.gemms(node)
        out = self.tensors.write(node)
        names = {part: site.name for part in ("scores", "probs") if (site := self.tensors.sites.get((node, part)))}
        if not self.active.intersection(names.values()):
            self._add(node, Kind.MATMUL, [query, key, *masks], [], key, query, first, word="matmul")
            self._add(node, Kind.MATMUL, [value], out, None, value, second, word="matmul")
            return
        scores, probs = (node, "scores"), (node, "probs")
        held = [self.tensors.inside(part, names[part[1]], first.m * first.n * first.count) for part in (scores, probs)]
        self._add(node, Kind.MATMUL, [query, key], held[0], key, query, first, word="matmul")
        self._add(node, Kind.SOFTMAX, [scores, *masks], held[1], word="softmax")
        self._add(node, Kind.MATMUL, [probs, value], out, probs, value, second, word="matmul")

    def _recurrent(self, node: fx.Node, made: list[fx.Node]) -> None:
        """One operation per matrix. Gates never leave the kernel; a layer's output does.

        States leave it where one of them has a choice: then they are read and written at every step, and a layer that
        is not the last one gives its hidden states.
        """
        matrices = products.matrices(node)
        given = [source for source in pytree.tree_leaves(node.args[1]) if isinstance(source, fx.Node)]
        states = self._states(node)
        directions = sum(matrix.is_last for matrix in matrices if matrix.layer == 0)
        below: list[Any] = [node.args[0]]
        for layer in range(matrices[-1].layer + 1):
            mine = [matrix for matrix in matrices if matrix.layer == layer]
            above: list[Any] = [(node, layer)]
            writes: list[Access] = []
            if layer == matrices[-1].layer:
                writes = [a for result in made for a in self.tensors.write(result)]
            elif states:
                above = [(node, f"hidden_{matrix.suffix}") for matrix in mine if matrix.is_last]
            else:
                elements = mine[0].gemm.m * mine[1].gemm.k * directions
                writes = self.tensors.inside((node, layer), f"{owner(node)}:l{layer}".lstrip(":"), elements)
            for matrix in mine:
                own = [part for part in (f"hidden_{matrix.suffix}", f"cell_{matrix.suffix}") if part in states]
                reads, value = (below, below[0]) if matrix.reads_input else ([], None)
                written: list[Access] = []
                if matrix.reads_state:
                    reads, given = [*((node, part) for part in own), *given], []  # given ones are read once
                    value = reads[0] if own or is_call(node, CELLS) else None
                    written += [access for part in own[1:] for access in states[part]]
                if matrix.is_last:
                    written = [Access(a.tensor, a.elements // directions) for a in writes] + written
                    written += [access for part in own[:1] for access in states[part]]
                self._add(
                    node,
                    Kind.RECURRENT,
                    [*reads, matrix.weight, *matrix.biases],
                    written,
                    matrix.weight,
                    value,
                    matrix.gemm,
                    word=str(root(matrix.weight).target).rpartition(".")[2],
                )
            below = above

    def _states(self, node: fx.Node) -> dict[str, list[Access]]:
        """What a recurrent layer writes of each state, over all steps, by its part; nothing where none has a choice."""
        sites = {part: self.tensors.sites[node, part] for part in node.meta.get("shapes", ())}
        if not self.active.intersection(site.name for site in sites.values()):
            return {}
        steps = recurrent.steps(node)
        return {
            part: self.tensors.inside((node, part), site.name, math.prod(site.shape), steps)
            for part, site in sites.items()
        }

    def _contraction(self, node: fx.Node) -> None:
        """The products of an `einsum` or a bilinear layer, from left to right; what is between them stays inside."""
        left: Operand | None
        left, *others = products.operands(node)
        if not others:
            self._add(node, Kind.POOL, [left], self.tensors.write(node))
        pairs = zip(others, products.gemms(node), strict=True)
        for number, (right, gemm) in enumerate(pairs, start=1):
            is_left = left is not None and products.is_tensor(left) and not products.is_tensor(right)
            weight, value = (left, right) if is_left else (right, left)
            reads = [operand for operand in (left, right) if operand is not None]
            writes = self.tensors.write(node) if number == len(others) else []
            self._add(node, Kind.MATMUL, reads, writes, weight, value, gemm)
            left = None

    def _add(
        self,
        node: fx.Node,
        kind: Kind,
        reads: Sequence[Operand],
        writes: Sequence[Access],
        weight: Operand | None = None,
        value: Operand | None = None,
        gemm: Gemm | None = None,
        macs: int = 0,
        looked_up: int | None = None,
        word: str | None = None,
    ) -> None:
        """List one operation.

        Args:
            weight, value: the two of `reads` that are multiplied.
            macs: where they are not those of `gemm`.
            looked_up: how many numbers of the first of `reads` are read.
        """
        elements: dict[int, int] = {}
        for operand in reads:
            for access in self.tensors.read(operand):
                wanted = looked_up if looked_up is not None and operand is reads[0] else access.elements
                known, whole = elements.get(access.tensor, 0), self.tensors.held[access.tensor].elements
                elements[access.tensor] = min(known + wanted, max(known, wanted, whole))
        order = list(elements)

        def place(operand: Operand | None) -> int | None:
            touched = [] if operand is None else self.tensors.read(operand)
            return order.index(touched[0].tensor) if touched else None

        path = owner(node) if is_call(node, WEIGHTED | RECURRENT) else module_path(node)
        path = path.removesuffix("aggr_module").rstrip(".")
        operation = Operation(
            "",
            kind,
            tuple(Access(tensor, count) for tensor, count in elements.items()),
            writes[0] if writes else None,
            macs if gemm is None else gemm.macs,
            place(weight),
            place(value),
            gemm,
            value is not None and self.tensors.is_input(value),
            tuple(writes[1:]),
        )
        for label, part in by_bin(operation, self.tensors, node.meta.get("binned") if kind is Kind.GATHER else None):
            self.found.append((path, f"{word or kinds.word(node)}{'@' if label else ''}{label}", part))


def _named(found: Sequence[tuple[str, str, Operation]]) -> Iterator[Operation]:
    """Named after their modules, and after the operator where a module has several."""
    several, seen = Counter(path for path, _, _ in found), Counter[str]()
    for path, operator, operation in found:
        name = path if path and several[path] == 1 else f"{path}:{operator}" if path else operator
        seen[name] += 1
        yield replace(operation, name=name if seen[name] == 1 else f"{name}_{seen[name]}")
