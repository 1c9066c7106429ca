"""Which number formats the members of a front use, by role: how many of them, at what share of elements and bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mpsearch.core.evaluation import Evaluation
from mpsearch.engine.views import View


@dataclass(frozen=True)
class Use:
    """A format at the sites of a role that have a choice.

    Args:
        role, format: as texts.
        members: of the front that use it somewhere.
        elements: share of the role's elements that it holds, the mean over all members.
        bytes: share of the bytes that the role's sites are stored in, likewise; None where nothing of them is stored,
            or where that is not known.
    """

    role: str
    format: str
    members: int
    elements: float
    bytes: float | None


def uses(view: View) -> list[Use]:
    """Of the front of `view`, by role in the order of the model, the format of most elements first."""
    members, stored = view.result.front.members, view.costs.shares.get("memory_bytes", {})
    found: list[Use] = []
    for role in dict.fromkeys(site.role for site in view.sites.facts):
        names = {site.name: site.elements for site in view.sites.facts if site.role == role}
        counts = [_by_format(member, names) for member in members]
        sizes = [_by_format(m, {name: stored.get(m.key, {}).get(name, 0.0) for name in names}) for m in members]
        known = role.is_parameter and all(sum(size.values()) for size in sizes)
        used = [
            Use(
                role=role.value,
                format=text,
                members=sum(text in count for count in counts),
                elements=_mean_share(text, counts),
                bytes=_mean_share(text, sizes) if known else None,
            )
            for text in dict.fromkeys(text for count in counts for text in count)
        ]
        found += sorted(used, key=lambda use: (-use.elements, use.format))
    return found


def shares(found: Sequence[Use]) -> list[str]:
    """A line per role: `weight: int2 61 %, int4 39 %` of its elements, on average over the members."""
    roles: dict[str, list[str]] = {}
    for use in found:
        share = f"{use.elements:.0%}" if use.elements >= 0.01 else "<1%"
        roles.setdefault(use.role, []).append(f"{use.format} {share}")
    return [f"{role}: {', '.join(texts)}" for role, texts in roles.items()]


def _by_format(member: Evaluation, numbers: Mapping[str, float]) -> dict[str, float]:
    """`numbers` of sites, added up over those of one format."""
    found: dict[str, float] = {}
    for site, number in numbers.items():
        text = str(member.assignment.at(site))
        found[text] = found.get(text, 0.0) + number
    return found


def _mean_share(text: str, columns: Sequence[Mapping[str, float]]) -> float:
    return sum(column.get(text, 0.0) / (sum(column.values()) or 1.0) for column in columns) / len(columns)
