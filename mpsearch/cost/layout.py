"""How many bits a tensor takes in the memory of a device, by the layout that its card names."""

from __future__ import annotations

from collections.abc import Sequence

from mpsearch.core.codes import Codes
from mpsearch.cost.memory import Packed, PackedAt, Parameter, Value, held_together, part, static_bits
from mpsearch.cost.peak import Peak
from mpsearch.cost.sums import Sum
from mpsearch.cost.workload import Held
from mpsearch.spec.card import InPlace, Layout


def stored_bits(layout: Layout, held: Held, packed: Packed | None) -> int:
    """Bits of `held`: its codes in `layout`, then scales and zero points as its format stores them.

    Args:
        packed: what it takes in its format; None where it stays as it is.
    """
    codes = code_bits(layout, held, packed)
    return codes if packed is None else codes + _up(packed.static_bits, 8 * layout.align_bytes)


def code_bits(layout: Layout, held: Held, packed: Packed | None) -> int:
    """Bits of the codes of `held` in `layout`, gaps included. Each of its arrays starts at a multiple of the alignment.

    * bit: ceil(n b / 8) bytes. row: rows * ceil(columns b / 8) bytes.
    * word: W * ceil(n / floor(W / b)) bits: no code straddles a word of W; one that is longer takes whole words.
    * container: n times the next of `storage_bits`; a code longer than all of them takes several of the last.
    * tile: matrices of weights padded to (tile rows, tile columns), the rest as row.

    Scales, indices and pointers that are worked out as the model runs are arrays of their own, as wide as they are; so
    are codes that stand for several elements, which no tile pads. Digits of binary vectors fill words without gaps.
    """
    n = held.elements
    if not n:
        return 0
    arrays = (Codes(n, held.float_bits),) if packed is None else packed.arrays or (_even(packed.code_bits, n),)
    return sum(_up(_laid(layout, held, codes), 8 * layout.align_bytes) for codes in arrays)


def _even(total: int, n: int) -> Codes:
    """What is known of so many bits of `n` elements alone: codes of whole bits, else a stream."""
    return Codes(total, 1, is_stream=True) if total % n else Codes(n, total // n)


def _laid(layout: Layout, held: Held, codes: Codes) -> int:
    """Bits of one array, from its first code to its last."""
    count, bits = codes.count, codes.bits
    match layout.weight_pack:
        case "bit":
            return codes.total_bits
        case "word":
            return layout.word_bits * _words(count, bits, layout.word_bits)
        case "container" if not codes.is_stream:
            return count * _container(bits, layout.storage_bits)
        case "tile" if held.is_parameter and held.rows > 1 and count == held.elements:
            return _up(held.rows, layout.tile[0]) * _up(-(-count // held.rows), layout.tile[1]) * bits
        case "row" | "tile" if count % held.rows == 0:
            return held.rows * _up(count // held.rows * bits, 8)
        case _:
            return codes.padded_bits


def device_memory(layout: Layout, parameters: Sequence[Parameter], values: Sequence[Value], packed: PackedAt) -> Sum:
    """`memory_bytes` with every tensor in the layout of a device: parameters, and static grids of quantized values."""
    alignment = 8 * layout.align_bytes

    def stored(parameter: Parameter, taken: Packed | None) -> int:
        gained = 0 if taken is None else _up(parameter.correction_bits, alignment)
        return stored_bits(layout, parameter, taken) + gained

    def static(value: Value, taken: Packed | None) -> int:
        return _up(static_bits(value, taken), alignment)

    parts = [part(parameter, packed, stored) for parameter in parameters]
    return Sum([*parts, *(part(v, packed, static) for v in values if v.site is not None)], per=8, whole=True)


def device_peak(layout: Layout, in_place: InPlace, values: Sequence[Value], packed: PackedAt) -> Peak:
    """`activation_peak_bytes` with values in the layout of a device, and made in place where it does that."""

    parts = [part(v, packed, lambda value, taken: code_bits(layout, value, taken) // 8) for v in values]
    return Peak(parts, held_together(values, lambda value: overwrites(in_place, value)))


def overwrites(in_place: InPlace, value: Value) -> bool:
    """Whether a device makes `value` in the memory of the operand that it may overwrite."""
    return in_place.depthwise if value.is_depthwise else in_place.elementwise


def _up(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple


def _words(n: int, bits: int, word: int) -> int:
    return -(-n // (word // bits)) if bits <= word else n * -(-bits // word)


def _container(bits: int, containers: Sequence[int]) -> int:
    return min((size for size in containers if size >= bits), default=_up(bits, max(containers)))
