"""Codes of a few bits as a stream of bytes.

Code `i` of `n` takes the bits `i * bits` to `(i + 1) * bits - 1` of the stream; bit 0 is the lowest bit of
the first byte. So a stream has no gaps but the last byte's, and codes of 4 or 8 bits lie as most integer
kernels expect them.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

_BLOCK = 1 << 20  # codes expanded to single bits at a time: bounds the memory; a multiple of 8, so blocks end on bytes


def packed_bytes(count: int, bits: int) -> int:
    """Bytes that `count` codes of `bits` bits take."""
    return (count * bits + 7) // 8


def pack_codes(codes: Tensor, bits: int) -> Tensor:
    """Codes [any shape], integers in [0, 2**bits), as uint8 [packed_bytes], in row-major order."""
    words = codes.detach().cpu().reshape(-1).numpy().astype("<u2")
    stream = [
        np.packbits(
            np.unpackbits(block.view(np.uint8).reshape(-1, 2), axis=1, count=bits, bitorder="little"),
            bitorder="little",
        )
        for block in np.split(words, range(_BLOCK, len(words), _BLOCK))
    ]
    return torch.from_numpy(np.concatenate(stream))


def unpack_codes(stream: Tensor, bits: int, count: int) -> Tensor:
    """Inverse of `pack_codes`: int32 [count]."""
    data = stream.detach().cpu().numpy()
    codes = np.zeros((count, 2), np.uint8)
    for start in range(0, count, _BLOCK):
        size = min(_BLOCK, count - start)
        first = start * bits // 8
        single = np.unpackbits(data[first : first + packed_bytes(size, bits)], count=size * bits, bitorder="little")
        packed = np.packbits(single.reshape(size, bits), axis=1, bitorder="little")
        codes[start : start + size, : packed.shape[1]] = packed
    return torch.from_numpy(codes.view("<u2").reshape(-1).astype(np.int32))
