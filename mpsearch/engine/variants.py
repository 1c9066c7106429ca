"""Variants: shapes of one model, its widths say, that are searched in one run, on one ledger, for one front.

So 1 bit at width 2 competes with 2 bits at width 1, on the same accuracy, memory and latency. A variant is a model of
its own: own float weights (trained by the objective, at its own width), own export, sites, costs and float score. The
variants are searched one after the other, each with an equal share of the budget; limits refer to the float model of
the first, the base.

After Liu et al., "Widening and squeezing: towards accurate and efficient QNNs" (arXiv 2002.00555), of which the
abstract alone could be had: that wide features of few bits can match narrow ones of many is theirs. What is done here
is mostly a reconstruction: one factor for all layers, ceil(width * channels) each, and a training of each width on its
own, where theirs starts from the features of the narrow model. Their squeezing, channels removed while training, is not
done.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from mpsearch.engine.folder import Folder
from mpsearch.engine.views import View
from mpsearch.problem.base import Problem
from mpsearch.spec.schema import Spec

Build = Callable[[Spec, Path | None], Problem]
"""From a spec, and the file of float weights that an earlier sitting kept, to the problem."""
P = TypeVar("P", bound=Problem)


def build_variants(spec: Spec, build: Callable[[Spec, Path | None], P], kept: Folder | None = None) -> dict[str, P]:
    """The problem of each variant, the base first; all score on as many threads as the base.

    Args:
        kept: holds float weights of an earlier sitting.
    """
    found: dict[str, P] = {}
    threads = spec.engine.threads
    for variant, own in spec.by_variant.items():
        weights = kept.of(variant).weights if kept else None
        engine = own.engine.model_copy(update={"threads": threads})
        problem = build(own.model_copy(update={"engine": engine}), weights if weights and weights.is_file() else None)
        threads = threads or problem.threads
        found[variant] = problem
    return found


def fingerprint(problems: Mapping[str, Problem]) -> str:
    """Digest of the float weights of all variants; the problem's own where there is one."""
    own = [problem.fingerprint for problem in problems.values()]
    return own[0] if len(own) == 1 else hashlib.sha256(" ".join(own).encode()).hexdigest()


def beside_each_other(view: View) -> list[str]:
    """How many of each are on the front, in plain words; empty where a run has no variants."""
    variants = view.result.spec.variants
    if variants is None:
        return []
    told = []
    for name, value in variants.of.items():
        scored, front = (sum(p.evaluation.variant == name for p in of) for of in (view.points, view.front))
        told.append(f"{value:g} ({front} on the front, of {scored} evaluated)")
    return [
        f"Variants of the model by `{variants.option}`, each with float weights of its own: {', '.join(told)}. "
        "Limits and ratios refer to the float model of the first, the base.",
        "",
    ]
