"""What was last made of a tensor, so that the formats of one sample share it."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from torch import Tensor

_T = TypeVar("_T")


class Latest(Generic[_T]):
    """One thing, kept as long as the tensor it was made of lives and nothing else is asked for."""

    def __init__(self) -> None:
        self._of: weakref.ref[Tensor] | None = None
        self._key: Hashable = None
        self._made: _T | None = None

    def get(self, x: Tensor, key: Hashable, make: Callable[[], _T]) -> _T:
        """What `make` gave for `x` and `key`; made again if `x` is another tensor or was written to."""
        if x.is_inference():  # nobody counts what is written to it
            return make()
        key = (x._version, key)
        if self._made is None or self._of is None or self._of() is not x or self._key != key:
            self._made = make()
            self._of, self._key = weakref.ref(x, self._drop), key
        return self._made

    def _drop(self, gone: weakref.ref[Tensor]) -> None:
        if gone is self._of:
            self._of, self._made = None, None
