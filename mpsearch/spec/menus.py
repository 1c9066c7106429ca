"""Words of a space file that stand for several formats: a scheme's name for what it offers, `all` for every scheme's.

What a scheme offers, `Quantizer.menu`, are its formats of up to 8 bits as one would try them first; another grain or
range is written out.
"""

from __future__ import annotations

import re

from mpsearch.core.errors import BadInput, nearest
from mpsearch.core.format import Format
from mpsearch.core.site import Role
from mpsearch.spec import registry

ALL = "all"
_WORD = re.compile(r"[a-z][a-z_]*")
_FIRST = "int"
"""Its formats come before others of their width, so that they make the uniform controls."""


def is_word(text: str) -> bool:
    """Whether `text` is a word, which has no bits, and not one format."""
    return _WORD.fullmatch(text) is not None


def schemes(word: str) -> tuple[str, ...]:
    """Those whose formats `word` stands for. Raises `BadInput` where it is the name of none."""
    known = registry.names("quantizers")
    if word == ALL:
        return tuple(sorted(known, key=lambda name: (name != _FIRST, name)))
    if word not in known:
        raise BadInput(
            f"{word!r} is neither a format (a scheme and bits, as int4) nor a scheme, whose name stands for all "
            f"that it offers.{nearest(word, [ALL, *known])}"
        )
    return (word,)


def offered(word: str, role: Role) -> tuple[Format, ...]:
    """The formats that `word` stands for at a site of `role`; none where there is none for it.

    Raises `BadInput` on a word that is no scheme.
    """
    found: dict[Format, None] = {}
    for scheme in schemes(word):
        quantizer = registry.load("quantizers", scheme)()
        for text in quantizer.menu:
            try:
                found[quantizer.canonical(Format.parse(text), role)] = None
            except BadInput:  # not for this role
                continue
    return tuple(found)
