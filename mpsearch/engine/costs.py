"""`costs.json`: where the costs of a run's assignments come from, and how far those of accelerators can be trusted.

It is written while the problem is there, so that pictures and reports do without building the model again.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mpsearch.core.errors import BadInput
from mpsearch.core.evaluation import BASE, Evaluation
from mpsearch.cost.accelerators.base import Capacity
from mpsearch.engine.capacity import narrowest
from mpsearch.engine.measures import is_cost, split
from mpsearch.problem.base import Problem
from mpsearch.spec.schema import Spec

FILE = "costs.json"
COSTS_SCHEMA = "mpsearch.costs/1"
MEANING = {
    "analytic": "computed from the figures of the card, which no measured runs confirm: good for comparing "
    "assignments, not a time or an energy that a device was seen to take",
    "calibrated": "the model of the card, fitted to measured runs of whole models",
    "measured": "taken on the device itself",
}
_ALWAYS = "memory_bytes"
"""A cost whose shares are kept whether it is a goal or not."""
_SMALL = 5e-3
"""Share of a cost below which a part is not worth a row."""


@dataclass(frozen=True)
class Device:
    """What a reader of its figures should know of an accelerator.

    Args:
        name, kind, status, note: as the card says.
        anchors: measured runs that it was fitted to; 0 where it was not.
        heldout_mape: mean absolute error on runs that it was not fitted to, as a share; None where not known.
        capacities: of the memories that an assignment must fit into.
    """

    name: str
    kind: str
    status: str
    note: str | None = None
    anchors: int = 0
    heldout_mape: float | None = None
    capacities: tuple[Capacity, ...] = ()

    @classmethod
    def read(cls, capacities: Sequence[Mapping[str, Any]] = (), **known: Any) -> Device:
        """As `costs.json` has it."""
        return cls(**known, capacities=tuple(Capacity(**capacity) for capacity in capacities))

    @property
    def fitted(self) -> str:
        """How it was fitted to measured runs, for people; empty where it was not."""
        error = "" if self.heldout_mape is None else f", on average {self.heldout_mape:.1%} off on others"
        return f"Fitted to {self.anchors} measured runs{error}" if self.anchors else ""


@dataclass(frozen=True)
class Costs:
    """Facts about the costs of a run.

    Args:
        status: of measures of accelerators: `analytic`, `calibrated` or `measured`.
        notes: which widths run as wider ones, and what does not fit into a memory, one sentence each.
        devices: that the goals name.
        samples: scored of the batch that latency, energy and activations are of; None where not known.
        shares: by measure and key of the evaluation, what each site or operation adds, in the unit of the measure.
    """

    status: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    devices: tuple[Device, ...] = ()
    samples: int | None = None
    shares: Mapping[str, Mapping[str, Mapping[str, float]]] = field(default_factory=dict)

    @classmethod
    def of(cls, problems: Mapping[str, Problem], spec: Spec, evaluations: Iterable[Evaluation]) -> Costs:
        """Of the goals of `spec` that are costs, and of `memory_bytes`, at each of `evaluations`.

        Args:
            problems: by variant.
        """
        wanted = {e.key: e for e in evaluations}
        names = dict.fromkeys([*(g.measure for g in spec.goals if is_cost(g.measure)), _ALWAYS])
        shares = {
            name: {key: problems[e.variant].shares(name, e.assignment) for key, e in wanted.items()} for name in names
        }
        known = {name: found for name, found in shares.items() if any(found.values())}
        base, devices = problems[BASE], _devices(spec)
        samples = base.batch_sizes[0] if base.batch_sizes else None
        notes: dict[str, None] = {}
        for variant, problem in problems.items():
            fits = [note for device in devices for note in narrowest(problem, device.name, device.capacities, samples)]
            whose = "" if variant == BASE else f"{variant}: "
            notes |= dict.fromkeys([*problem.notes, *(whose + note for note in fits)])
        return cls(dict(base.status), tuple(notes), devices, samples, known)

    @classmethod
    def read(cls, folder: Path) -> Costs:
        """As the run folder has it; empty where it has none. Raises `BadInput` on a damaged file."""
        path = folder / FILE
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            devices = tuple(Device.read(**device) for device in found["accelerators"])
            shares = {name: _unpacked(**packed) for name, packed in found["shares"].items()}
            return cls(found["status"], tuple(found["notes"]), devices, found["samples"], shares)
        except FileNotFoundError:
            return cls()
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise BadInput(f"{path}: not readable ({error}); delete it and resume the run to make it again.") from None

    def text(self) -> str:
        """The content of `costs.json`."""
        document = {
            "schema": COSTS_SCHEMA,
            "status": dict(self.status),
            "notes": list(self.notes),
            "accelerators": [asdict(device) for device in self.devices],
            "samples": self.samples,
            "shares": {name: _packed(found) for name, found in self.shares.items()},
        }
        return json.dumps(document, allow_nan=False) + "\n"

    def labelled(self, measure: str) -> str:
        """The name with the status of its figures: `latency_s@nvidia-t4 (analytic)`; `memory_bytes` as it is."""
        status = self.status.get(measure)
        return f"{measure} ({status})" if status else measure

    def of_device(self, device: Device) -> list[str]:
        """The measures that are meant for `device`."""
        return [name for name in self.status if split(name)[1] == device.name]


def gathered(columns: Sequence[Mapping[str, float]], most: int = 40) -> list[tuple[str, list[float]]]:
    """What each part adds to each of `columns`, in the order of computation, as at most so many rows.

    The largest by share stay, and the rest become one last row, `others (n)`, as does what is below 1/200. Parts that
    add nothing are left out.
    """
    totals = [sum(map(abs, column.values())) or 1.0 for column in columns]
    rows = {
        name: [column.get(name, 0.0) for column in columns] for name in dict.fromkeys(n for c in columns for n in c)
    }
    share = {name: max(abs(v) / t for v, t in zip(row, totals, strict=True)) for name, row in rows.items() if any(row)}
    ranked = sorted(share, key=lambda name: -share[name])
    large = sum(value >= _SMALL for value in share.values())
    kept = set(ranked if len(ranked) <= min(most, large + 1) else ranked[: min(most - 1, large)])
    found = [(name, row) for name, row in rows.items() if name in kept]
    rest = [rows[name] for name in share if name not in kept]
    return [*found, (f"others ({len(rest)})", [sum(column) for column in zip(*rest, strict=True)])] if rest else found


def shortened(name: str, most: int = 34) -> str:
    """A name of at most so many characters: `encoder.layers.12.attn.query` becomes `e.l.12.attn.query`.

    Modules are cut to their first letter, the outer ones first, and numbers stay; what is still too long loses its
    middle.
    """
    parts = name.split(".")
    for i, part in enumerate(parts[:-1]):
        if len(".".join(parts)) > most and not part.isdigit():
            parts[i] = part[:1]
    text = ".".join(parts)
    return text if len(text) <= most else f"{text[: most // 3]}…{text[-(most - most // 3 - 1) :]}"


def _devices(spec: Spec) -> tuple[Device, ...]:
    if not any(goal.accelerator for goal in spec.goals):
        return ()
    from mpsearch.problem.costs import accelerators  # late: few runs need the cards

    named = {device.card.name: device for device in accelerators(spec).values()}
    return tuple(
        Device(card.name, card.kind, card.status, card.note, line.n_anchors, line.heldout_mape, device.capacities)
        for device, card, line in ((d, d.card, d.card.calibration) for d in named.values())
    )


def _packed(found: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """Each part named once: `parts`, and by key a row of numbers in that order."""
    parts = list(dict.fromkeys(name for shares in found.values() for name in shares))
    return {"parts": parts, "of": {key: [shares.get(p, 0) for p in parts] for key, shares in found.items()}}


def _unpacked(parts: Sequence[str], of: Mapping[str, Sequence[float]]) -> dict[str, dict[str, float]]:
    return {key: dict(zip(parts, row, strict=True)) for key, row in of.items()}
