"""What integers, other formats, ranges and rules do where all weights and all values have the same bits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pareto.cases import Case
from pareto.searched import everywhere, versions

from mpsearch.core.evaluation import Evaluation
from mpsearch.engine.session import LedgerSession
from mpsearch.ledger.ledger import Ledger
from mpsearch.problem.build import build_problem

WIDTHS = (4, 3)
"""Bits at which rules and points are compared."""
_UNCORRECTED = "quantization.bias_correction=none"


@dataclass(frozen=True)
class Row:
    """One combination: what weights and values are, and what came of it."""

    weights: str
    values: str
    evaluation: Evaluation


def sweep(case: Case, out: Path) -> dict[int, list[Row]]:
    """By bits: integers first, then one change at a time. Scored on the validation split."""
    found: dict[int, list[Row]] = {}
    formats = [_distinct(swept) for swept in (case.swept_weights, case.swept_values)]
    integers = [[f"int{bits}" for bits in WIDTHS]] * 2
    for more, name, texts in ((), "swept", formats), ((_UNCORRECTED,), "uncorrected", integers):
        spec = case.spec(*map(", ".join, texts), *more)
        problem = build_problem(spec)
        with Ledger(out / f"{case.space}-{name}.jsonl", spec.sha256, versions()) as ledger:
            session = LedgerSession(problem, ledger, [goal.goal() for goal in spec.goals], 0)
            for bits in case.swept_weights if not more else WIDTHS:
                integer = f"int{bits}"
                pairs = [(integer, integer)]
                if not more:
                    pairs += [(text, integer) for text in _split(case.swept_weights[bits])]
                    pairs += [(integer, text) for text in _split(case.swept_values[bits])]
                for weights, values in pairs:
                    assignment = everywhere(problem, weights, values)
                    (evaluation,) = session.evaluate([assignment])
                    shown = f"{weights}, no bias correction" if more else weights
                    found.setdefault(bits, []).append(Row(shown, values, evaluation))
    return found


def _distinct(swept: Mapping[int, str]) -> list[str]:
    """All formats, integers first."""
    return list(
        dict.fromkeys([*(f"int{bits}" for bits in swept), *(t for texts in swept.values() for t in _split(texts))])
    )


def _split(texts: str) -> list[str]:
    return texts.split(", ") if texts else []
