"""The memoizing interpreter: runs a program for one assignment after another and recomputes only what changed.

Every value has a *version*: a number that stands for (step, versions of its inputs, format of its own site). Two
assignments that agree upstream of a step give it the same version, so its value can be taken from the cache. Versions
do not depend on the data, so the same number serves every batch and the calibration data.

Results are the same bit for bit whatever the cache holds: a step always runs the same operator on the same values.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from mpsearch.core.format import FP32, Format
from mpsearch.graph.memo import Memo
from mpsearch.graph.program import Kind, Program, Ref, Step
from mpsearch.quant.grid import Grid


class Grids(Protocol):
    """Quantized parameters and grids of values, by site index and format."""

    def parameter(self, site: int, fmt: Format) -> Tensor:
        """The parameter moved to its grid, on the program's device."""

    def grid(self, site: int, fmt: Format) -> Grid:
        """The grid of a value."""


class Corrector(Protocol):
    """Knows what to add to the bias of a quantized layer."""

    def correction(self, step: Step, fmt: Format, version: int) -> Tensor | None:
        """What the layer's bias is corrected by, [channels]; None for nothing. Known before it is asked for."""

    def learn(self, step: Step, fmt: Format, version: int, outputs: Sequence[Tensor]) -> Tensor | None:
        """The same, worked out from the layer's uncorrected outputs on the calibration batches."""

    def forget(self) -> None:
        """Drop what was learned."""


class Stream:
    """Data that flows through a program: one batch, or several in lockstep (the calibration batches).

    Args:
        name: key of its values in the cache.
        batches: flat inputs, per batch.
        share: size relative to the measured batch, for the count of multiply-accumulates.
        calibrates: whether corrections are learned from this stream.
    """

    def __init__(
        self, name: Hashable, batches: Sequence[Sequence[Any]], share: float = 1.0, calibrates: bool = False
    ) -> None:
        self.name = name
        self.share = share
        self.calibrates = calibrates
        self.batches = [list(batch) for batch in batches]
        self.single = len(batches) == 1
        self.constants: dict[int, Any] | None = None


Visit = Callable[[Step, Any], None]


