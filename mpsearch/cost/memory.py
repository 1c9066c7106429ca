"""Memory of an assignment, exact, from tables of integers in bits.

How many bits a tensor takes in a format is asked of its grid (`Packed`); nothing here knows a format.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from itertools import product

import numpy as np
from numpy.typing import NDArray

from mpsearch.core.assignment import Assignment
from mpsearch.core.format import FP32, Format
from mpsearch.core.space import Space
from mpsearch.cost.terms import Cost, Ints, Terms


@dataclass(frozen=True)
class Packed:
    """What a tensor takes in one format, in bits: all that is stored, the codes alone, and what is static."""

    bits: int
    code_bits: int
    static_bits: int


PackedAt = Callable[[str, Format], Packed]


@dataclass(frozen=True)
class Parameter:
    """A stored tensor of the model.

    Args:
        float_bits: its size as it is.
        site: name of its site, or None if it stays as it is.
        counts: whether it is the weight of a conv, linear or recurrent layer, which average bits are taken over.
        elements: its size.
        correction_bits: what a bias adds that the layer has only when its weight is quantized.
    """

    float_bits: int
    site: str | None = None
    counts: bool = False
    elements: int = 0
    correction_bits: int = 0


@dataclass(frozen=True)
class Value:
    """A value that the model makes while it runs.

    Args:
        float_bits: its size as it is made.
        born, dies: first and last step at which it is held, both inclusive.
        site: name of its site, or None.
        is_feature: whether it is a node feature or an attention of a GNN.
    """

    float_bits: int
    born: int
    dies: int
    site: str | None = None
    is_feature: bool = False


@dataclass(frozen=True)
class Memory:
    """The memory measures of assignments.

    * `memory_bytes`: tensor bytes of the packed artefact: every parameter and buffer, scales, zero points and static
      grids of quantized values; tied storage once.
    * `activation_sum_bytes`: all values of one batch. `activation_peak_bytes`: those held at the worst step.
    * `feature_bytes`: node features and attention of a GNN, the memory that SGQuant counts (arXiv 2007.05100).
    * `weight_bits`: code bits per element of the conv, linear and recurrent weights, scales apart.
    """

    parameters: tuple[Parameter, ...]
    values: tuple[Value, ...]
    packed: PackedAt = field(repr=False)
    knows_lifetimes: bool = True
    """Whether `born` and `dies` of the values mean anything; without them there is no peak."""

    def measures(self, assignment: Assignment) -> dict[str, float]:
        """All measures; whole numbers except `weight_bits`."""
        stored, codes = self._fixed_bits, self._fixed_code_bits
        for parameter in self._sited:
            assert parameter.site is not None
            fmt = assignment.at(parameter.site)
            if fmt == FP32:
                stored += parameter.float_bits
                codes += 32 * parameter.elements if parameter.counts else 0
            else:
                packed = self.packed(parameter.site, fmt)
                stored += packed.bits + parameter.correction_bits
                codes += packed.code_bits if parameter.counts else 0
        static, of_values = self._of_values(tuple(map(assignment.at, self._values_of)))
        measures: dict[str, float] = {"memory_bytes": (stored + static + 7) // 8, **of_values}
        if self._counted:
            measures["weight_bits"] = codes / self._counted
        return measures

    def cost(self, name: str, space: Space) -> Cost | None:
        """The measure `name` as tables over the choices of `space`; None if it is not one of these measures.

        It equals what `measures` gives, for every assignment of the space.
        """
        stored, codes, static, sizes = self._tables(space)
        if name == "memory_bytes":
            together = [a + b for a, b in zip(stored, static, strict=True)]
            return Cost((Terms.of(together, self._float_bits),), per=8, whole=True)
        if name == "weight_bits" and self._counted:
            return Cost((Terms.of(codes, 32 * self._counted),), per=self._counted)
        held = {"activation_sum_bytes": np.ones((1, len(self.values)), dtype=np.int64)}
        if self._features.any():
            held["feature_bytes"] = self._features[None].astype(np.int64)
        if self.knows_lifetimes:
            held["activation_peak_bytes"] = self._alive
        if name not in held:
            return None
        rows = [
            Terms.of([row @ saved for saved in sizes], int(row @ self._value_bytes))
            for row in np.unique(held[name], axis=0)
        ]
        return Cost(tuple(rows))

    def _tables(self, space: Space) -> tuple[list[Ints], list[Ints], list[Ints], list[Ints]]:
        """What each option adds to float, by choice: stored, code, static bits [options]; bytes [values, options]."""
        stored_of, codes_of, static_of, sizes_of = list[Ints](), list[Ints](), list[Ints](), list[Ints]()
        by_site = {p.site: p for p in self._sited}
        for choice in space.choices:
            n = len(choice.options)
            stored, codes, static = (np.zeros(n, dtype=np.int64) for _ in range(3))
            sizes = np.zeros((len(self.values), n), dtype=np.int64)
            for (k, fmt), site in product(enumerate(choice.options), choice.sites):
                if fmt == FP32:
                    continue
                packed = self.packed(site, fmt)
                if site in by_site:
                    parameter = by_site[site]
                    stored[k] += packed.bits + parameter.correction_bits - parameter.float_bits
                    codes[k] += packed.code_bits - 32 * parameter.elements if parameter.counts else 0
                if site in self._values_of:
                    at = self._values_of[site]
                    static[k] += packed.static_bits
                    sizes[at, k] = (packed.code_bits + 7) // 8 - self._value_bytes[at]
            stored_of.append(stored)
            codes_of.append(codes)
            static_of.append(static)
            sizes_of.append(sizes)
        return stored_of, codes_of, static_of, sizes_of

    @cached_property
    def _of_values(self) -> Callable[[tuple[Format, ...]], tuple[int, dict[str, float]]]:
        """Static bits and measures by the formats of the values; neighbours in a search often share them."""

        @lru_cache(maxsize=1024)
        def measure(formats: tuple[Format, ...]) -> tuple[int, dict[str, float]]:
            static, sizes = 0, self._value_bytes.copy()
            for (site, at), fmt in zip(self._values_of.items(), formats, strict=True):
                if fmt != FP32:
                    packed = self.packed(site, fmt)
                    static += packed.static_bits
                    sizes[at] = (packed.code_bits + 7) // 8
            measures: dict[str, float] = {"activation_sum_bytes": int(sizes.sum())}
            if self.knows_lifetimes:
                held = np.zeros(self._steps + 1, dtype=np.int64)
                np.add.at(held, self._born, sizes)
                np.subtract.at(held, self._dies + 1, sizes)
                measures["activation_peak_bytes"] = int(np.cumsum(held).max(initial=0))
            if self._features.any():
                measures["feature_bytes"] = int(sizes[self._features].sum())
            return static, measures

        return measure

    @cached_property
    def _sited(self) -> tuple[Parameter, ...]:
        return tuple(p for p in self.parameters if p.site is not None)

    @cached_property
    def _float_bits(self) -> int:
        return sum(p.float_bits for p in self.parameters)

    @cached_property
    def _alive(self) -> Ints:
        """Whether each value is held [steps, values], at the steps that matter: no other holds all that and more."""
        steps = np.arange(self._steps)[:, None]
        alive = np.unique((self._born <= steps) & (steps <= self._dies), axis=0)
        held = alive.astype(np.float32)
        within = held @ held.T == held.sum(axis=1, keepdims=True)
        kept: Ints = alive[within.sum(axis=1) == 1].astype(np.int64)
        return kept

    @cached_property
    def _fixed_bits(self) -> int:
        return sum(p.float_bits for p in self.parameters if p.site is None)

    @cached_property
    def _fixed_code_bits(self) -> int:
        return sum(32 * p.elements for p in self.parameters if p.site is None and p.counts)

    @cached_property
    def _counted(self) -> int:
        return sum(p.elements for p in self.parameters if p.counts)

    @cached_property
    def _values_of(self) -> Mapping[str, int]:
        return {v.site: i for i, v in enumerate(self.values) if v.site is not None}

    @cached_property
    def _value_bytes(self) -> NDArray[np.int64]:
        return np.array([(v.float_bits + 7) // 8 for v in self.values], dtype=np.int64)

    @cached_property
    def _born(self) -> NDArray[np.int64]:
        return np.array([v.born for v in self.values], dtype=np.int64)

    @cached_property
    def _dies(self) -> NDArray[np.int64]:
        return np.array([v.dies for v in self.values], dtype=np.int64)

    @cached_property
    def _features(self) -> NDArray[np.bool_]:
        return np.array([v.is_feature for v in self.values], dtype=bool)

    @cached_property
    def _steps(self) -> int:
        return max((v.dies for v in self.values), default=0) + 1
