"""From a space file to a validated `Spec`, or to every error in it at once, each with its place."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from mpsearch.core.errors import BadInput
from mpsearch.spec import check, find
from mpsearch.spec.explain import Faults, lines, validate
from mpsearch.spec.schema import (
    DriverSpec,
    GoalSpec,
    ObjectiveSpec,
    Recipe,
    Resolved,
    SiteRule,
    Spec,
    VariantsSpec,
    card_name,
)
from mpsearch.spec.source import Override, Where, apply, dump, read_file
from mpsearch.spec.texts import StartTexts

SPEC_FILE = "spec.yaml"


def load_spec(space: str | Path, overrides: Sequence[str | Override] = ()) -> Spec:
    """Read, override and validate a space file. Executes the objective's file.

    Args:
        space: a path, or the name of a bundled space (see `find_space`).
        overrides: `a.b[0].c=VALUE` as of `--set`, or `Override`s; later ones win.

    Raises:
        BadInput: with every error found: its place, what is allowed and the nearest name.
    """
    path = find.find_space(str(space))
    source = read_file(path)
    flags, errors = _parse(overrides)
    errors += apply(source, flags)
    source.data.pop("resolved", None)
    spec, faults = validate(Spec, source.data)
    faults += source.errors + _check_names(source.data, path.parent)
    errors += lines(source, faults)
    if errors or spec is None:
        raise BadInput(*dict.fromkeys(errors))
    return spec.model_copy(update={"resolved": _resolve(spec, path, source.sha256)})


def save_spec(spec: Spec, folder: Path, resolved: Resolved | None = None) -> Spec:
    """Write `spec.yaml` into a folder, `resolved` in place of the spec's facts; returns the spec saved."""
    if resolved is not None:
        spec = spec.model_copy(update={"resolved": resolved})
    beside = folder / f"{SPEC_FILE}.tmp"
    beside.write_text(dump(spec.model_dump(mode="json", by_alias=True)), encoding="utf-8")
    beside.replace(folder / SPEC_FILE)  # in one step: a run that is killed here has a whole spec or none
    return spec


def load_saved(folder: Path) -> Spec:
    """The spec of a run folder, equal to the one saved. Raises `BadInput` if it is missing or damaged."""
    path = folder / SPEC_FILE
    if not path.is_file():
        raise BadInput(f"{folder} is not a run folder: it has no {SPEC_FILE}.")
    source = read_file(path)
    spec, faults = validate(Spec, source.data)
    if faults or spec is None:
        raise BadInput(*lines(source, faults))
    return spec


def _parse(overrides: Sequence[str | Override]) -> tuple[list[Override], list[str]]:
    parsed: list[Override] = []
    errors: list[str] = []
    for override in overrides:
        try:
            parsed.append(Override.parse(override) if isinstance(override, str) else override)
        except BadInput as error:
            errors += error.errors
    return parsed, errors


def _check_names(data: dict[str, Any], beside: Path) -> Faults:
    """Check every part that is well formed by itself: one broken part must not hide the faults of another."""
    faults: Faults = []

    def part(kind: Any, value: object, where: Where, checker: Callable[[Any], Faults]) -> None:
        try:
            valid = TypeAdapter(kind).validate_python(value)
        except ValidationError:
            return
        faults.extend(((*where, *inner), message) for inner, message in checker(valid))

    part(DriverSpec, _call(data.get("driver", {})), ("driver",), check.check_driver)
    part(
        ObjectiveSpec,
        _call(data.get("objective")),
        ("objective",),
        partial(check.check_objective, beside=beside),
    )
    of, variants = partial(check.check_variants, beside=beside), data.get("variants")
    part(tuple[VariantsSpec, ObjectiveSpec], (variants, _call(data.get("objective"))), ("variants",), of)
    goals = _items(data.get("goals"))
    for i, goal in enumerate(goals):
        part(GoalSpec, _named(goal), ("goals", i), partial(check.check_goal, beside=beside))
    texts = [goal.get("accelerator") if isinstance(goal, dict) else None for goal in goals]
    cards = check.check_cards([text if isinstance(text, str) else None for text in texts], beside)
    faults.extend((("goals", *where), message) for where, message in cards)
    for i, rule in enumerate(_items(data.get("sites"))):
        part(SiteRule, rule, ("sites", i), check.check_rule)
    part(Recipe, _recipe(data.get("finetune")), ("finetune",), check.check_recipe)
    for i, start in enumerate(_items(data.get("start"))):
        part(StartTexts, start, ("start", i), check.check_start)
    return faults


def _call(value: object) -> object:
    """Only what makes the object, so that a bad budget does not hide a misspelt driver."""
    return {k: v for k, v in value.items() if k in ("use", "options")} if isinstance(value, dict) else value


def _recipe(value: object) -> object:
    """Only what makes the learner, so that a bad rate does not hide a misspelt method."""
    return {k: v for k, v in value.items() if k in ("method", "options")} if isinstance(value, dict) else value


def _named(value: object) -> object:
    """Only what a goal is of, so that a bad limit does not hide a bad card."""
    return {k: v for k, v in value.items() if k in ("name", "accelerator")} if isinstance(value, dict) else value


def _items(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _resolve(spec: Spec, path: Path, sha256: str) -> Resolved:
    objective, class_name = find.find_objective(spec.objective.use, path.parent)
    return Resolved(
        space_file=str(path),
        space_sha256=sha256,
        objective_file=str(objective),
        objective_class=find.load_objective_class(objective, class_name).__name__,
        objective_sha256=hashlib.sha256(objective.read_bytes()).hexdigest(),
        cards=_cards(spec, path.parent),
    )


def refuse_edited_cards(spec: Spec) -> None:
    """Raise `BadInput` where the card of an accelerator is not what it was when the run began.

    What was evaluated has costs by the old card: with others beside them nothing could be compared.
    """
    resolved = spec.resolved
    if resolved is None or not resolved.cards:
        return
    now = _cards(spec, Path(resolved.space_file).parent)
    edited = [name for name, sha256 in resolved.cards.items() if now.get(name) != sha256]
    if edited:
        names = ", ".join(edited)
        raise BadInput(f"the card of {names} is not that of the run any more; bring it back, or start a new run.")


def _cards(spec: Spec, beside: Path) -> dict[str, str]:
    texts = [goal.accelerator for goal in spec.goals if goal.accelerator is not None]
    return {card_name(t): hashlib.sha256(find.find_card(t, beside).read_bytes()).hexdigest() for t in texts}
