"""The tensors that the operations of a graph touch, with their sizes and sites."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, fx

from mpsearch.core.site import Role, Site
from mpsearch.cost.workload import Access, Held
from mpsearch.graph.bins import Binned
from mpsearch.graph.export import Lowered, module_path
from mpsearch.graph.holders import holders, numel
from mpsearch.graph.kinds import is_made_up
from mpsearch.graph.ops import is_call, root, to_root
from mpsearch.graph.rows import put_rows
from mpsearch.graph.sites import Discovery
from mpsearch.graph.workload import value_rows


@dataclass(frozen=True)
class Rows:
    """The rows of one bin that a tensor holds: the bin's number and label, and how all rows fall into bins."""

    binned: Binned
    number: int
    label: str


Inner = tuple[fx.Node, str | int | None]
Operand = fx.Node | Inner
"""A value, or what an operator holds inside: the scores of an attention, what a recurrent layer gives the next one."""


class Tensors:
    """The tensors that operations touch, in the order in which they are touched first."""

    def __init__(self, lowered: Lowered, discovery: Discovery, live: set[fx.Node], active: set[str]) -> None:
        self.stored = lowered.tensors
        self.holders = holders(lowered.graph.nodes, live, discovery, active)
        self.sites: dict[Inner, Site] = {(f.node, f.part): f.site for f in discovery.found}
        self.held: list[Held] = []
        self.place: dict[Operand, int] = {}
        self.bins: dict[int, Rows] = {}
        self.times: dict[Inner, int] = {}

    def read(self, operand: Operand) -> list[Access]:
        """The tensors that the numbers of `operand` lie in; none for what follows from sizes alone."""
        if isinstance(operand, tuple):
            place = self.place[operand]
            return [Access(place, self.held[place].elements * self.times[operand])]
        if operand in self.holders.of:
            *path, maker = self.holders.path(operand)
            elements = min(numel(n) for n in (*path, maker) if isinstance(n.meta.get("val"), Tensor))
            left = self.holders.elements(maker)
            return [Access(self._value(maker), elements)] if elements <= left else self.write(maker)
        given = root(operand)
        if not isinstance(given.meta.get("val"), Tensor) or is_made_up(given):
            return []
        binned = next((n for n in to_root(operand) if is_call(n, {put_rows})), None)
        if binned is not None:
            return [Access(self._value(part), numel(part)) for part in binned.args[1]]
        elements = min(numel(n) for n in to_root(operand) if isinstance(n.meta.get("val"), Tensor))
        return [Access(self._stored(given) if given.op == "get_attr" else self._value(given), elements)]

    def write(self, node: fx.Node) -> list[Access]:
        """The tensors that the result `node` is written to: one, and those of its slices."""
        maker = self.holders.of[node]
        left = self.holders.elements(maker)
        found = [Access(self._value(maker), left)] if left else []
        return found + [Access(self._value(part), numel(part)) for part in self.holders.slices.get(maker, ())]

    def inside(self, operand: Inner, name: str, elements: int, times: int = 1) -> list[Access]:
        """What an operator holds inside, written `times` times over, and read as often."""
        site = self.sites.get(operand)
        rows = value_rows(site) if site else 1
        held = Held(name, elements, rows, site=site.name if site else None)
        self.times[operand] = times
        return [Access(self._hold(operand, held), elements * times)]

    def role(self, node: fx.Node) -> Role | None:
        """The role of the site of the tensor that `node` lies in."""
        maker = self.holders.of.get(node, root(node))
        site = self.holders.site.get(maker) or self.sites.get((maker, None))
        return None if site is None else site.role

    def is_input(self, operand: Operand) -> bool:
        """Whether `operand` is an input of the model, or a part of one."""
        maker = self.holders.of.get(operand) if isinstance(operand, fx.Node) else None
        return maker is not None and root(maker).op == "placeholder"

    def _value(self, maker: fx.Node) -> int:
        site = self.holders.site.get(maker) or self.sites.get((maker, None))
        bits = 8 * maker.meta["val"].dtype.itemsize + (128 if "nnz" in maker.meta else 0)  # two indices of a number
        path = module_path(maker)
        name = site.name if site else f"{path}:{maker.name}" if path else maker.name
        rows = value_rows(site) if site else 1
        elements = self.holders.elements(maker)
        place = self._hold(maker, Held(name, elements, rows, bits, site.name if site else None))
        if site is not None and site.bin is not None:
            self.bins[place] = Rows(maker.meta["binned"], maker.meta["bin"], site.bin.label)
        return place

    def _stored(self, node: fx.Node) -> int:
        name, tensor = str(node.target), self.stored[str(node.target)]
        site = self.sites.get((node, None))
        rows = tensor.shape[site.axis] if site else 1
        bits = 8 * tensor.element_size()
        return self._hold(node, Held(name, tensor.numel(), rows, bits, site.name if site else None, is_parameter=True))

    def _hold(self, operand: Operand, held: Held) -> int:
        if operand not in self.place:
            self.place[operand] = len(self.held)
            self.held.append(held)
        return self.place[operand]
