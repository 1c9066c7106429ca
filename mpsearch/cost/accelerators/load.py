"""From the file of a card to the accelerator that it describes."""

from __future__ import annotations

from pathlib import Path

from mpsearch.core.errors import BadInput
from mpsearch.cost.accelerators.base import Accelerator
from mpsearch.spec.card import load_card


def load_accelerator(path: Path) -> Accelerator:
    """The accelerator whose card is in the file `path` (see `find_card`).

    Raises `BadInput` with every fault of the card, or if what is registered under its kind is no accelerator.
    """
    found = load_card(path)
    if not isinstance(found, Accelerator):
        raise BadInput(
            f"{path}: kind: {type(found).__name__} is registered as an accelerator and does not derive from it."
        )
    return found
