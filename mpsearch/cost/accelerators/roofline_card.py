"""The card of a roofline: legal precisions, efficiencies, overheads, and what joins the kernel of its producer."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from mpsearch.core.errors import nearest
from mpsearch.cost.accelerators.precision import Precision
from mpsearch.cost.workload import Kind
from mpsearch.spec.card import Card, Fraction, Number, Seconds
from mpsearch.spec.explain import Faults
from mpsearch.spec.schema import Part

_MULTIPLIES = (
    Kind.CONV, Kind.CONV_TRANSPOSED, Kind.LINEAR, Kind.MATMUL, Kind.RECURRENT, Kind.SCALE, Kind.SPMM,
)  # fmt: skip
_SPECIAL = ("conv_first", "conv_depthwise", "conv_pointwise")


def _by_precision(value: Any) -> Any:
    return value if isinstance(value, dict) else {"all": value}


Efficiencies = Annotated[dict[str, Fraction], BeforeValidator(_by_precision, json_schema_input_type=Any)]


class Overhead(Part):
    """What a kernel takes apart from its work."""

    launch_s: Seconds | None = Field(default=None, description="Per kernel; null: not known, counted as none.")
    convert_s_per_element: dict[Annotated[str, Field(pattern=r"^(int|fp|bf)\d+->(int|fp|bf)\d+$")], Number | None] = (
        Field(default={}, description="To bring a value into the format that a kernel runs at: 'int8->fp32'.")
    )


class RooflineCard(Card):
    """A card of this kind."""

    kind: Literal["roofline"]
    precision: Precision
    efficiency: dict[str, Efficiencies] = Field(
        default={},
        description="Fraction of the peak, by kind of operation (also conv_first, conv_depthwise, conv_pointwise): a "
        "number, or one per precision {w8a8: 0.1, fp32: 0.4, all: 0.2}; of the bandwidth where nothing is multiplied.",
    )
    overhead: Overhead = Overhead()
    fusion: tuple[Kind, ...] = Field(
        default=(Kind.ELEMENTWISE,), description="Kinds that join the kernel of their producer."
    )

    def faults(self) -> Faults:
        """Efficiencies name what exists, and all precisions of a kind where they name one."""
        found = super().faults()
        for name, by_label in self.efficiency.items():
            if name not in (*Kind, *_SPECIAL):
                hint = nearest(name, [*map(str, Kind), *_SPECIAL])
                found.append((("efficiency", name), f"unknown kind of operation {name!r}.{hint}"))
                continue
            kind = Kind.CONV if name in _SPECIAL else Kind(name)
            rows = self.precision.legal if kind in _MULTIPLIES else ()
            able = [row.label for row in rows if row.kinds is None or kind in row.kinds]
            for label in by_label:
                if label not in (*able, "all"):
                    message = f"{name} has no precision {label!r}.{nearest(label, [*able, 'all'])}"
                    found.append((("efficiency", name, label), message))
            left = [label for label in able if label not in by_label and "all" not in by_label]
            if left:
                message = (
                    f"says nothing of {', '.join(left)}, which would count as running at its peak beside others that "
                    "do not; name it, or write all: for the rest."
                )
                found.append((("efficiency", name), message))
        return found
