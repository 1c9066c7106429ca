"""What a quantized tensor stores beside its codes, in bits, as a formula of the counts.

Grids say themselves what they store (`Grid.nbits`); these are the formulas that they are checked by, and that bits per
weight of published formats follow from.
"""

from __future__ import annotations


def groups(rows: int, columns: int, group: int) -> int:
    """Groups of `group` consecutive columns of each row: a partial last one counts as one."""
    return rows * -(-columns // group)


def scale_bits(count: int, scale: int = 32, zero_point: int = 0) -> int:
    """A scale for each of `count` groups, and a zero point where codes are not symmetric."""
    return count * (scale + zero_point)


def nested_scale_bits(count: int, scale: int, group: int, outer: int = 32) -> int:
    """Scales that are quantized themselves, `group` of them to one outer scale."""
    return count * scale + -(-count // group) * outer


def codebook_bits(count: int, bits: int, entry: int = 32) -> int:
    """`count` codebooks with an entry for each code of `bits` bits."""
    return count * (1 << bits) * entry


def pruned_bits(n: int, bits: int, keep: int, of: int) -> int:
    """Codes and positions of `n` numbers of which `keep` in every `of` are stored. `of` is a power of two."""
    return n * keep // of * (bits + (of - 1).bit_length())