class Interpreter:
    """Runs `program`. One assignment is current at a time; `assign` moves to the next.

    Args:
        grids: where quantized parameters and grids come from.
        cache_bytes: how much the cache of values may hold.
    """

    MAX_VERSIONS = 1_000_000

    def __init__(self, program: Program, grids: Grids, cache_bytes: int) -> None:
        self.program = program
        self.grids = grids
        self.memo = Memo(cache_bytes)
        self.macs_done = 0.0
        self._asked_before: set[tuple[Hashable, int]] = set()
        self._path: dict[tuple[Hashable, int], int] = {}
        self.corrector: Corrector | None = None
        self._formats: list[Format] = [FP32] * len(program.sites)
        self._versions = [0] * len(program.steps)
        self._interned: list[dict[Any, int]] = [{} for _ in program.steps]
        self._count = 0
        self._variable = [tuple(i for i in s.inputs if program.steps[i].upstream) for s in program.steps]
        self._templates = [_Template(s.arguments, s.keywords) for s in program.steps]
        self._renumber(range(len(program.steps)))

    def version(self, step: int) -> int:
        """Of the current assignment; 0 if nothing upstream can change."""
        return self._versions[step]

    @property
    def formats(self) -> list[Format]:
        """Of the current assignment, per site."""
        return list(self._formats)

    def assign(self, formats: Sequence[Format]) -> None:
        """Make `formats`, one per site of the program, the current assignment."""
        pairs = enumerate(zip(self._formats, formats, strict=True))
        changed = [i for i, (a, b) in pairs if a is not b and a != b]
        if not changed:
            return
        self._formats = list(formats)
        if len(changed) == 1:
            self._renumber(self.program.downstream[changed[0]])
        else:
            self._renumber(sorted(set().union(*(self.program.downstream[i] for i in changed))))

    def trim(self) -> None:
        """Forget everything once too many versions are known. For between evaluations: within one, what was prepared
        would be lost."""
        if self._count > self.MAX_VERSIONS:
            self.forget()

    def forget(self) -> None:
        """Drop every value and correction; they are computed again when needed."""
        self._count = 0
        self.memo.clear()
        self._asked_before.clear()
        self._path.clear()
        if self.corrector is not None:
            self.corrector.forget()
        for known in self._interned:
            known.clear()
        self._renumber(range(len(self.program.steps)))

    def _renumber(self, steps: Sequence[int]) -> None:
        versions, all_steps = self._versions, self.program.steps
        for i in steps:
            step = all_steps[i]
            if not step.upstream:
                continue
            key: Any
            if step.site is not None:
                fmt = self._formats[step.site]
                if step.kind is Kind.VALUE:
                    source = versions[step.inputs[0]]
                    if fmt == FP32 and source and not step.after_relu:
                        versions[i] = source  # the same tensor under the same number
                        continue
                    key = (fmt, source)
                else:
                    key = fmt
            else:
                inputs = self._variable[i]
                key = versions[inputs[0]] if len(inputs) == 1 else tuple(versions[j] for j in inputs)
            known = self._interned[i]
            number = known.get(key)
            if number is None:
                self._count += 1
                number = known[key] = self._count
            versions[i] = number

    def run(self, stream: Stream) -> tuple[Any, ...]:
        """Flat outputs of the current assignment on a stream of one batch."""
        last = len(self.program.steps) - 1
        return self.pull(stream, [last])[last]

    @torch.no_grad()
    def pull(self, stream: Stream, targets: Sequence[int], visit: Visit | None = None) -> dict[int, Any]:
        """Values of `targets` for the current assignment, computing what the cache lacks.

        With `visit`, the cache is neither read nor written: each step's value is shown to `visit`, none is returned.
        """
        constants = self.constants(stream)
        steps, versions, memo, name = self.program.steps, self._versions, self.memo, stream.name
        values: dict[int, Any] = {}
        missing: list[int] = []
        readers: dict[int, int] = {}
        seen: set[int] = set()
        stack = list(targets)
        while stack:
            i = stack.pop()
            if i in seen:
                continue
            seen.add(i)
            if not steps[i].upstream:
                values[i] = constants[i]
                continue
            cached = None if visit else memo.get((name, versions[i]))
            if cached is not None:
                values[i] = cached
                continue
            missing.append(i)
            for j in steps[i].inputs:
                readers[j] = readers.get(j, 0) + 1
                if j not in seen:
                    stack.append(j)
        missing.sort()
        held = set(targets) if visit is None else set()
        owned: set[int] = set()
        for i in missing:
            step = steps[i]
            value, fresh = self._compute(stream, step, values, owned)
            values[i] = value
            if visit is not None:
                visit(step, value)
                kept = False
            else:
                kept = step.keep and self._keep(step, (name, versions[i]), value)
            if fresh and not kept and i not in held:
                owned.add(i)
            for j in step.inputs:
                readers[j] -= 1
                if not readers[j] and j not in held:
                    values.pop(j, None)
        return {i: values[i] for i in held}

    def _keep(self, step: Step, key: tuple[Hashable, int], value: Any) -> bool:
        if step.hesitates and key not in self._asked_before:
            self._asked_before.add(key)
            return False
        name, version = key
        before = self._path.get((name, step.index))
        if before is not None and before != version:
            self.memo.demote((name, before))  # off the current path: a walk in order does not come back to it
        self._path[name, step.index] = version
        return self.memo.put(key, value)

    def constants(self, stream: Stream) -> dict[int, Any]:
        """What depends on no site, computed once per stream; only what a variable step reads is held."""
        if stream.constants is None:
            steps = self.program.steps
            needed = {
                j for s in steps if s.upstream or s.kind is Kind.OUTPUT for j in s.inputs if not steps[j].upstream
            }
            if not steps[-1].upstream:
                needed.add(len(steps) - 1)
            values: dict[int, Any] = {}
            position = 0
            last_reader = {j: s.index for s in steps if not s.upstream for j in s.inputs}
            for step in steps:
                if step.kind is Kind.INPUT:
                    leaves = [batch[position] for batch in stream.batches]
                    values[step.index] = leaves[0] if stream.single else leaves
                    position += 1
                elif not step.upstream:
                    values[step.index], _ = self._compute(stream, step, values, set())
                for j in step.inputs if not step.upstream else ():
                    if last_reader[j] == step.index and j not in needed:
                        values.pop(j, None)
            stream.constants = {i: v for i, v in values.items() if i in needed}
        return stream.constants

    def _compute(self, stream: Stream, step: Step, values: dict[int, Any], owned: set[int]) -> tuple[Any, bool]:
        """The value of a step, and whether it is a new tensor that nobody else holds."""
        if step.kind is Kind.CALL:
            self.macs_done += step.macs * stream.share
            if step.corrected is not None and self.corrector is not None:
                return self._corrected(stream, step, values), True
            call = step.call
            for victim, form in step.overwrites:
                if victim in owned and stream.single:
                    call = form
                    break
            return self._call(stream, step, call, values), step.fresh
        if step.kind is Kind.VALUE:
            assert step.site is not None
            fmt, value = self._formats[step.site], values[step.inputs[0]]
            grid = None if fmt == FP32 else self.grids.grid(step.site, fmt)
            if not stream.single:
                return [_quantized(v, grid, step.after_relu, False) for v in value], True
            in_place = step.exclusive and step.inputs[0] in owned
            fresh = grid is not None or step.after_relu
            return _quantized(value, grid, step.after_relu, in_place), fresh
        if step.kind is Kind.PARAMETER:
            assert step.site is not None
            value = self.grids.parameter(step.site, self._formats[step.site])
            return (value if stream.single else [value] * len(stream.batches)), False
        if step.kind is Kind.TENSOR:
            value = self.program.tensors[step.name]
            return (value if stream.single else [value] * len(stream.batches)), False
        return self._call(stream, step, _flat, values), False

    def _call(self, stream: Stream, step: Step, call: Any, values: dict[int, Any], bias: Tensor | None = None) -> Any:
        template = self._templates[step.index]
        if stream.single:
            return template.apply(call, values, None, bias)
        return [template.apply(call, values, k, bias) for k in range(len(stream.batches))]

    def _corrected(self, stream: Stream, step: Step, values: dict[int, Any]) -> Any:
        """A layer with its bias corrected.

        On the calibration stream the correction is always added afterwards, also where it is known already, so that a
        value computed again is the same bit for bit.
        """
        assert self.corrector is not None
        assert step.corrected is not None
        fmt, version = self._formats[step.corrected], self._versions[step.index]
        if not stream.calibrates:
            return self._call(stream, step, step.call, values, self.corrector.correction(step, fmt, version))
        outputs = self._call(stream, step, step.call, values)
        flat = [outputs] if stream.single else outputs
        added = self.corrector.learn(step, fmt, version, flat)
        if added is not None:
            for output in flat:
                output.add_(along(added, output.ndim, step.channel_axis))
        return outputs


