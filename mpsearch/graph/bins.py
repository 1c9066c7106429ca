"""Values of a GNN split by the degree of their nodes: rows of one bin become a value, and a site, of their own.

What lies on edges, messages and attention, has the bin of the edge's source node: then each bin of edges has one scale
for the messages and one for the attention that they are multiplied with, and its products can be integers.

The graph takes the rows of each bin out of a value, and puts them together again for all who read it. Between the two,
each bin is quantized on its own; what is multiplied afterwards are floats, so bins of several widths need no
rematching. Topology-aware bits are those of SGQuant (Feng et al., arXiv 2007.05100).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, fx

from mpsearch.core.errors import BadInput
from mpsearch.core.site import Bin, Role, Site
from mpsearch.graph.export import Lowered
from mpsearch.graph.messages import edge_row, gather_axis, gather_index, is_edge_index, is_gather
from mpsearch.graph.ops import RESHAPES, SHAPE_ONLY, ancestors, aten, is_call
from mpsearch.graph.rows import bins_of, in_degrees, put_rows, rows_in, take_rows
from mpsearch.graph.sites import Discovery, Found
from mpsearch.graph.structure import input_of_size
from mpsearch.spec.schema import BinsSpec

_ON_EDGES = (Role.MESSAGE, Role.ATTENTION)
_SPLIT = (Role.FEATURE, Role.AGGREGATE, *_ON_EDGES)
_IS_DEGREES = "is_degrees"


@dataclass(frozen=True)
class Binned:
    """How rows fall into bins on the measured batch.

    Args:
        space: what rows are: equal where row i of two values is the same node or edge.
        counts: rows of each bin.
    """

    space: tuple[fx.Node, ...]
    counts: tuple[int, ...]


def add_degrees(lowered: Lowered, degrees: Tensor) -> None:
    """An input of the graph, the last one, for the in-degree of each node in the whole graph: bins are made by it.

    Args:
        degrees: of the measured batch [nodes].
    """
    last = [node for node in lowered.graph.nodes if node.op == "placeholder"][-1]
    with lowered.graph.inserting_after(last):
        node = lowered.graph.placeholder("degrees")
    node.meta = {"val": degrees.to("meta"), "shape": tuple(degrees.shape), "macs": 0, _IS_DEGREES: True}


def split(
    lowered: Lowered,
    discovery: Discovery,
    wanted: Mapping[str, BinsSpec],
    measured: Sequence[Any],
    calibration: Sequence[Sequence[Any]],
) -> Discovery:
    """Split the sites named in `wanted`; the graph is changed, and needs shapes of a real run before.

    Each new node knows its rows by `meta["binned"]` (`Binned`) and, where it is one bin's, by `meta["bin"]`; a gather
    of what is split knows how many edges each bin has.

    Args:
        measured: flat inputs that shapes were measured on.
        calibration: flat inputs that ranges are fitted on, by batch.

    Raises:
        BadInput: a model without a graph, a role that has no nodes, a bin that no node falls in.
    """
    if not wanted:
        return discovery
    return _Splitter(lowered, discovery, wanted, measured, calibration).run()


class _Splitter:
    def __init__(
        self,
        lowered: Lowered,
        discovery: Discovery,
        wanted: Mapping[str, BinsSpec],
        measured: Sequence[Any],
        calibration: Sequence[Sequence[Any]],
    ) -> None:
        self.lowered, self.graph = lowered, lowered.graph
        self.discovery, self.wanted = discovery, wanted
        self.placeholders = [node for node in self.graph.nodes if node.op == "placeholder"]
        self.measured, self.calibration = measured, calibration
        self.made: dict[Any, fx.Node] = {}
        self.rows: dict[tuple[fx.Node, int], fx.Node] = {}

    def run(self) -> Discovery:
        self._refuse()
        parts = {f.site.name: self._split(f) for f in self.discovery.found if f.site.name in self.wanted}
        found = [part for f in self.discovery.found for part in parts.get(f.site.name, [f])]
        ties = []
        for kind, names in self.discovery.ties:
            ties += [(kind, tied) for tied in _tied(names, parts) if len(tied) > 1]
        return Discovery(found, ties)

    def _refuse(self) -> None:
        by_name = {site.name: site for site in self.discovery.sites}
        others = [name for name in self.wanted if by_name[name].role not in _SPLIT]
        errors = [
            f"bins by degree split features, messages, attention and aggregates, and {name!r} is of role "
            f"{by_name[name].role}: give it a rule without bins, before this one."
            for name in others
        ]
        if not any(map(is_edge_index, self.placeholders)):
            errors = ["bins by degree need a graph, and the model has no edge_index [2, edges] among its inputs."]
        if errors:
            raise BadInput(*errors)

    def _split(self, whole: Found) -> list[Found]:
        spec, value = self.wanted[whole.site.name], whole.node
        bins, edges = self._bins(whole.site, value, spec)
        limits = [0, *edges, None]
        labels = [Bin(a or 0, None if b is None else b - 1, spec.ranges == "shared") for a, b in pairwise(limits)]
        binned: Binned = bins.meta["binned"]
        rows = [self._rows(bins, number) for number in range(len(labels))]
        after = self._later(value, *rows)
        with self.graph.inserting_after(after):
            merged = self.graph.call_function(put_rows, (value, [], rows))
        readers = [user for user in value.users if user is not merged]
        parts = []
        for where in rows:
            with self.graph.inserting_before(merged):
                parts.append(self.graph.call_function(take_rows, (value, where)))
        merged.args = (value, parts, rows)
        merged.meta = {**value.meta, "macs": 0, "binned": binned}
        shape_only = SHAPE_ONLY if value.op == "placeholder" else set()
        for reader in readers:
            if reader.target not in shape_only:
                reader.replace_input_with(value, merged)
        found = []
        for number, (part, label) in enumerate(zip(parts, labels, strict=True)):
            shape = (binned.counts[number], *value.meta["shape"][1:])
            empty = torch.empty(shape, dtype=value.meta["val"].dtype, device="meta")
            part.meta = {**value.meta, "val": empty, "shape": shape, "macs": 0, "binned": binned, "bin": number}
            name = f"{whole.site.name}@{label.label}"
            found.append(Found(replace(whole.site, name=name, shape=shape, bin=label), part))
        self._tell_gathers(merged, bins)
        return found

    def _bins(self, site: Site, value: fx.Node, spec: BinsSpec) -> tuple[fx.Node, tuple[int, ...]]:
        """The node that gives each row of `value` its bin, and the degrees at which bins begin."""
        index = self._source(site, value) if site.role in _ON_EDGES else None
        gathered = value if index is None else next(u for u in index.users if is_gather(u)).args[0]
        degrees = self._degrees(value if index is None else index, gathered)
        edges = spec.edges or self._quantiles(site, degrees, spec.quantiles or 0)
        key = (degrees, edges)
        if key not in self.made:
            self.made[key] = self._call(bins_of, key, gathered.meta["shape"][:1])
            self._count(self.made[key], site, len(edges) + 1, edges)
        bins = self.made[key]
        if index is None:
            return bins, edges
        if (bins, index) not in self.made:
            at_edges = self._call(aten.index_select.default, (bins, 0, index), index.meta["shape"])
            self.made[bins, index] = at_edges
            self._count(at_edges, site, len(edges) + 1, edges)
        return self.made[bins, index], edges

    def _degrees(self, value: fx.Node, nodes: fx.Node) -> fx.Node:
        """The in-degree of each of `nodes`: the input that gives them, else counted in the edge_index that `value`
        depends on; of inputs and what has none above, in the first of the model."""
        if _IS_DEGREES in self.placeholders[-1].meta:
            return self.placeholders[-1]
        above = [node for node in ancestors(value) if is_edge_index(node)]
        table = next(iter(above or filter(is_edge_index, self.placeholders)))
        size = self._size(nodes)
        if (table, size) not in self.made:
            self.made[table, size] = self._call(in_degrees, (table, size), nodes.meta["shape"][:1])
        return self.made[table, size]

    def _source(self, site: Site, message: fx.Node) -> fx.Node:
        """The list of source nodes of the edges that `message` travels, or the message that is multiplied with it."""
        sent = [message] if site.role is Role.MESSAGE else [*_multiplied_with(message), message]
        for node in (found for start in sent for found in (start, *ancestors(start))):
            index = gather_index(node) if is_gather(node) and node.args[0].meta.get("shape") else None
            if index is None or gather_axis(node) % len(node.meta["shape"]) or index.meta["shape"] != _first(message):
                continue
            rows = (row for n in (index, *ancestors(index)) if (row := edge_row(n)) is not None)
            if next(rows, None) == 0:
                return index
        raise BadInput(f"bins by degree: the source nodes of {site.name!r} cannot be told; leave bins out of its rule.")

    def _size(self, value: fx.Node) -> fx.Node | int:
        """How many rows `value` has, without a look at a value that is computed, where the trace knows that."""
        rows = value.meta["val"].shape[0]
        if isinstance(rows, int):
            return rows
        given = input_of_size(self.placeholders, rows)
        return self._named_size(value, 0) if given is None else self._named_size(self.placeholders[given[0]], given[1])

    def _named_size(self, node: fx.Node, axis: int) -> fx.Node:
        if (node, axis) not in self.made:
            self.made[node, axis] = self._call(aten.sym_size.int, (node, axis), ())
        return self.made[node, axis]

    def _quantiles(self, site: Site, degrees: fx.Node, number: int) -> tuple[int, ...]:
        """Degrees at which bins of about equally many nodes begin: a degree has one bin, so there may be fewer."""
        ordered = evaluate(self.lowered, self.measured, degrees).sort().values.tolist()
        edges = sorted({ordered[len(ordered) * k // number] for k in range(1, number)} - {ordered[0]})
        if not edges:
            raise BadInput(f"bins of {site.name!r}: {number} quantiles of the degree split nothing; give edges.")
        return tuple(edges)

    def _count(self, bins: fx.Node, site: Site, number: int, edges: Sequence[int]) -> None:
        """Write rows per bin on the measured batch. Raises `BadInput` where one has none, there or in calibration."""

        def counted(batches: Sequence[Sequence[Any]]) -> list[int]:
            each = [torch.bincount(evaluate(self.lowered, leaves, bins), minlength=number) for leaves in batches]
            return [int(count) for count in torch.stack(each).sum(0)]

        measured = counted([self.measured])
        for where, counts in (("validation's first batch", measured), ("calibration", counted(self.calibration))):
            if not all(counts):
                raise BadInput(_empty(site, where, counts, edges))
        source = () if bins.target is bins_of else tuple(bins.args[::2])
        bins.meta["binned"] = Binned(source or (bins,), tuple(measured))

    def _tell_gathers(self, merged: fx.Node, bins: fx.Node) -> None:
        for user in merged.users:
            if is_gather(user) and user.args[0] is merged and gather_axis(user) % len(merged.meta["shape"]) == 0:
                index = gather_index(user)
                assert index is not None
                at = evaluate(self.lowered, self.measured, bins, index)
                counts = torch.bincount(at[0][at[1]], minlength=len(bins.meta["binned"].counts)).tolist()
                user.meta["binned"] = Binned((bins, index), tuple(counts))

    def _rows(self, bins: fx.Node, number: int) -> fx.Node:
        if (bins, number) not in self.rows:
            count = bins.meta["binned"].counts[number]
            self.rows[bins, number] = self._call(rows_in, (bins, number), (count,))
        return self.rows[bins, number]

    def _call(self, function: Any, arguments: tuple[Any, ...], shape: Sequence[int]) -> fx.Node:
        needed = [argument for argument in arguments if isinstance(argument, fx.Node)]
        with self.graph.inserting_after(self._later(*needed)):
            node = self.graph.call_function(function, arguments)
        value = torch.empty(tuple(shape), dtype=torch.int64, device="meta") if shape else None
        node.meta = {"val": value, "shape": tuple(shape), "macs": 0}
        return node

    def _later(self, *nodes: fx.Node) -> fx.Node:
        """The last of `nodes` and of the inputs, in the order of the graph."""
        order = {node: i for i, node in enumerate(self.graph.nodes)}
        return max((*nodes, *self.placeholders), key=order.__getitem__)


def evaluate(lowered: Lowered, inputs: Sequence[Any], *targets: fx.Node) -> Any:
    """Values of `targets` on flat `inputs`, computing nothing else; one alone comes without a tuple."""
    values: dict[fx.Node, Any] = {}
    wanted = {node for target in targets for node in (target, *ancestors(target))}
    placeholders = iter(inputs)
    with torch.no_grad():
        for node in lowered.graph.nodes:
            given = next(placeholders) if node.op == "placeholder" else None
            if node not in wanted:
                continue
            if node.op == "placeholder":
                values[node] = given
            elif node.op == "get_attr":
                values[node] = lowered.tensors[str(node.target)]
            else:
                arguments, keywords = fx.map_arg((node.args, node.kwargs), values.__getitem__)
                values[node] = node.target(*arguments, **keywords)
    found = [values[target] for target in targets]
    return found[0] if len(found) == 1 else found


def _empty(site: Site, where: str, counts: Sequence[int], edges: Sequence[int]) -> str:
    """What to say of a bin without rows: how many each has, and edges of which every bin has some."""
    begins = (0, *edges)
    rows = "edge" if site.role in _ON_EDGES else "node"
    each = ", ".join(f"{count} from degree {start}" for start, count in zip(begins, counts, strict=True))
    filled = [start for start, count in zip(begins, counts, strict=True) if count][1:]
    advice = f"use edges: {filled}, or quantiles" if filled else "use quantiles, or leave bins out"
    return f"bins of {site.name!r}: a bin has no {rows} of {where} ({each}); {advice}."


def _tied(names: Sequence[str], parts: Mapping[str, Sequence[Found]]) -> Iterator[tuple[str, ...]]:
    """Names that decide together: bin by bin those that are split alike; what is split stands apart from the rest."""
    yield tuple(name for name in names if name not in parts)
    alike: dict[tuple[Bin | None, ...], list[Sequence[Found]]] = {}
    for name in names:
        if name in parts:
            alike.setdefault(tuple(part.site.bin for part in parts[name]), []).append(parts[name])
    for group in alike.values():
        yield from (tuple(part.site.name for part in bins) for bins in zip(*group, strict=True))


def _multiplied_with(node: fx.Node) -> Iterator[fx.Node]:
    """The other factors of the products that read `node`."""
    for user in node.users:
        if is_call(user, RESHAPES):
            yield from _multiplied_with(user)
        elif is_call(user, {aten.mul.Tensor}):
            yield from (factor for factor in user.all_input_nodes if factor is not node)


def _first(node: fx.Node) -> tuple[int, ...]:
    return tuple(node.meta["shape"][:1])
