"""How drawn examples are drawn, and how models are exported.

Examples are the same on every machine, so that what fails once fails again; `--hypothesis-profile fresh` draws others.
Models are exported hundreds of times here; what torch repeats at each export is done once, with the same outcome.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
from hypothesis import settings

settings.register_profile("fresh", deadline=None)
settings.register_profile("same", deadline=None, derandomize=True)
settings.load_profile("same")

# the export writes traces to a log; nobody reads them here, and catching them takes a quarter of the time
logging.getLogger("torch.__trace").disabled = True


def pytest_collection_finish(session: pytest.Session) -> None:
    """Once the tests are read, torch is there where they need it, and not loaded where they do not."""
    if "torch" in sys.modules:
        _quicken_decompositions()


def _quicken_decompositions() -> None:
    """Two thirds of the time of a small export go into listing torch's composite operators and marking each for each
    backend: here the list is kept, and a mark is set without evaluating the type annotations of what sets it.
    """
    from torch import _ops
    from torch._C import DispatchKey
    from torch.export import exported_program

    collect = "_collect_all_valid_cia_ops"
    if hasattr(exported_program, collect):
        listed = cache(getattr(exported_program, collect))
        setattr(exported_program, collect, lambda: set(listed()))
    general = _ops.OperatorBase.py_impl

    def py_impl(self: Any, key: Any) -> Callable[[Any], Any]:
        if type(key) is not DispatchKey or key == DispatchKey.Python or key in self.py_kernels:
            return general(self, key)

        def mark(kernel: Any) -> Any:
            self.py_kernels[key] = kernel
            self._dispatch_cache.clear()
            return kernel

        return mark

    _ops.OperatorBase.py_impl = py_impl
