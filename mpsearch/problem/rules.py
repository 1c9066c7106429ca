"""From the rules of a space file and the sites of a model to the space of choices."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from functools import cache

from mpsearch.core.errors import BadInput, nearest
from mpsearch.core.format import Format
from mpsearch.core.site import Site
from mpsearch.core.space import Choice, Space
from mpsearch.quant.grid import Quantizer
from mpsearch.spec import registry
from mpsearch.spec.menus import is_word, offered
from mpsearch.spec.schema import BinsSpec, Spec

Tie = tuple[str, tuple[str, ...]]


def build_space(spec: Spec, sites: Sequence[Site], ties: Iterable[Tie]) -> Space:
    """The space that `spec` describes over `sites`, which are in order of computation.

    Args:
        ties: (kind, site names) that decide together unless the spec unties their kind.

    Raises:
        BadInput: a rule or tie that matches nothing, a format that does not exist for a role, tied sites that share
            no format; all of them at once.
    """
    errors: list[str] = []
    options = _options(spec, sites, errors)
    groups = _Groups(options)
    for kind, names in ties:
        if kind not in spec.untie:
            groups.join(names)
    for number, tie in enumerate(spec.tie):
        if tie.match is not None:
            matched = [[s.name for s in sites if fnmatchcase(s.name, tie.match)]]
        else:
            matched = _same_but_for(tie.group or (), [s.name for s in sites])
        if not any(len(names) > 1 for names in matched):
            errors.append(
                f"tie[{number}]: {tie.match or list(tie.group or ())} matches no two sites; see mpsearch describe."
            )
        for together in matched:
            groups.join(together)
    choices = []
    for members in groups.in_order([s.name for s in sites if s.name in options]):
        shared = [fmt for fmt in options[members[0]] if all(fmt in options[name] for name in members)]
        if not shared:
            offers = "; ".join(f"{name}: {', '.join(map(str, options[name]))}" for name in members)
            errors.append(f"tied sites share no format ({offers}); give them a common one, or untie them.")
        choices.append(Choice(members[0], tuple(members), tuple(shared)))
    if errors:
        raise BadInput(*dict.fromkeys(errors))
    if not choices:
        raise BadInput("no site has a choice: every rule of 'sites' matches nothing that the model has.")
    return Space(tuple(choices))


def binned(spec: Spec, sites: Sequence[Site]) -> dict[str, BinsSpec]:
    """The bins that each of `sites` is split into, by name: those of the first rule that matches it."""
    found = {}
    for site in sites:
        rule = next((rule for rule in spec.sites if rule.match.accepts(site)), None)
        if rule is not None and rule.bins is not None:
            found[site.name] = rule.bins
    return found


def of_nodes(fmt: Format) -> Format:
    """`fmt` with a range for each node, as `ranges: node` of bins has it: integers alone have such a form.

    Raises `BadInput` where options say otherwise.
    """
    if fmt.scheme != "int":
        return fmt
    if fmt.options:
        raise BadInput(
            f"format {str(fmt)!r}: with ranges: node a range is from the least to the largest value of a node, and has "
            f"no options. Use int{fmt.bits:g}, or ranges: bin."
        )
    return Format("rowrange", fmt.bits)


def canonical(fmt: Format, site: Site) -> Format:
    """`fmt` as recorded: the options that are defaults of the site's role left out. Raises `BadInput`."""
    if fmt.is_float32:
        return fmt
    if "gate" in fmt.options and not site.gates:
        raise BadInput(
            f"format {str(fmt)!r}: {site.name!r} has no gates; only matrices of recurrent layers have "
            "(match them by name, for example '*.weight_?h_l*'). Use tensor or channel."
        )
    return _quantizer(fmt.scheme).canonical(fmt, site.role)


@cache
def _quantizer(scheme: str) -> Quantizer:
    made = registry.load("quantizers", scheme)()
    assert isinstance(made, Quantizer)
    return made


def _options(spec: Spec, sites: Sequence[Site], errors: list[str]) -> dict[str, tuple[Format, ...]]:
    found: dict[str, tuple[Format, ...]] = {}
    for number, rule in enumerate(spec.sites):
        by_node = rule.bins is not None and rule.bins.ranges == "node"
        matched = [site for site in sites if rule.match.accepts(site)]
        if not matched:
            role = f" of role {', '.join(rule.match.role)}" if rule.match.role else ""
            hint = nearest(rule.match.name, [s.name for s in sites]) if rule.match.name != "*" else _roles(sites)
            errors.append(f"sites[{number}]: {rule.match.name!r}{role} matches no site.{hint}")
        for site in matched:
            if site.name not in found:
                try:
                    found[site.name] = _offered(rule.formats, site, by_node)
                except BadInput as error:
                    errors += [f"sites[{number}]: {text}" for text in error.errors]
                    found[site.name] = ()
    return found


def _offered(texts: Sequence[str], site: Site, by_node: bool) -> tuple[Format, ...]:
    """The formats of a rule at `site`, each once, `by_node` with ranges of nodes. Raises `BadInput` where one does not
    exist there, or none is left."""
    found: dict[Format, None] = {}
    for text in texts:
        formats = offered(text, site.role) if is_word(text) else (Format.parse(text),)
        if by_node:
            formats = tuple(map(of_nodes, formats))
        found.update(dict.fromkeys(canonical(fmt, site) for fmt in formats))
    if not found:
        raise BadInput(
            f"{', '.join(texts)}: nothing is offered for {site.name!r} ({site.role}); "
            "match the sites it is meant for, or add a format."
        )
    return tuple(found)


def _roles(sites: Sequence[Site]) -> str:
    return f" Roles of this model: {', '.join(sorted({site.role.value for site in sites}))}."


def _same_but_for(group: Sequence[str], names: Sequence[str]) -> list[list[str]]:
    """Names that are equal once the components listed in `group` are taken for one another."""
    classes: dict[tuple[str, ...], list[str]] = {}
    for name in names:
        parts = re.split(r"([.:])", name)
        if any(part in group for part in parts):
            classes.setdefault(tuple("*" if part in group else part for part in parts), []).append(name)
    return list(classes.values())


class _Groups:
    """Sites that decide together, by union-find; sites without a rule are left out."""

    def __init__(self, names: Iterable[str]) -> None:
        self._parent = {name: name for name in names}

    def _find(self, name: str) -> str:
        while self._parent[name] != name:
            self._parent[name] = name = self._parent[self._parent[name]]
        return name

    def join(self, names: Iterable[str]) -> None:
        known = [name for name in names if name in self._parent]
        for name in known[1:]:
            self._parent[self._find(name)] = self._find(known[0])

    def in_order(self, names: Sequence[str]) -> list[list[str]]:
        members: dict[str, list[str]] = {}
        for name in names:
            members.setdefault(self._find(name), []).append(name)
        return list(members.values())
