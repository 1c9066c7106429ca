"""The toy with the latency of accelerators in place of its own, so that tests need neither a model nor a card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mpsearch.core.assignment import Assignment
from mpsearch.core.evaluation import Evaluation
from mpsearch.cost.terms import Cost
from mpsearch.engine.costs import Costs, Device
from mpsearch.engine.result import RunResult
from mpsearch.engine.run import run
from mpsearch.spec.schema import Spec
from mpsearch.testing.toy import Toy, toy_spec

NOTE = "nvidia-t4 has no kernel for int2 weights: they run as int4, and gain no time."


class OnCards(Toy):
    """Measures `accuracy`, `memory_bytes` and, for each card, `latency_s@card`: that of the toy times its factor."""

    status: Mapping[str, str]

    def __init__(self, cards: Mapping[str, float], status: str = "analytic", **options: Any) -> None:
        super().__init__(**options)
        self.cards = cards
        self.status = {f"latency_s@{card}": status for card in cards}
        self.notes: Sequence[str] = (NOTE,)

    def costs(self, assignment: Assignment) -> dict[str, float]:
        found = super().costs(assignment)
        latency_s = found.pop("latency_s")
        return found | {f"latency_s@{card}": latency_s * factor for card, factor in self.cards.items()}

    def cost(self, name: str) -> Cost | None:
        plain, _, card = name.partition("@")
        found = super().cost(plain)
        if found is None or (card and card not in self.cards):
            return None
        return replace(found, per=round(found.per / self.cards[card])) if card else found

    def shares(self, name: str, assignment: Assignment) -> dict[str, float]:
        plain, _, card = name.partition("@")
        factor = self.cards[card] if card else 1
        return {part: value * factor for part, value in super().shares(plain, assignment).items()}

    def evaluate(self, assignments: Sequence[Assignment], split: str = "validation") -> Any:
        return (self._with_costs(done) for done in super().evaluate(assignments, split))

    def _with_costs(self, done: Evaluation) -> Evaluation:
        return done if done.failure else replace(done, measures={**done.measures, **self.costs(done.assignment)})


def device(card: str, status: str = "analytic", note: str | None = "Dense peaks; no sparsity.") -> Device:
    return Device(card, "roofline", status, note, anchors=8 * (status == "calibrated"), heldout_mape=0.035)


def run_on(
    folder: Path,
    patch: pytest.MonkeyPatch,
    cards: Mapping[str, float] | None = None,
    status: str = "analytic",
    limit: str | None = None,
    **more: Any,
) -> RunResult:
    """A finished run of `OnCards`, without pictures, report and tracking."""
    cards = cards or {"nvidia-t4": 0.001}
    goals: list[dict[str, Any]] = [{"name": "accuracy", "maximise": True}, {"name": "memory_bytes"}]
    goals += [{"name": "latency_s", "accelerator": card, "limit": limit} for card in cards]
    patch.setattr("mpsearch.engine.costs._devices", lambda spec: tuple(device(card, status) for card in cards))

    def build(spec: Spec, weights: Path | None) -> OnCards:
        return OnCards(cards, status)

    plain = toy_spec("random", budget=30, **more)
    spec = Spec.model_validate(plain.model_dump(by_alias=True) | {"goals": goals})
    return run(spec, folder, build=build, show_progress=False, bare=True)


def with_shares(result: RunResult, shares: Mapping[str, Mapping[str, Mapping[str, float]]], **facts: Any) -> None:
    """Put a `costs.json` with these `shares` into the folder of `result`."""
    (result.folder / "costs.json").write_text(Costs(shares=shares, **facts).text(), encoding="utf-8")
