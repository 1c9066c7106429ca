"""What other formats, ranges and rules do where all weights and all values have 4 or 3 bits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pareto.cases import Case
from pareto.searched import average_bits, versions

from mpsearch.core.assignment import Assignment
from mpsearch.core.evaluation import Evaluation
from mpsearch.core.format import Format
from mpsearch.engine.session import LedgerSession
from mpsearch.ledger.ledger import Ledger
from mpsearch.problem.build import build_problem
from mpsearch.problem.model import ModelProblem
from mpsearch.problem.rules import canonical

_UNCORRECTED = "quantization.bias_correction=none"


@dataclass(frozen=True)
class Row:
    """One combination: what weights and values are, and what came of it."""

    weights: str
    values: str
    bits: tuple[float, float]
    evaluation: Evaluation


def sweep(case: Case, out: Path) -> dict[int, list[Row]]:
    """For 4 and 3 bits: integers first, then one change at a time. Scored on the validation split."""
    found: dict[int, list[Row]] = {}
    texts = {
        "weights": _distinct(case.swept_weights, "int{}"),
        "values": _distinct(case.swept_values, "int{}"),
    }
    for more, name in ((), "swept"), ((_UNCORRECTED,), "uncorrected"):
        spec = case.spec(*(", ".join(texts[kind]) for kind in ("weights", "values")), *more)
        problem = build_problem(spec)
        with Ledger(out / f"{case.space}-{name}.jsonl", spec.sha256, versions()) as ledger:
            session = LedgerSession(problem, ledger, [goal.goal() for goal in spec.goals], 0)
            for bits in case.swept_weights:
                pairs = [(f"int{bits}", f"int{bits}")]
                if not more:
                    pairs += [(text, f"int{bits}") for text in case.swept_weights[bits].split(", ")]
                    pairs += [(f"int{bits}", text) for text in case.swept_values[bits].split(", ")]
                for weights, values in pairs:
                    assignment = everywhere(problem, weights, values)
                    (evaluation,) = session.evaluate([assignment])
                    shown = f"{weights}, no bias correction" if more else weights
                    row = Row(shown, values, average_bits(problem, assignment, problem.space.choices), evaluation)
                    found.setdefault(bits, []).append(row)
    return found


def _distinct(swept: Mapping[int, str], integers: str) -> list[str]:
    """All texts, the integers of every width first."""
    texts = [integers.format(bits) for bits in swept]
    return list(dict.fromkeys([*texts, *(text for found in swept.values() for text in found.split(", "))]))


def everywhere(problem: ModelProblem, weights: str, values: str) -> Assignment:
    """Every choice that has several options takes the format of its kind."""
    site_of = {site.name: site for site in problem.sites}
    picked = []
    for choice in problem.space.choices:
        site = site_of[choice.sites[0]]
        fmt = canonical(Format.parse(weights if site.role.is_parameter else values), site)
        picked.append(choice.options.index(fmt) if len(choice.options) > 1 else 0)
    return problem.space.decode(picked)