def _quantized(value: Tensor, grid: Grid | None, after_relu: bool, in_place: bool) -> Tensor:
    """`value` on its grid (None is float), after a ReLU if there is one; in place only where nobody else holds it."""
    if after_relu and not (grid is not None and grid.absorbs_relu):
        value = torch.relu_(value) if in_place else torch.relu(value)
        in_place = True
    if grid is None:
        return value
    return grid.round_trip_(value) if in_place else grid.round_trip(value)


def along(vector: Tensor, ndim: int, axis: int) -> Tensor:
    """`vector` shaped to broadcast along `axis` of a tensor with `ndim` axes."""
    return vector.view([-1 if i == axis else 1 for i in range(ndim)])


def _flat(*values: Any) -> tuple[Any, ...]:
    return values


class _Template:
    """The arguments of a call with places to fill in, so that a call costs no tree walk."""

    def __init__(self, arguments: Sequence[Any], keywords: Mapping[str, Any]) -> None:
        self.arguments = [list(a) if isinstance(a, (list, tuple)) else a for a in arguments]
        self.keywords = dict(keywords)
        self.places = [(i, a.step) for i, a in enumerate(arguments) if isinstance(a, Ref)]
        self.nested = [
            (i, j, b.step)
            for i, a in enumerate(arguments)
            if isinstance(a, (list, tuple))
            for j, b in enumerate(a)
            if isinstance(b, Ref)
        ]
        self.named = [(key, a.step) for key, a in keywords.items() if isinstance(a, Ref)]

    def apply(self, call: Any, values: Mapping[int, Any], batch: int | None, bias: Tensor | None) -> Any:
        """Call with the values of one batch; `bias` is added to the third argument."""
        arguments = self.arguments.copy()
        for i, step in self.places:
            arguments[i] = values[step] if batch is None else values[step][batch]
        if self.nested:
            for i in {i for i, _, _ in self.nested}:
                arguments[i] = list(arguments[i])
            for i, j, step in self.nested:
                arguments[i][j] = values[step] if batch is None else values[step][batch]
        if bias is not None:
            own = arguments[2] if len(arguments) > 2 else None
            arguments[2:3] = [bias if own is None else own + bias]
        if not self.keywords:
            return call(*arguments)
        keywords = self.keywords.copy()
        for key, step in self.named:
            keywords[key] = values[step] if batch is None else values[step][batch]
        return call(*arguments, **keywords)
