"""A proxy beside its controls: what the same solver reached with as many points, and no idea which sites matter."""

from __future__ import annotations

from collections.abc import Mapping

from mpsearch.core.evaluation import Evaluation
from mpsearch.core.front import Front
from mpsearch.drivers.proxy import CONSTANT, MORE, OWN, RANDOM, SHARED
from mpsearch.engine.result import RunResult

_MEANS = {CONSTANT: "constant importance", RANDOM: "random importance"}
_ALIKE = 0.001
"""Hypervolume by which two arms must differ for one to be called better."""


def arms(result: RunResult) -> dict[str, list[Evaluation]]:
    """By arm of a proxy, itself (`proxy`) first: what it asked for; empty for a run of another driver.

    What several arms asked for counts for each. What was asked outside the comparison counts for none.
    """
    found: dict[str, list[Evaluation]] = {OWN: []}
    for evaluation in result.evaluations:
        driver, _, label = evaluation.asked_by.partition(" ")
        if driver == result.spec.driver.use and label != MORE:
            for name in label.split(SHARED):
                found.setdefault(name or OWN, []).append(evaluation)
    return found if CONSTANT in found else {}


def hypervolumes(result: RunResult) -> Mapping[str, float]:
    """By arm: the hypervolume that its points and the points given to all (float, uniform, start) reach together."""
    found = arms(result)
    asked = {evaluation.key for group in found.values() for evaluation in group}
    mine = result.spec.driver.use
    others = [e for e in result.evaluations if e.key not in asked and e.is_searched]
    given = [e for e in others if e.asked_by.partition(" ")[0] != mine]

    def reached(group: list[Evaluation]) -> float:
        whole = [e for e in (*given, *group) if e.fidelity == 1]
        front = Front.of(whole, result.front.goals, result.baseline.measures)
        return front.hypervolume(result.scale) if result.scale else 0.0

    return {name: reached(group) for name, group in found.items()}


def beside_controls(result: RunResult) -> list[str]:
    """A table and a verdict in plain words; empty where the run's driver has no controls."""
    found, volumes = arms(result), hypervolumes(result)
    if not found:
        return []
    own = {evaluation.key for evaluation in found[OWN]}
    members = {evaluation.key for evaluation in result.front.members}
    total = result.hypervolume
    driver = result.spec.driver.use
    lines = [
        "| importance of the sites | points | as with the proxy | on the front | hypervolume | share of the run's |",
        "|" + " --- |" * 6,
    ]
    for name, group in found.items():
        keys = {evaluation.key for evaluation in group}
        text = f"`{driver}`" if name == OWN else _MEANS.get(name, name).removesuffix(" importance")
        cells = [text, str(len(keys)), "–" if name == OWN else str(len(keys & own)), str(len(keys & members))]
        share = f"{volumes[name] / total:.1%}" if total else "–"
        lines.append("| " + " | ".join([*cells, f"{volumes[name]:.4f}", share]) + " |")
    raced = sum(e.fidelity < 1 for group in found.values() for e in group)
    cut = f" Racing ended {raced} of them early, and these are left out." if raced else ""
    return [
        _verdict(driver, volumes),
        "",
        *lines,
        "",
        "Every row has the same solver, and besides its points the float and uniform controls, which it does not "
        f"count.{cut}",
    ]


def _verdict(driver: str, volumes: Mapping[str, float]) -> str:
    controls = {name: volumes[name] for name in (CONSTANT, RANDOM) if name in volumes}
    gains = {name: volumes[OWN] - reached for name, reached in controls.items()}
    beaten = [f"{_MEANS[name]} by {gain:.4f}" for name, gain in gains.items() if gain > _ALIKE]
    others = [f"{_MEANS[name]} ({gain:+.4f})" for name, gain in gains.items() if gain <= _ALIKE]
    if not others:
        return f"**`{driver}` beats its controls** in hypervolume: {' and '.join(beaten)}."
    also = f"; it does beat {' and '.join(beaten)}" if beaten else ""
    return (
        f"**`{driver}` does not beat {' and '.join(others)}** with as many points{also}. "
        "What its front reached, the costs and the solver gave."
    )
