"""Checks that need more than the file: do the named drivers, formats, objectives and options exist?

Each check takes one well-formed part of the spec and returns its faults, with their paths inside that part.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mpsearch.core.errors import BadInput, nearest
from mpsearch.core.format import Format
from mpsearch.core.site import Role
from mpsearch.spec import find, registry
from mpsearch.spec.card import MAY_HAVE_A_CARD, NEED_A_CARD, load_card
from mpsearch.spec.explain import Faults
from mpsearch.spec.menus import is_word, offered
from mpsearch.spec.schema import DriverSpec, GoalSpec, ObjectiveSpec, Recipe, SiteRule, VariantsSpec, card_name
from mpsearch.spec.source import Where


def check_driver(driver: DriverSpec) -> Faults:
    """The driver exists and can be made with its options."""
    if driver.use == "auto":
        message = f"driver 'auto' takes no options; name one in driver.use: {', '.join(registry.names('drivers'))}."
        return [(("options",), message)] if driver.options else []
    return _check_plug_in("drivers", driver.use, "use", driver.options, ["auto"])


def check_recipe(recipe: Recipe) -> Faults:
    """The learner exists and can be made with its options."""
    return _check_plug_in("learners", recipe.method, "method", recipe.options)


def check_objective(objective: ObjectiveSpec, beside: Path) -> Faults:
    """The objective's file and class exist, and it can be made with its options (no heavy work)."""
    try:
        cls = find.load_objective_class(*find.find_objective(objective.use, beside))
    except BadInput as error:
        return [(("use",), message) for message in error.errors]
    return _check_call(cls, objective.options, f"objective {objective.use!r}")


def check_variants(of: tuple[VariantsSpec, ObjectiveSpec], beside: Path) -> Faults:
    """The objective can be made with each value of the option. What is wrong without it is told elsewhere."""
    variants, objective = of
    told = [message for _, message in check_objective(objective, beside)]
    faults: Faults = []
    for i, value in enumerate(variants.values):
        options = {**objective.options, variants.option: value}
        for _, message in check_objective(objective.model_copy(update={"options": options}), beside):
            if message not in told:
                told.append(message)
                faults.append((("values", i) if repr(value) in message else ("option",), message))
    return faults


def check_rule(rule: SiteRule) -> Faults:
    """Every format exists for every role that the rule names; for at least one role if it names none.

    A word stands for a format at least.
    """
    found = (
        (("formats", i), (_word_fault if is_word(text) else _format_fault)(text, rule.match.role))
        for i, text in enumerate(rule.formats)
    )
    return [(where, message) for where, message in found if message]


def check_start(start: Mapping[str, str]) -> Faults:
    """Every format exists for some role. Whether the sites allow it is seen when the space is known."""
    found = (((glob,), _format_fault(text, None)) for glob, text in start.items())
    return [(where, message) for where, message in found if message]


def check_goal(goal: GoalSpec, beside: Path) -> Faults:
    """The card of the goal's accelerator exists, is valid, and can give the measure; no goal lacks one or has one idly.

    Args:
        beside: folder that the path of a card starts from: that of the space file.
    """
    name, _, device = goal.name.partition("@")
    if device and name in MAY_HAVE_A_CARD:
        return [(("name",), f"{goal.name!r} is written {{name: {name}, accelerator: {device}}}.")]
    if goal.accelerator is None:
        if name not in NEED_A_CARD:
            return []
        cards = ", ".join(find.card_names())
        message = f"{name} is of a device: name its card, for example accelerator: nvidia-t4. Shipped are {cards}"
        return [(("name",), f"{message}; see mpsearch list accelerators, and docs/accelerators.md for one of yours.")]
    if name not in MAY_HAVE_A_CARD:
        return [(("accelerator",), f"{goal.name!r} takes no accelerator.{nearest(name, MAY_HAVE_A_CARD)}")]
    try:
        refused = load_card(find.find_card(goal.accelerator, beside)).refuses(name)
    except BadInput as error:
        return [(("accelerator",), message) for message in error.errors]
    if refused is None:
        return []
    able = [card for card in find.card_names() if load_card(find.cards() / f"{card}.yaml").refuses(name) is None]
    message = f"{card_name(goal.accelerator)} cannot give {name}: {refused}. Shipped cards that can: {', '.join(able)}."
    return [(("accelerator",), message)]


