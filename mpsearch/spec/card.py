"""The card of an accelerator: one YAML file, every number with its unit in its name and its source beside it.

What all kinds of accelerators have in common is here; a kind adds its own block (`mpsearch/cost/accelerators/`).
Nothing is guessed: what a card does not say, no measure is made of.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StrictBool, StrictFloat, StrictInt, StrictStr

from mpsearch.spec.schema import Part, Text

Number = Annotated[StrictFloat | StrictInt, Field(ge=0)]
Positive = Annotated[StrictFloat | StrictInt, Field(gt=0)]
Whole = Annotated[StrictInt, Field(gt=0)]


class Layout(Part):
    """How tensors lie in the memory of the device."""

    weight_pack: Literal["bit", "row", "word", "container", "tile"] = Field(
        default="bit",
        description="bit: codes without gaps; row: each output channel starts on a byte; word: no code straddles a "
        "word; container: each code in the next of storage_bits; tile: padded to tiles of the multiplier.",
    )
    word_bits: Whole = 32
    storage_bits: tuple[Whole, ...] = Field(default=(1, 2, 4, 8, 16, 32), description="Containers that exist.")
    tile: tuple[Whole, Whole] = Field(default=(1, 1), description="Output channels and length of the sum of a tile.")
    align_bytes: Whole = Field(default=1, description="Every tensor starts at a multiple.")


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

    intercept_s: StrictFloat = 0.0
    slope: Positive = 1.0
    n_anchors: Annotated[StrictInt, Field(ge=0)] = 0
    heldout_mape: Number | None = None


class Card(Part):
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
