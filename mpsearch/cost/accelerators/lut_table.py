"""Tables of measured or simulated times: what each operation takes at each pair of widths, looked up.

A table knows one model on one batch. `mpsearch profile` makes one for the processor at hand; vendors and simulators
give others, such as that of HAQ (Wang et al., arXiv 1811.08886) with 53 layers at 8 x 8 widths.

    time = fixed + sum over operations of (entry at its widths + its conversions)

An operation runs at the narrowest pair of widths in the table that holds what was asked. On floats it converts the
codes of its neighbours (`mpsearch.cost.conversions`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial

from mpsearch.core.errors import BadInput, nearest
from mpsearch.core.format import Format
from mpsearch.core.width import FLOAT32, Width
from mpsearch.cost.accelerators.base import Accelerator, Run
from mpsearch.cost.accelerators.lut_card import LutCard, Pair
from mpsearch.cost.accelerators.precision import holds
from mpsearch.cost.conversions import asked, dequantized, inputs, is_code, quantized
from mpsearch.cost.machine import this_machine
from mpsearch.cost.sums import Part
from mpsearch.cost.workload import Access, Kind, Operation, Workload
from mpsearch.spec.card import Card

PICO = 10**12


class LutTable(Accelerator):
    """The table of its card.

    Every operation that it lists needs an entry that holds float32, which the float model runs at. Who has a table of
    integers alone writes one, so that what is assumed of floats is said.
    """

    kind = "lut_table"
    card_type = LutCard

    def __init__(self, card: Card) -> None:
        super().__init__(card)
        assert isinstance(card, LutCard)
        self.table, self.measurement, self.machine = card.table, card.measurement, card.machine
        self.entries = card.entries()
        self._pairs = _rising({pair for pairs in self.entries.values() for pair in pairs})
        self._pairs_of = {name: _rising(pairs) for name, pairs in self.entries.items()}

    def promote(self, kind: Kind, weight: Width, value: Width) -> Pair:
        """Among all pairs of the table; an operation that lacks the pair runs at the next that it has."""
        del kind
        return _at(self._pairs, weight, value)

    def seconds(self, run: Run) -> float:
        """The entry of one operation, without conversions; 0 for what the table does not list."""
        return self._entry(run.operation, run.weight, run.value)[1]

    def fuses(self, producer: Operation, reader: Operation) -> bool:
        """Nothing: the table has a row for each operation."""
        del producer, reader
        return False

    def refuses(self, measure: str) -> str | None:
        """Also on another machine than the one that was measured."""
        if measure == "latency_s" and self.machine is not None:
            differences = self.machine.differences(this_machine())
            if differences:
                return f"{'; '.join(differences)}; measure this machine with mpsearch profile"
        return super().refuses(measure)

    def parts(self, workload: Workload) -> list[Part]:
        """One per operation, and one per input of the model that can be quantized.

        Raises `BadInput` where the table is of another model, another batch or other operations.
        """
        self._check(workload)
        found = []
        for access in inputs(workload):
            held = workload.tensors[access.tensor]
            assert held.site is not None
            found.append(Part(f"{held.name} (input)", (held.site,), partial(self._input_units, access)))
        for operation in workload.operations:
            found.append(Part(operation.name, workload.sites(operation), partial(self._units, workload, operation)))
        return found

    def _units(self, workload: Workload, operation: Operation, formats: tuple[Format, ...]) -> int:
        at = dict(zip(workload.sites(operation), formats, strict=True))
        weight, value = asked(workload, operation, at, self.table.integer_results)
        pair, seconds = self._entry(operation, weight, value)
        if any(wide.is_float for wide in pair):
            paid = self.table.conversions
            seconds += dequantized(workload, operation, at) * paid.dequantize_s.get(operation.kind, 0.0)
            seconds += quantized(workload, operation, at) * paid.quantize_s.get(operation.kind, 0.0)
        return round(seconds * self.card.calibration.slope * PICO)

    def _input_units(self, access: Access, formats: tuple[Format, ...]) -> int:
        (fmt,) = formats
        each_s = self.table.conversions.quantize_s.get("input", 0.0) if is_code(fmt) else 0.0
        return round(access.elements * each_s * self.card.calibration.slope * PICO)

    def _entry(self, operation: Operation, weight: Width, value: Width) -> tuple[Pair, float]:
        """The pair that it runs at, and what it takes there: nothing for what the table does not list."""
        pairs = self.entries.get(operation.name)
        if pairs is None:
            return _at(self._pairs, weight, value), 0.0
        pair = _at(self._pairs_of[operation.name], weight, value)
        return pair, pairs[pair]

    def _check(self, workload: Workload) -> None:
        name, made = self.card.name, self.measurement
        if made is not None and made.samples != workload.samples:
            raise BadInput(
                f"{name} was measured on batches of {made.samples}, and this model runs on {workload.samples}: "
                "set the batch size back, or measure again with mpsearch profile."
            )
        if made is not None and made.workload_sha256 != workload.digest:
            raise BadInput(
                f"{name} was measured on another model (its operations, their sizes or their sites differ): "
                "measure this one with mpsearch profile."
            )
        known = {operation.name for operation in workload.operations}
        strange = [row for row in (*self.entries, *self.table.integer_results) if row not in known]
        if strange:
            raise BadInput(f"{name}: the model has no operation {strange[0]!r}.{nearest(strange[0], known)}")
        wide = [row for row, pairs in self._pairs_of.items() if not any(holds(w, FLOAT32) for w in pairs[-1])]
        if wide:
            raise BadInput(
                f"{name}: {wide[0]!r} has no row for fp32 x fp32, which the float model runs at; add one. In a table "
                "of integers alone, the time of the widest is the least that floats can take."
            )
        lacking = [o.name for o in workload.operations if o.kind.is_matrix and o.name not in self.entries]
        if lacking:
            raise BadInput(f"{name}: the table has no row for {', '.join(lacking)}; add what they take at each width.")


def _rising(pairs: Iterable[Pair]) -> list[Pair]:
    """From the narrowest to the widest; integers before floats of their size."""
    return sorted(pairs, key=lambda pair: (sum(w.bits for w in pair), sum(w.is_float for w in pair), pair[0].bits))


def _at(rising: Sequence[Pair], weight: Width, value: Width) -> Pair:
    """The first pair that holds both widths, else the last."""
    return next((pair for pair in rising if holds(pair[0], weight) and holds(pair[1], value)), rising[-1])