def check_cards(texts: Sequence[str | None], beside: Path) -> Faults:
    """No two goals name different cards of one name.

    Args:
        texts: the accelerator of each goal, None where it has none.
    """
    faults: Faults = []
    known: dict[str, Path] = {}
    for i, text in enumerate(texts):
        try:
            path = None if text is None else find.find_card(text, beside)
        except BadInput:
            continue  # told by `check_goal`
        if text is None or path is None:
            continue
        before = known.setdefault(card_name(text), path)
        if before.resolve() != path.resolve():
            message = f"{path} and {before} are both called {card_name(text)!r}; rename one, with the name in it."
            faults.append(((i, "accelerator"), message))
    return faults


def _word_fault(word: str, roles: tuple[Role, ...] | None) -> str | None:
    lacking = [role for role in roles or tuple(Role) if not offered(word, role)]
    if not lacking or (roles is None and len(lacking) < len(Role)):
        return None
    where = ", ".join(lacking if roles else ["any role"])
    return f"{word!r} offers no format for {where}; write formats out, or name another scheme."


def _format_fault(text: str, roles: tuple[Role, ...] | None) -> str | None:
    fmt = Format.parse(text)
    if fmt.is_float32:
        return None
    known = registry.names("quantizers")
    if fmt.scheme not in known:
        return f"format {str(fmt)!r}: unknown scheme {fmt.scheme!r}.{nearest(fmt.scheme, known)}"
    faults = []
    for role in roles or tuple(Role):
        try:
            registry.load("quantizers", fmt.scheme)().canonical(fmt, role)
        except BadInput as error:
            faults.append(str(error))
    allowed_somewhere = roles is None and len(faults) < len(Role)
    return faults[0] if faults and not allowed_somewhere else None


def _check_plug_in(kind: str, name: str, key: str, options: Mapping[str, Any], words: Sequence[str] = ()) -> Faults:
    what = kind.removesuffix("s")
    if name not in registry.names(kind):
        return [((key,), f"unknown {what} {name!r}.{nearest(name, [*words, *registry.names(kind)])}")]
    try:
        cls = registry.load(kind, name)
    except BadInput as error:
        return [((key,), str(error))]
    return _check_call(cls, options, f"{what} {name!r}")


def _check_call(cls: type, options: Mapping[str, Any], what: str) -> Faults:
    parameters = inspect.signature(cls).parameters.values()
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters)
    named = {p.name: p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    faults: Faults = []
    if not takes_any:
        unknown = [name for name in options if name not in named]
        faults += [(("options", n), f"{what} has no option {n!r}.{nearest(n, named)}") for n in unknown]
    required = [n for n, p in named.items() if p.default is p.empty and n not in options]
    faults += [(("options",), f"{what} needs the option {n!r}.") for n in required]
    if faults:
        return faults
    try:
        cls(**options)
    except BadInput as error:
        return [(_blame(options, message), message) for message in error.errors]
    except (TypeError, ValueError, SystemExit) as error:
        message = str(error) if isinstance(error, ValueError) else f"it raised {type(error).__name__}: {error}"
        return [(_blame(options, message), f"{what}: {message}")]
    except Exception:  # no fault of the options: it raises again when it is built, and is reported as a failure then
        return []
    return []


def _blame(options: Mapping[str, Any], message: str) -> Where:
    """The option that a message speaks of: the only one, or the first whose value or name it quotes."""
    for name, value in options.items():
        if len(options) == 1 or repr(value) in message or f"{name}=" in message:
            return ("options", name)
    return ("options",)
