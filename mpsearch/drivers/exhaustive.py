"""Exhaustive search: every assignment, in the order in which neighbours share most of the computation.

What a limit on a cost forbids is passed over.
"""

from __future__ import annotations

from itertools import islice

from mpsearch.core.errors import BadInput
from mpsearch.drivers.base import Driver, Session


class Exhaustive(Driver):
    """All assignments of the space, the last choice changing fastest, so that they walk a trie of prefixes.

    Args:
        max_size: the largest space this will start on.
        chunk: assignments handed over at once.
    """

    def __init__(self, max_size: int = 200_000, chunk: int = 1024) -> None:
        if max_size < 1 or chunk < 1:
            raise BadInput(f"max_size and chunk must be at least 1, got {max_size=}, {chunk=}.")
        self.max_size, self.chunk = max_size, chunk

    def search(self, session: Session) -> None:
        """Raises `BadInput` if the space is larger than `max_size`."""
        if session.space.size > self.max_size:
            raise BadInput(
                f"driver exhaustive: the space has {session.space.size:,} assignments, more than max_size="
                f"{self.max_size:,}; use another driver (optuna, random), or raise driver.options.max_size."
            )
        remaining = session.space.assignments()
        while chunk := list(islice(remaining, self.chunk)):
            if allowed := [assignment for assignment in chunk if not session.forbids(assignment)]:
                session.evaluate(allowed)
