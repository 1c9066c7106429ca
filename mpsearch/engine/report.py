"""`report.md`: what was asked, what was found, whether mixed precision was worth it, and how sure one can be."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from math import hypot
from pathlib import Path
from shlex import quote

import numpy as np

from mpsearch.core.front import Losses, non_dominated
from mpsearch.core.goal import Goal
from mpsearch.engine.capacity import fitting
from mpsearch.engine.costs import MEANING
from mpsearch.engine.formats import uses
from mpsearch.engine.measures import is_cost, number, spoken
from mpsearch.engine.proxies import beside_controls
from mpsearch.engine.result import RunResult
from mpsearch.engine.tracking_store import FILE, ui_text
from mpsearch.engine.variants import beside_each_other
from mpsearch.engine.views import Point, View

_CLOSE = 2.0  # standard errors within which two scores are called alike


def write(result: RunResult) -> Path:
    """Write `report.md` into the run folder, whole; returns its path."""
    path, draft = result.folder / "report.md", result.folder / "report.md.tmp"
    draft.write_text(markdown(View.of(result)), encoding="utf-8")
    draft.replace(path)
    return path


def markdown(view: View) -> str:
    """The report."""
    sections = [
        (f"# {view.result.spec.name}: {_outcome(view)}", _question(view)),
        (
            "## Front" if view.front else "## Nearest to the limits",
            [*_table(view, view.front or view.nearest), "", *_picks(view)],
        ),
        ("## Formats on the front", list(_formats(view))),
        (
            "## Uniform precision beside it",
            [*_table(view, [*view.uniform, *view.baseline]), "", *mixed_or_uniform(view)],
        ),
        ("## The proxy beside its controls", beside_controls(view.result)),
        ("## Accelerators", list(_accelerators(view))),
        ("## What finetuning brought", list(_finetuning(view))),
        ("## What each step along the front bought", list(_steps(view))),
        ("## How sure this is", list(_confidence(view))),
        ("## Failures", list(_failures(view))),
        ("## Again", list(_again(view))),
    ]
    return "\n\n".join(f"{heading}\n\n" + "\n".join(lines) for heading, lines in sections if lines) + "\n"


def note(view: View, picture: str | None, characters: int) -> str:
    """A short version for the page of a tracking run, of at most so many characters; long tables lose their end."""
    verdict, *beside = mixed_or_uniform(view) or [""]
    head = [f"## {view.result.spec.name}: {_outcome(view)}", "", verdict, ""]
    head += [f"![front]({picture})", ""] if picture else []
    tail = [*beside, "", "Files: `front.html` (interactive), `report.md`, `evaluations.csv`."]
    rows = _table(view, view.front or view.nearest)
    kept = len(rows)
    while kept > 2 and len("\n".join([*head, *rows[:kept], "(more in report.md)", *tail])) > characters:
        kept -= 1
    more = [] if kept == len(rows) else ["", f"({len(rows) - kept} more in report.md)"]
    return "\n".join([*head, *rows[:kept], *more, *tail])[:characters]


def _outcome(view: View) -> str:
    if not view.front:
        return "nothing meets the limits"
    state = " so far" if view.result.status == "interrupted" else ""
    return f"a front of {len(view.front)}{state}, from {len(view.result.evaluations)} evaluations"


def _question(view: View) -> list[str]:
    result = view.result
    goals = [
        f"{'most' if g.maximise else 'least'} `{g.name}`{_status(view, g)}"
        + (f" (limit `{g.limit}`)" if g.limit else "")
        for g in view.goals
    ]
    choices = len(view.sites.choices)
    raced = f", {result.raced} ended early" if result.raced else ""
    return [
        f"Which precision at each of {choices} choices gives the {' and the '.join(goals)}? "
        f"Asked with driver `{result.spec.driver.use}`, seed {result.spec.seed}; "
        f"{len(result.evaluations)} evaluations "
        f"({result.failed} failed{raced}, {result.hits} answered from the ledger), "
        f"{result.forward_equivalents:.1f} float forwards of work, {result.seconds:.0f} s. "
        f"Status: **{result.status}**.",
        "",
        *beside_each_other(view),
        f"The float model has {_scores(view, view.baseline[0]) if view.baseline else 'no score'}. "
        f"Hypervolume {result.hypervolume:.4f} (1 is the ideal point, 0 the worst of float and uniform).",
        "",
        "![front](front.png)",
        "",
        "Members are chosen on the validation split and scored once on the test split. ± is one standard error.",
    ]


def _scores(view: View, point: Point) -> str:
    return ", ".join(f"{view.named(g)} {view.told(point.evaluation, g.name)}" for g in view.goals)


def _status(view: View, goal: Goal) -> str:
    return view.named(goal).removeprefix(goal.name)


def _table(view: View, points: Sequence[Point]) -> list[str]:
    if not points:
        return []
    tested = [g for g in view.goals if not is_cost(g.name)]
    extra = [
        n for n in ("memory_bytes",) if n not in {g.name for g in view.goals} and all(n in p.measures for p in points)
    ]
    names = [*(g.name for g in view.goals), *extra]
    head = [
        "#",
        "assignment",
        *map(view.costs.labelled, names),
        *(f"test {g.name}" for g in tested),
        "average bits",
        "key",
    ]
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for i, p in enumerate(points):
        mark = " **(knee)**" if p.is_knee else " (on the front)" if p.on_front and p.kind != "mixed" else ""
        mark += " (does not fit)" if view.lacks(p) else ""
        cells = [str(i), p.name + mark]
        for name in names:
            ratio = view.ratio(p, name)
            cells.append(
                view.told(p.evaluation, name) + (f" ({ratio:.1f}× smaller)" if ratio and p.kind != "float" else "")
            )
        cells += [view.told(p.test, g.name) if p.test and g.name in p.test.measures else "–" for g in tested]
        lines.append("| " + " | ".join([*cells, p.summary or "32", f"`{p.key[:8]}`"]) + " |")
    return lines


def _formats(view: View) -> Iterator[str]:
    if not view.front:
        return
    yield "Means over the members, of the sites that have a choice."
    yield ""
    yield "| role | format | members | elements | bytes |"
    yield "| --- | --- | --- | --- | --- |"
    for use in uses(view):
        stored = "–" if use.bytes is None else f"{use.bytes:.1%}"
        yield f"| {use.role} | `{use.format}` | {use.members} of {len(view.front)} | {use.elements:.1%} | {stored} |"


def _picks(view: View) -> Iterator[str]:
    front = view.result.front
    if not front.members:
        limits = [f"`{g.name} {g.limit}`" for g in view.goals if g.limit]
        yield f"No evaluated assignment meets {' and '.join(limits)}; above are those that miss by least."
        yield "Loosen a limit, or widen the formats."
        return
    picks = ["knee", *(f"{'best' if g.maximise else 'cheapest'}:{g.name}" for g in view.goals)]
    for pick in picks:
        p = view.by_key[front.pick(pick).key]
        yield f"* `{pick}`: {p.name}, key `{p.key[:8]}`: {_scores(view, p)}"
    for goal in view.goals:
        if goal.limit is not None:
            bound = goal.limit.bound(view.result.baseline.measures[goal.name])
            limit = f"`{goal.name} {goal.limit}`{_status(view, goal)}"
            yield f"* every member meets {limit} (= {number(goal.name, bound)}) on validation"
            missed = [p for p in view.front if p.test and goal.excess(p.test.measures, _tested_baseline(view)) > 0]
            if missed:
                names = ", ".join(p.name for p in missed[:5])
                yield f"* **{len(missed)} of {len(view.front)} members miss that limit on the test split**: {names}"


def _tested_baseline(view: View) -> dict[str, float]:
    scored = [p.test.measures for p in view.baseline if p.test]
    return {**view.result.baseline.measures, **(scored[0] if scored else {})}


def mixed_or_uniform(view: View) -> list[str]:
    """For each uniform control: the front member that beats it, and by how much; said plainly where none does."""
    if not view.front or not view.uniform or len(view.goals) < 2:
        return []
    quality, costs = view.goals[0], view.goals[1:]
    lines, beaten = [], 0
    for control in view.uniform:
        mixed = [p for p in view.front if p.kind == "mixed"]
        at_least = [p for p in mixed if _dominates(p, control, view.goals)]
        if not at_least:
            rival = [p for p in mixed if all(g.loss(p.measures) <= g.loss(control.measures) for g in costs)]
            tail = (
                "no mixed assignment that costs as little scores as well"
                if rival
                else "no mixed member costs as little"
            )
            lines.append(f"* {control.name} ({_scores(view, control)}) is **not beaten**: {tail}.")
            continue
        beaten += 1
        best = min(at_least, key=lambda p: quality.loss(p.measures))
        gain = _gain(view, best, control)
        lines.append(f"* {control.name} ({_scores(view, control)}) is beaten by {best.name} `{best.key[:8]}`: {gain}.")
    total = len(view.uniform)
    verdict = "beats every" if beaten == total else f"beats {beaten} of {total}" if beaten else "does not beat any"
    return [
        f"**Mixed precision {verdict} uniform control{'s' if 0 < beaten < total else ''}** on the validation split.",
        "",
        *lines,
    ]


def _dominates(a: Point, b: Point, goals: Sequence[Goal]) -> bool:
    ours, theirs = ([g.loss(p.measures) for g in goals] for p in (a, b))
    return ours != theirs and all(x <= y for x, y in zip(ours, theirs, strict=True))


def _gain(view: View, best: Point, control: Point) -> str:
    """By how much `best` beats `control`, and whether the difference in quality is more than noise."""
    quality, *costs = view.goals
    difference = abs(best.measures[quality.name] - control.measures[quality.name])
    parts = [f"{quality.name} better by {number(quality.name, difference)}" if difference else f"equal {quality.name}"]
    error = hypot(best.evaluation.stderr.get(quality.name, 0.0), control.evaluation.stderr.get(quality.name, 0.0))
    if error and 0 < difference <= _CLOSE * error:
        parts[0] += f" (within {_CLOSE:g} standard errors: alike)"
    for g in costs:
        ours, theirs = best.measures[g.name], control.measures[g.name]
        if is_cost(g.name) and ours > 0:
            name = spoken(g.name) + _status(view, g)
            ratio = f"{theirs / ours:.2f}"
            parts.append(f"equal {name}" if ratio == "1.00" else f"{name} {ratio}× smaller")
    return ", ".join(parts)


def _steps(view: View) -> Iterator[str]:
    """Neighbours on the front: what was paid, what it bought, and which choices changed."""
    for before, after in pairwise(view.front):
        variants = [p.evaluation.variant for p in (before, after)]
        changed = ["→".join(variants)] if len(set(variants)) > 1 else []
        for name, site in view.sites.choices.items():
            old, new = (p.evaluation.assignment.at(site.name) for p in (before, after))
            if old != new:
                changed.append(f"{name} {old}→{new}")
        moved = []
        for g in view.goals:
            old_value, new_value = before.measures[g.name], after.measures[g.name]
            if old_value != new_value:
                moved.append(f"{view.named(g)} {view.number(g.name, old_value)} → {view.number(g.name, new_value)}")
        more = f" and {len(changed) - 4} more" if len(changed) > 4 else ""
        where = f"{', '.join(changed[:4]) or 'nothing'}{more}"
        yield f"* {before.name} → {after.name}: {', '.join(moved)}. Changed: {where}."


def _finetuning(view: View) -> Iterator[str]:
    """Each finetuned member beside itself before, in what was measured."""
    spec, finetuned = view.result.spec.finetune, [p for p in view.points if not p.evaluation.is_searched]
    if spec is None or not finetuned:
        return
    recipe = spec.recipe.model_dump(exclude_none=True)
    told = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in recipe.items())
    measured = [g for g in view.goals if not is_cost(g.name)]
    yield (
        f"{len(finetuned)} assignments were trained after the search ({told}); of these "
        f"{sum(p.on_front for p in finetuned)} are on the front. Costs follow from the assignment, so they stay. The "
        "best epoch was chosen on the validation split, which flatters it there: see the test split."
    )
    yield ""
    heads = [f"{g.name} before | after | test" for g in measured]
    yield "| assignment | " + " | ".join([*heads, "average bits", "key"]) + " |"
    yield "|" + " --- |" * (3 + 3 * len(measured))
    for p in finetuned:
        before = view.by_key.get(replace(p.evaluation, recipe=None).key)
        cells = [p.name + (" (on the front)" if p.on_front else "")]
        for g in measured:
            cells.append(view.told(before.evaluation, g.name) if before else "–")
            cells.append(view.told(p.evaluation, g.name))
            cells.append(view.told(p.test, g.name) if p.test and g.name in p.test.measures else "–")
        yield "| " + " | ".join([*cells, p.summary, f"`{p.key[:8]}`"]) + " |"


def _confidence(view: View) -> Iterator[str]:
    result, quality = view.result, view.goals[0]
    for limit in result.spec.resolved.limits if result.spec.resolved else ():
        yield f"* Limit: {limit}"
    samples = max((e.n for e in result.evaluations if e.failure is None), default=0)
    if samples:
        yield f"* Validation scores rest on {samples} samples."
    if result.raced:
        yield (
            f"* Racing ended {result.raced} of {len(result.evaluations)} evaluations early, and so saved "
            f"{result.saved:.0%} of the batches: each is, with a confidence of {result.spec.racing.confidence:g}, "
            "beaten by a member of the front of that time, or misses a limit. No picture shows them; what is shown "
            "was scored on all samples."
        )
    for p in view.front if view.baseline and quality.name in view.baseline[0].evaluation.stderr else []:
        base = view.baseline[0]
        error = hypot(p.evaluation.stderr.get(quality.name, 0.0), base.evaluation.stderr[quality.name])
        if abs(p.measures[quality.name] - base.measures[quality.name]) <= _CLOSE * error:
            who = f"{p.name} `{p.key[:8]}`: {_scores(view, p)}"
            yield f"* The smallest member within {_CLOSE:g} standard errors of float is {who}."
            break
    gaps = [
        p.test.measures[quality.name] - p.measures[quality.name]
        for p in view.front
        if p.test and quality.name in p.test.measures
    ]
    if gaps:
        mean = sum(gaps) / len(gaps)
        base_gap = [p.test.measures[quality.name] - p.measures[quality.name] for p in view.baseline if p.test]
        beside = f" (float, which nothing was chosen by: {base_gap[0]:+.4f})" if base_gap else ""
        yield (
            f"* Choosing on validation may flatter: from validation to test, {quality.name} changes by "
            f"{mean:+.4f} on average over the members{beside}."
        )
    elif view.front:
        yield "* Not scored on the test split yet: the run has not ended."
    searched = [p.order for p in view.front if p.evaluation.is_searched]
    if searched:
        last, of = max(searched), sum(e.is_searched for e in result.evaluations)
        yield f"* The last member of the front was found at evaluation {last} of {of}" + (
            "; more budget may still improve it." if last > 0.8 * of else ": the front had settled."
        )
    if view.front:
        alone = sum(non_dominated(_losses(view)))
        if alone < len(view.front):
            yield f"* On the test split {alone} of the {len(view.front)} members are still not dominated by another."


def _losses(view: View) -> Losses:
    return np.array(
        [[g.loss({**p.measures, **(p.test.measures if p.test else {})}) for g in view.goals] for p in view.front]
    )


def _accelerators(view: View) -> Iterator[str]:
    """What the figures of each card are, which measures they are, and which widths a device runs as wider ones."""
    costs = view.costs
    for device in costs.devices:
        measures = ", ".join(f"`{name}`" for name in costs.of_device(device))
        told = " ".join([f"{part}." for part in (device.fitted, (device.note or "").rstrip(".")) if part])
        yield f"* `{device.name}` ({device.kind}), **{device.status}**: {measures}. {told}".rstrip()
        rows = {f"{i} ({p.name})": p.measures for i, p in enumerate(view.front)}
        yield from (f"* {line}" for line in fitting(device.capacities, device.name, rows))
    yield from (f"* {note}" for note in costs.notes)
    if costs.devices:
        batch = f" ({costs.samples} samples scored)" if costs.samples else ""
        kinds = [f"*{status}* is {MEANING[status]}" for status in dict.fromkeys(d.status for d in costs.devices)]
        yield f"* {'; '.join(kinds)}. Latency, energy and activations are those of one batch{batch}."


def _failures(view: View) -> Iterator[str]:
    kinds: dict[tuple[str, str], int] = {}
    for e in view.result.evaluations:
        if e.failure is not None:
            cause = (e.failure.kind, " ".join(e.failure.message.split())[:200])
            kinds[cause] = kinds.get(cause, 0) + 1
    for (kind, message), count in sorted(kinds.items(), key=lambda item: -item[1])[:10]:
        yield f"* {count} × {kind}: {message}"


def _again(view: View) -> Iterator[str]:
    result, spec = view.result, view.result.spec
    folder = quote(str(result.folder))
    space = spec.resolved.space_file if spec.resolved and spec.resolved.space_file else spec.name
    extent = f"--budget {spec.driver.budget}" if spec.driver.budget else f"--time {spec.driver.time}"
    yield "```sh"
    where = f"--seed {spec.seed} --device {spec.engine.device}"
    yield f"mpsearch run --space {quote(space)} --driver {spec.driver.use} {extent} {where}"
    yield f"mpsearch front {folder} --pick knee"
    if result.status == "interrupted":
        yield f"mpsearch resume {folder}"
    yield "```"
    yield ""
    yield f"* spec `{spec.sha256}` (all settings: `spec.yaml`)"
    if spec.resolved:
        yield f"* space file `{spec.resolved.space_sha256}`, objective `{spec.resolved.objective_sha256}`"
        yield f"* float weights `{spec.resolved.fingerprint}`"
        yield "* versions: " + ", ".join(f"{name} {version}" for name, version in spec.resolved.versions.items())
    yield f"* MLflow: {_tracked(result)}"


def _tracked(result: RunResult) -> str:
    path, folder = result.folder / FILE, quote(str(result.folder))
    if not result.spec.tracking.enabled:
        return f"not tracked; `mpsearch sync {folder}` writes it"
    if not path.is_file():
        return f"`mpsearch ui {folder}`"
    place = json.loads(path.read_text(encoding="utf-8"))
    where = f"experiment `{place['experiment']}`, filter `tags.on_front = 'true'`"
    return f"`mpsearch ui {folder}`, or `{ui_text(place['uri'])}`; {where}"
