"""The card of an accelerator: one YAML file, every number with its unit in its name and its source beside it.

What all kinds of accelerators have in common is here; a kind adds its own block (`mpsearch/cost/accelerators/`).
Nothing is guessed: what a card does not say, no measure is made of.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PrivateAttr, StrictBool, StrictFloat, StrictInt, StrictStr, ValidationError

from mpsearch.core.errors import BadInput
from mpsearch.spec import registry
from mpsearch.spec.check_card import check_card, hint
from mpsearch.spec.explain import Faults, lines, model_in, validate
from mpsearch.spec.schema import Part, card_name
from mpsearch.spec.source import read_file
from mpsearch.spec.texts import Text

NEED_A_CARD = ("latency_s", "energy_j")
"""Measures that only a device has."""
MAY_HAVE_A_CARD = (*NEED_A_CARD, "memory_bytes", "activation_peak_bytes")
"""Measures that a device may have its own of: of memory, by how tensors lie there."""

Number = Annotated[StrictFloat, Field(ge=0)]
Positive = Annotated[StrictFloat, Field(gt=0)]
Fraction = Annotated[StrictFloat, Field(gt=0, le=1)]
Seconds = Annotated[StrictFloat, Field(ge=0, le=1000)]
Whole = Annotated[StrictInt, Field(gt=0, le=1 << 50)]
"""Far above any size, and small enough that sums of them are exact."""


class Block(Part):
    """A block of a card that can check more of itself than the types of its values."""

    def faults(self) -> Faults:
        """What is wrong, with the path inside the block: what is allowed and the next step."""
        return []


class Layout(Part):
    """How tensors lie in the memory of the device."""

    weight_pack: Literal["bit", "row", "word", "container", "tile"] = Field(
        default="bit",
        description="bit: codes without gaps; row: each output channel starts on a byte; word: no code straddles a "
        "word; container: each code in the next of storage_bits; tile: padded to tiles of the multiplier.",
    )
    word_bits: Whole = 32
    storage_bits: tuple[Whole, ...] = Field(
        default=(1, 2, 4, 8, 16, 32), min_length=1, description="Containers that exist."
    )
    tile: tuple[Whole, Whole] = Field(default=(1, 1), description="Output channels and length of the sum of a tile.")
    align_bytes: Annotated[StrictInt, Field(gt=0, le=1 << 20)] = Field(
        default=1, description="Every tensor starts at a multiple."
    )


class InPlace(Part):
    """Which operations overwrite their input."""

    elementwise: StrictBool = True
    depthwise: StrictBool = False


class Level(Part):
    """A memory, from the inner to the outer."""

    level: Text
    bytes: Whole | None = None
    read_bytes_per_s: Positive | None = None
    energy_j_per_bit: Number | None = None


class Energy(Part):
    """E_mac(w, a) = mac_pj_per_bit2 * w * a + acc_pj_per_bit * acc_bits picojoules."""

    mac_pj_per_bit2: Positive
    acc_pj_per_bit: Number
    acc_bits: Whole = 32
    static_w: Number | None = None


class Calibration(Part):
    """A line from the sum of the card's times to measured whole-model times, and how good it is."""

    intercept_s: Seconds = 0.0
    slope: Positive = 1.0
    n_anchors: Annotated[StrictInt, Field(ge=0)] = 0
    heldout_mape: Number | None = None


