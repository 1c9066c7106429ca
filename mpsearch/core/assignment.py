"""An assignment: a format for each site. Immutable, hashable, with a digest that names it everywhere."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from functools import cached_property

from mpsearch.core.format import FP32, Format


class Assignment(Mapping[str, Format]):
    """Site name to format. Sites that are not mentioned, or mentioned as fp32, stay in float.

    Keyed by site and not by choice, so that a recorded assignment keeps its meaning when ties change.
    """

    def __init__(self, formats: Mapping[str, Format] | None = None) -> None:
        items = sorted((formats or {}).items())
        self._formats = {name: fmt for name, fmt in items if not fmt.is_float32}

    def __getitem__(self, site: str) -> Format:
        return self._formats[site]

    def __iter__(self) -> Iterator[str]:
        return iter(self._formats)

    def __len__(self) -> int:
        return len(self._formats)

    def __hash__(self) -> int:
        return hash(self.key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Assignment) and self._formats == other._formats

    def __repr__(self) -> str:
        return f"Assignment({self.texts()})"

    def at(self, site: str) -> Format:
        """The format of `site`: fp32 where the assignment says nothing."""
        return self._formats.get(site, FP32)

    def texts(self) -> dict[str, str]:
        """As plain text, sorted by site: what the ledger stores."""
        return {name: str(fmt) for name, fmt in self._formats.items()}

    @classmethod
    def parse(cls, texts: Mapping[str, str]) -> Assignment:
        """From plain text. Raises `BadInput` on a malformed format."""
        return cls({name: Format.parse(text) for name, text in texts.items()})

    @cached_property
    def key(self) -> str:
        """16 hexadecimal digits that identify the assignment on any machine."""
        canonical = json.dumps(self.texts(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]
