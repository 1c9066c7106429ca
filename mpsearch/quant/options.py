"""The words after the bits of a format: which kinds exist, which were given, which are defaults."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from mpsearch.core.errors import BadInput, nearest
from mpsearch.core.format import Format

GRAIN = "tensor|channel|gate[1-9]?|g[1-9][0-9]*"
"""How many numbers share a scale. `gate` is one gate of a recurrent matrix; the bank writes how many the matrix has
(`gate4`), since only the site knows."""


class Options:
    """The kinds of options of a scheme, in the order they are written.

    Args:
        examples: words that a message may suggest.
        kinds: regular expression of each kind's words; no word fits two.
    """

    def __init__(self, examples: Sequence[str], **kinds: str) -> None:
        self._examples = examples
        self._kinds = {kind: re.compile(pattern) for kind, pattern in kinds.items()}

    def read(self, fmt: Format, defaults: Mapping[str, str]) -> dict[str, str]:
        """One word of every kind, in order. Raises `BadInput` on a word that is unknown or of a kind given before."""
        given: dict[str, str] = {}
        for word in fmt.options:
            kind = next((kind for kind, pattern in self._kinds.items() if pattern.fullmatch(word)), None)
            if kind is None:
                raise BadInput(f"format {str(fmt)!r}: unknown option {word!r}.{nearest(word, self._examples)}")
            if kind in given:
                pattern = self._kinds[kind].pattern
                raise BadInput(f"format {str(fmt)!r}: {word!r} is a second {kind}; give one of {pattern}.")
            given[kind] = word
        return {kind: given.get(kind, defaults[kind]) for kind in self._kinds}


def short(fmt: Format, words: Mapping[str, str], defaults: Mapping[str, str]) -> Format:
    """`fmt` with the options `words`, those left out that are defaults."""
    return Format(fmt.scheme, fmt.bits, tuple(word for kind, word in words.items() if word != defaults[kind]))


def counted(fmt: Format, gates: int) -> Format:
    """`fmt` with its `gate`, if it has that, told how many gates there are."""
    words = tuple(f"gate{gates}" if word == "gate" else word for word in fmt.options)
    return fmt if words == fmt.options else Format(fmt.scheme, fmt.bits, words)


def refuse(fmt: Format, why: str | None) -> None:
    """Raise `BadInput` with the format's text before `why`; nothing where that is None."""
    if why:
        raise BadInput(f"format {str(fmt)!r}: {why}")
