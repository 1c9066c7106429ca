"""How many bits a tensor takes in the memory of a device, by the layout that its card names."""

from __future__ import annotations

from collections.abc import Sequence

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
    """Bits of the codes of `held` in `layout`, gaps included: a multiple of its alignment.

    * bit: ceil(n b / 8) bytes. row: rows * ceil(columns b / 8) bytes.
    * word: W * ceil(n / floor(W / b)) bits: no code straddles a word of W; one that is longer takes whole words.
    * container: n times the next of `storage_bits`; a code longer than all of them takes several of the last.
    * tile: matrices of weights padded to (tile rows, tile columns), the rest as row.

    Where codes take no whole bits each (scales that are worked out as the model runs count as codes), what is beyond
    whole bits follows without gaps.
    """
    n = held.elements
    total = n * held.float_bits if packed is None else packed.code_bits
    if not n:
        return 0
    bits, beyond = divmod(total, n)
    match layout.weight_pack:
        case "bit":
            found = total
        case "word" if bits:
            found = layout.word_bits * _words(n, bits, layout.word_bits) + beyond
        case "container" if bits:
            found = n * _container(bits, layout.storage_bits) + beyond
        case "tile" if held.is_parameter and held.rows > 1:
            columns = -(-n // held.rows)
            found = _up(held.rows, layout.tile[0]) * _up(columns, layout.tile[1]) * bits + beyond
        case _:
            found = held.rows * _up(-(-total // held.rows), 8)
    return _up(found, 8 * layout.align_bytes)


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
