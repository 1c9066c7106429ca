"""What every picture, table and tracking run shows of a `RunResult`: named points, bit summaries, plain numbers.

Nothing here is stored: all of it follows from the result and, where the run folder has them, from `sites.json` and
`costs.json`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Literal

from mpsearch.core.assignment import Assignment
from mpsearch.core.evaluation import BASE, Evaluation
from mpsearch.core.goal import Goal
from mpsearch.core.site import Role
from mpsearch.engine.costs import Costs
from mpsearch.engine.folder import Folder
from mpsearch.engine.measures import (
    DIGITS,
    digits_apart,
    is_cost,
    log2_of,
    number,
    ratio_name,
    spoken,
    with_error,
)
from mpsearch.engine.result import RunResult

Kind = Literal["float", "uniform", "mixed"]


@dataclass(frozen=True)
class SiteFacts:
    """What a summary needs to know of a site. `elements` weighs averages; `choice` names the decision it is tied to."""

    name: str
    role: Role
    elements: int
    choice: str

    @property
    def is_parameter(self) -> bool:
        """Whether it is stored with the model."""
        return self.role.is_parameter


@dataclass(frozen=True)
class Sites:
    """The sites that have a choice, in model order: from `sites.json`, else guessed from names in the assignments.

    Args:
        facts: of the base.
        others: those of other variants, by name.
    """

    facts: tuple[SiteFacts, ...]
    others: Mapping[str, Sites] = field(default_factory=dict)

    @classmethod
    def of(cls, result: RunResult) -> Sites:
        """Names without a `:` are taken for weights, all of one size, where the folder has no `sites.json`."""
        files = Folder(result.folder)
        if files.sites.is_file():
            others = {v: cls(_facts(files.of(v).sites)) for v in result.spec.by_variant if v != BASE}
            return cls(_facts(files.sites), others)
        names = dict.fromkeys(name for e in result.evaluations for name in e.assignment)
        guessed = {name: Role.ACTIVATION if ":" in name else Role.WEIGHT for name in names}
        return cls(tuple(SiteFacts(name, role, 1, name) for name, role in guessed.items()))

    def of_variant(self, name: str) -> Sites:
        """Those of one variant."""
        return self.others.get(name, self)

    @cached_property
    def choices(self) -> Mapping[str, SiteFacts]:
        """One representative site per choice: parameters first, then values, each in model order."""
        first: dict[str, SiteFacts] = {}
        for site in sorted(self.facts, key=lambda s: not s.is_parameter):
            first.setdefault(site.choice, site)
        return first

    def average_bits(self, assignment: Assignment, parameters: bool) -> float | None:
        """Code bits per element over the parameters (or over the values), float sites included; None without any."""
        sites = [s for s in self.facts if s.is_parameter == parameters]
        elements = sum(s.elements for s in sites)
        return sum(s.elements * assignment.at(s.name).bits for s in sites) / elements if elements else None

    def bits(self, evaluation: Evaluation) -> tuple[float | None, float | None]:
        """Average bits of (parameters, values). A recorded `weight_bits` measure is exact, and preferred."""
        own = self.of_variant(evaluation.variant)
        weights = evaluation.measures.get("weight_bits", own.average_bits(evaluation.assignment, True))
        return weights, own.average_bits(evaluation.assignment, False)

    def summary(self, evaluation: Evaluation) -> str:
        """Average bits in short: `2.4w 8a`, w for weights and a for activation values."""
        pairs = zip(self.bits(evaluation), "wa", strict=True)
        return " ".join(f"{_short(bits)}{letter}" for bits, letter in pairs if bits is not None)


def _facts(path: Path) -> tuple[SiteFacts, ...]:
    entries = [entry for entry in json.loads(path.read_text(encoding="utf-8")) if entry["choice"] is not None]
    return tuple(SiteFacts(e["name"], Role(e["role"]), prod(e["shape"]), e["choice"]) for e in entries)


@dataclass(frozen=True)
class Point:
    """One evaluation as it is shown.

    Args:
        name: `float`, `uniform 4`, or the bit summary of a mixed assignment; its variant before it, `finetuned` behind.
        summary: average bits in short.
        test: the same assignment on the test split, None until it has been scored.
        order: of the evaluation in the ledger, from 1.
        on_front: whether it is a member of the front; controls can be.
        is_knee: whether it is the front's knee.
    """

    name: str
    kind: Kind
    summary: str
    evaluation: Evaluation
    test: Evaluation | None
    order: int
    on_front: bool
    is_knee: bool = False

    @property
    def key(self) -> str:
        """Digest of the assignment and what it was trained by."""
        return self.evaluation.key

    @property
    def aside(self) -> str:
        """Its variant in brackets, for a label of few words; empty for the base."""
        return "" if self.evaluation.variant == BASE else f" ({self.evaluation.variant})"

    @property
    def measures(self) -> Mapping[str, float]:
        """On the validation split; `evaluation` counts the ledger, for the axis of runs with a single goal."""
        return {"evaluation": float(self.order), **self.evaluation.measures}


@dataclass(frozen=True)
class View:
    """A result with its points named. Build it with `View.of`."""

    result: RunResult
    sites: Sites
    costs: Costs
    points: tuple[Point, ...]

    @classmethod
    def of(cls, result: RunResult) -> View:
        """Every evaluation that measured all data becomes one point, in ledger order."""
        sites = Sites.of(result)
        members = {e.key for e in result.front.members}
        knee = result.front.knee().key if result.front.members else None
        named = {e.key: name for name, e in reversed(list(result.uniform.items()))}

        def point(order: int, e: Evaluation) -> Point:
            summary = sites.summary(e)
            kind: Kind = "uniform" if e.key in named else "mixed" if e.assignment or e.is_finetuned else "float"
            what = summary if kind == "mixed" else "float"
            variant, trained = "" if e.variant == BASE else f"{e.variant} ", " finetuned" * e.is_finetuned
            name = named.get(e.key) or f"{variant}{what}{trained}"
            test = result.test.get(e.key)
            test = test if test is not None and test.failure is None else None
            return Point(name, kind, summary, e, test, order, e.key in members, e.key == knee)

        good = {e.key: (order, e) for order, e in enumerate(result.evaluations, 1) if e.is_full}
        return cls(result, sites, Costs.read(result.folder), tuple(point(order, e) for order, e in good.values()))

    @cached_property
    def by_key(self) -> Mapping[str, Point]:
        """Points by assignment key."""
        return {p.key: p for p in self.points}

    @property
    def goals(self) -> tuple[Goal, ...]:
        """Of the run."""
        return self.result.front.goals

    @property
    def front(self) -> list[Point]:
        """Members in the order of the front."""
        return [self.by_key[e.key] for e in self.result.front.members]

    @property
    def nearest(self) -> list[Point]:
        """What came nearest to the limits, where nothing meets them."""
        return [self.by_key[e.key] for e in self.result.front.nearest if e.key in self.by_key]

    @property
    def uniform(self) -> list[Point]:
        """Uniform controls, narrowest first."""
        return [self.by_key[e.key] for e in self.result.uniform.values() if e.key in self.by_key]

    @property
    def baseline(self) -> list[Point]:
        """The float model, that of the base first; empty where it is not among the evaluations."""
        return [p for p in self.points if p.kind == "float"]

    def shown(self) -> list[Point]:
        """Front (or the nearest), then uniform controls, then float; each once."""
        rows = [*(self.front or self.nearest), *self.uniform, *self.baseline]
        return list({p.key: p for p in rows}.values())

    def named(self, goal: Goal) -> str:
        """The goal's name with the status of its figures: `latency_s@nvidia-t4 (analytic)`."""
        return self.costs.labelled(goal.name)

    def spoken(self, goal: Goal) -> str:
        """The goal's name for an axis: `memory`, `latency @ nvidia-t4, analytic`."""
        status = self.costs.status.get(goal.name)
        return spoken(goal.name) + (f", {status}" if status else "")

    @cached_property
    def _digits(self) -> Mapping[str, int]:
        names = [*(goal.name for goal in self.goals), "memory_bytes"]
        return {n: digits_apart(n, [p.measures[n] for p in self.shown() if n in p.measures]) for n in names}

    def number(self, measure: str, value: float) -> str:
        """A value as short as the points that are shown stay apart: two of a front are never alike in every goal."""
        return number(measure, value, self._digits.get(measure, DIGITS))

    def told(self, evaluation: Evaluation, measure: str) -> str:
        """A measure, as short as `number`, with its standard error where one is known."""
        return with_error(evaluation, measure, self._digits.get(measure, DIGITS))

    def ratio(self, point: Point, measure: str) -> float | None:
        """How many times smaller than the float model a cost is; None for other measures and for zeros."""
        ours, base = point.measures.get(measure, 0.0), self.result.baseline.measures.get(measure, 0.0)
        return base / ours if is_cost(measure) and ours > 0 and base > 0 else None

    def ratios(self, point: Point) -> dict[str, float]:
        """`memory_ratio` for `memory_bytes`, and so on: how many times smaller than float each cost is."""
        found = {ratio_name(name): self.ratio(point, name) for name in point.evaluation.measures}
        return {name: ratio for name, ratio in found.items() if ratio is not None}

    def lacks(self, point: Point) -> list[str]:
        """Memories of devices that an assignment does not fit into: `SRAM of cortex-m7-stm32f746`."""
        return [
            f"{capacity.memory} of {device.name}"
            for device in self.costs.devices
            for capacity in device.capacities
            if point.measures.get(f"{capacity.measure}@{device.name}", 0.0) > capacity.bytes
        ]

    def hover(self, point: Point) -> str:
        """What a picture says about a point, in lines of HTML."""
        lines = [f"<b>{point.name}</b>  {'· knee' if point.is_knee else ''}", f"bits {point.summary or 'float'}"]
        for goal in self.goals:
            text = f"{self.named(goal)} {self.told(point.evaluation, goal.name)}"
            if (ratio := self.ratio(point, goal.name)) is not None and ratio != 1:
                text += f" ({ratio:.2g}× smaller)"
            if point.test is not None and goal.name in point.test.measures and not is_cost(goal.name):
                text += f", test {self.number(goal.name, point.test.measures[goal.name])}"
            lines.append(text)
        return "<br>".join([*lines, f"key {point.key[:8]}"])