class Card(Block):
    """What every card says. Kinds derive from it and add their block."""

    schema_: Literal["mpsearch.accelerator/1"] = Field(alias="schema")
    name: Annotated[StrictStr, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")] = Field(
        description="The name of the file without .yaml."
    )
    kind: Text
    status: Literal["analytic", "calibrated", "measured"]
    src: dict[StrictStr, Text] = Field(min_length=1, description="Source of the numbers of each block, by its name.")
    note: Text | None = Field(default=None, description="What a reader of its figures should know.")
    layout: Layout = Layout()
    inplace: InPlace = InPlace()
    memory: tuple[Level, ...] = ()
    energy: Energy | None = None
    calibration: Calibration = Calibration()
    _folder: Path = PrivateAttr(default=Path())

    @property
    def folder(self) -> Path:
        """Where the card's file lies: files that it names lie beside it."""
        return self._folder

    def faults(self) -> Faults:
        """Faults of several blocks together. Those of one block are its own (`Block.faults`)."""
        found: Faults = []
        for i, (inner, outer) in enumerate(pairwise(self.memory), 1):
            if inner.bytes is not None and outer.bytes is not None and inner.bytes >= outer.bytes:
                message = f"is not larger than {inner.level!r} before it; list levels from the inner to the outer."
                found.append((("memory", i, "bytes"), message))
            fast, slow = inner.read_bytes_per_s, outer.read_bytes_per_s
            if fast is not None and slow is not None and fast < slow:
                message = f"is faster than {inner.level!r} before it; list levels from the inner to the outer."
                found.append((("memory", i, "read_bytes_per_s"), message))
        line, measured = self.calibration, getattr(self, "measurement", None)
        if self.status == "calibrated" and (line.n_anchors < 2 or line.heldout_mape is None):
            message = "'calibrated' needs calibration.n_anchors (2 whole models that were measured, or more) and"
            found.append(
                (("status",), f"{message} calibration.heldout_mape (the error on others); else write analytic.")
            )
        if self.status == "measured" and measured is None:
            message = "'measured' is for tables with a measurement block, which says what ran"
            found.append((("status",), f"{message}; write analytic, or calibrated with what it was fitted to."))
        if (line.intercept_s or line.slope != 1) and not line.n_anchors and measured is None:
            message = "is a line through measured whole models; write n_anchors, how many, or leave it out."
            found.append((("calibration",), message))
        return found


def load_card(path: Path) -> Any:
    """The accelerator that the card in the file `path` describes.

    Returns:
        An `mpsearch.cost.accelerators.base.Accelerator`, of the class that the registry knows by the card's kind.

    Raises:
        BadInput: with every fault found: its place, what is allowed and the next step.
    """
    source = read_file(path, "card")
    data = source.data
    faults = list(source.errors)
    card_type: type[Card] = Card
    device: Any = None
    kind = data.get("kind")
    if isinstance(kind, str):
        try:
            device = registry.load("accelerators", kind)
            card_type = device.card_type
        except BadInput as error:
            faults.append((("kind",), str(error)))
    elif "kind" not in data:
        kinds = ", ".join(registry.names("accelerators"))
        faults.append((("kind",), f"is required and missing; the kinds are {kinds}."))
    blocks = {f.alias or name: f.annotation for name, f in card_type.model_fields.items()}
    card, found = validate(card_type, data, hint)
    faults += check_card(data, card_name(path), list(blocks))
    told = {where for where, _ in faults}
    foreign = set() if device is not None else {(key,) for key in data} - {(key,) for key in blocks}
    faults += [fault for fault in found if fault[0] not in told | foreign]
    for name, annotation in blocks.items():
        faults += [((name, *where), message) for where, message in _faults(annotation, data.get(name))]
    whole = card or _without(card_type, data, {where[0] for where, _ in found if where})
    if whole is not None:
        whole._folder = path.parent
        faults += whole.faults()
    if faults:
        raise BadInput(*dict.fromkeys(lines(source, faults)))
    return device(card)


def _without(card_type: type[Card], data: dict[str, Any], faulty: set[Any]) -> Card | None:
    """A card of the well-formed blocks, so that what they say together is checked too; None if there is none."""
    head = {"schema": "mpsearch.accelerator/1", "name": "card", "status": "analytic", "src": {"card": "none"}}
    card, _ = validate(card_type, {key: value for key, value in data.items() if key not in faulty} | head)
    return card


def _faults(annotation: Any, data: object) -> Faults:
    """What a block says of itself, as long as it is well formed: a fault elsewhere must not hide it."""
    kind = model_in(annotation)
    if kind is None or not issubclass(kind, Block) or not isinstance(data, dict):
        return []
    try:
        return kind.model_validate(data).faults()
    except ValidationError:
        return []
