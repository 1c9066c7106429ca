"""A cache of values bounded in bytes: what was used longest ago goes first."""

from __future__ import annotations

import ctypes
from collections import OrderedDict
from collections.abc import Hashable
from typing import Any

from torch import Tensor

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # from glibc's malloc.h


def nbytes(value: Any) -> int:
    """Bytes that keeping `value` (a tensor, or a nest of them) holds in memory."""
    if isinstance(value, Tensor):
        if value.is_sparse_csr:
            return value.values().nbytes + value.col_indices().nbytes + value.crow_indices().nbytes
        return value.untyped_storage().nbytes()
    if isinstance(value, (tuple, list)):
        return sum(map(nbytes, value))
    if isinstance(value, dict):
        return sum(map(nbytes, value.values()))
    return 0


class Memo:
    """Values by key, at most `capacity` bytes of them. A smaller one is slower, never wrong."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.used = 0
        self._values: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()

    def get(self, key: Hashable) -> Any:
        """The value, now the most recently used, or None."""
        entry = self._values.get(key)
        if entry is None:
            return None
        self._values.move_to_end(key)
        return entry[0]

    def put(self, key: Hashable, value: Any) -> bool:
        """Keep `value` if it fits, making room by dropping the least recently used; whether it is kept."""
        size = nbytes(value)
        if size > self.capacity:
            return False
        self.used += size - self._values.pop(key, (None, 0))[1]
        self._values[key] = (value, size)
        while self.used > self.capacity:
            self.used -= self._values.popitem(last=False)[1][1]
        return True

    def demote(self, key: Hashable) -> None:
        """Let the value of `key`, if there is one, be the next to go."""
        if key in self._values:
            self._values.move_to_end(key, last=False)

    def clear(self) -> None:
        """Forget everything."""
        self._values.clear()
        self.used = 0

    def __len__(self) -> int:
        return len(self._values)


def keep_freed_memory() -> None:
    """Let the C library keep freed memory instead of handing it back to the system.

    Values of the same sizes are made and dropped thousands of times. Every page that comes back from the system costs
    a fault and a wipe, a third of a cold evaluation of a small network. Does nothing where the C library is not glibc.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 32 << 20)
        mallopt(_M_TRIM_THRESHOLD, -1)