def pairs(goals: Sequence[Goal]) -> list[tuple[Goal, Goal]]:
    """(horizontal, vertical) goals of each panel: of every two goals, the earlier one goes up.

    A single goal is shown over the number of the evaluation.
    """
    if len(goals) == 1:
        return [(Goal("evaluation"), goals[0])]
    return [(x, y) for i, y in enumerate(goals) for x in goals[i + 1 :]]


def staircase(points: Sequence[Point], x: Goal, y: Goal) -> list[Point]:
    """The points no other beats on both goals, best `x` first: corners of the attained region."""
    best: list[Point] = []
    for point in sorted(points, key=lambda p: (x.loss(p.measures), y.loss(p.measures))):
        if not best or y.loss(point.measures) < y.loss(best[-1].measures):
            best.append(point)
    return best


def focus(view: View, goal: Goal) -> tuple[float, float]:
    """The interval of a goal that a picture shows at first: the front and the float model, with their test scores.

    Uniform controls are included where that does not more than double the interval (a collapsed 2-bit control
    would flatten everything else). Logarithms are base 2 for costs.
    """
    if goal.name == "evaluation":
        return 0.0, float(len(view.points) + 1)

    def values(points: Iterable[Point]) -> list[float]:
        found = []
        for p in points:
            middle, error = p.measures[goal.name], p.evaluation.stderr.get(goal.name, 0.0)
            found += [middle - error, middle + error]
            found += [p.test.measures[goal.name]] if p.test and goal.name in p.test.measures else []
        return [log2_of(v) if goal.on_log_scale else v for v in found]

    core = values([*(view.front or view.nearest), *view.baseline]) or values(view.points) or [0.0]
    low, high = min(core), max(core)
    wide = [low, high, *values(view.uniform)]
    if max(wide) - min(wide) <= 2 * (high - low):
        low, high = min(wide), max(wide)
    pad = 0.07 * (high - low) or 0.05 * abs(high) or 1.0
    return low - pad, high + pad


def _short(bits: float) -> str:
    return f"{bits:.1f}".removesuffix(".0")
