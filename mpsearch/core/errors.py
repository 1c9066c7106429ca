"""What can go wrong, and the exit code each kind of failure ends with.

    MpsearchError
    ├── BadInput            2   the request is wrong; nothing expensive has run
    ├── ObjectiveFailed     3   the objective cannot be trusted (baseline fails, is not deterministic, ...)
    │   └── Diverged            a training gave NaN or infinity
    ├── NothingFeasible     4   no assignment meets the limits; the nearest are kept
    ├── OutOfResources      5   disk, workers or a required tracking server
    └── NotReproduced       6   what was measured again is not what was said

A single failing evaluation is not an exception: it is an `Evaluation` with a `failure`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class MpsearchError(Exception):
    """Anything that the command line answers with one message and `exit_code`, never a traceback."""

    exit_code = 1


class BadInput(MpsearchError):
    """The user's input is wrong. Carries every error found, not only the first.

    Args:
        errors: one sentence each: the place, the value, what is allowed and the next step.
    """

    exit_code = 2

    def __init__(self, *errors: str) -> None:
        self.errors = errors
        super().__init__("\n".join(errors))


class ObjectiveFailed(MpsearchError):
    """The objective raised on the float model, gave NaN, or does not repeat itself."""

    exit_code = 3


class Diverged(ObjectiveFailed):
    """A training whose loss is not a finite number any more."""


class NothingFeasible(MpsearchError):
    """No evaluated assignment meets every limit."""

    exit_code = 4


class OutOfResources(MpsearchError):
    """The disk is full, workers are gone, or a tracking server that was required does not answer."""

    exit_code = 5


class NotReproduced(MpsearchError):
    """A number that a run claims is not found again."""

    exit_code = 6


def nearest(name: str, allowed: Iterable[str]) -> str:
    """A hint such as ` Did you mean 'optuna'? Allowed: exhaustive, optuna, random.`, for the end of a message."""
    known = sorted(set(allowed))
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return f"{hint} Allowed: {', '.join(known) if known else '(none)'}."
