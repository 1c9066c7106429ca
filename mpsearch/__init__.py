"""mpsearch: which precision where, as a verified Pareto front."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mpsearch.deploy.packed import load_packed

__version__ = "0.1.0"
__all__ = ["__version__", "load_packed"]

_LATE = {"load_packed": "mpsearch.deploy.packed"}


def __getattr__(name: str) -> Any:
    """What needs torch is imported when it is first asked for."""
    if name not in _LATE:
        raise AttributeError(f"module 'mpsearch' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_LATE[name]), name)
