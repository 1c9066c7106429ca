"""Memory of an assignment, exact, in integers: what is stored with the model, and what is held while it runs.

How many bits a tensor takes in a format is asked of its grid (`Packed`); nothing here knows a format.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TypeVar

from mpsearch.core.codes import Codes
from mpsearch.core.format import FP32, Format
from mpsearch.core.site import Bin
from mpsearch.cost.model import Measure
from mpsearch.cost.peak import Bools, Peak, steps_that_matter
from mpsearch.cost.sums import Part, Sum
from mpsearch.cost.workload import Held


@dataclass(frozen=True)
class Packed:
    """What a tensor takes in one format, in bits: all that is stored, the codes alone, and what is static.

    Args:
        arrays: what the codes are; none where all there is to know is how many bits they have.
    """

    bits: int
    code_bits: int
    static_bits: int
    arrays: tuple[Codes, ...] = ()

    @property
    def padded_code_bits(self) -> int:
        """The codes in whole bytes."""
        return sum(codes.padded_bits for codes in self.arrays or (Codes(self.code_bits, 1),))


PackedAt = Callable[[str, Format], Packed]
T = TypeVar("T", bound=Held)


@dataclass(frozen=True)
class Parameter(Held):
    """A stored tensor of the model.

    Args:
        counts: whether it is the weight of a conv, linear or recurrent layer, which average bits are taken over.
        correction_bits: what a bias adds that the layer has only when its weight is quantized.
    """

    is_parameter: bool = True
    counts: bool = False
    correction_bits: int = 0


@dataclass(frozen=True)
class Value(Held):
    """A value that the model makes while it runs.

    Args:
        born, dies: first and last step at which it is held, both inclusive.
        is_feature: whether it is a node feature or an attention of a GNN.
        overwrites: place, among the values of the model, of one whose memory it may take: that one has at least as
            many elements, and is read for the last time by what makes this one. None where there is none.
        bin: the nodes whose rows these are; None for all. Rows of a bin begin on bytes: they are found one by one.
        is_depthwise: whether a depthwise convolution makes it, which few runtimes do in place.
        score: of an attention, what its softmax is taken of, where that has a choice; else None.
    """

    born: int = 0
    dies: int = 0
    is_feature: bool = False
    overwrites: int | None = None
    is_depthwise: bool = False
    bin: Bin | None = None
    score: Value | None = None


def memory_measures(
    parameters: Sequence[Parameter], values: Sequence[Value], packed: PackedAt, knows_lifetimes: bool = True
) -> dict[str, Measure]:
    """The memory measures of a model on one batch, by name.

    * `memory_bytes`: tensor bytes of the packed artefact: every parameter and buffer, scales, zero points and static
      grids of quantized values; tied storage once.
    * `weight_bits`: code bits per element of the conv, linear and recurrent weights, scales apart.
    * `activation_sum_bytes`: all values. `activation_peak_bytes`: those held at the worst step, where an activation
      function overwrites what it alone reads and nothing else does.
    * `feature_bytes`: node features and attention of a GNN: the `mem_embed` of `mpsearch.cost.graph_memory`. Of
      attention whatever the aggregation reads: see `feature`.

    Args:
        packed: what a site takes in a format other than fp32.
        knows_lifetimes: whether `born` and `dies` of the values mean anything; without them there is no peak.
    """
    measures: dict[str, Measure] = {"memory_bytes": Sum(memory_parts(parameters, values, packed), per=8, whole=True)}
    counted = [p for p in parameters if p.counts]
    if elements := sum(p.elements for p in counted):
        measures["weight_bits"] = Sum([part(p, packed, code_bits) for p in counted], per=elements)
    sizes = [part(v, packed, value_bytes) for v in values]
    measures["activation_sum_bytes"] = Sum(sizes)
    if knows_lifetimes:
        measures["activation_peak_bytes"] = Peak(sizes, held_together(values, lambda _: False))
    if features := [feature(value, packed, value_bytes) for value in values if value.is_feature]:
        measures["feature_bytes"] = Sum(features)
    return measures


def chosen_measures(values: Sequence[Value], packed: PackedAt, chosen: Collection[str]) -> dict[str, Measure]:
    """`activation_bits`: bits per element of the values whose format is `chosen`; nothing where there are none.

    Scales of rows and blocks, which are made while the model runs, are counted; static ones are not.

    Args:
        chosen: names of sites.
    """
    mine = [v for v in values if v.site in chosen]
    elements = sum(v.elements for v in mine)
    return {"activation_bits": Sum([part(v, packed, code_bits) for v in mine], per=elements)} if elements else {}


def part(held: T, packed: PackedAt, units: Callable[[T, Packed | None], int]) -> Part:
    """What `held` costs by the format of its site.

    Args:
        units: the cost of `held`, from what it takes in its format; given None where it stays as it is.
    """
    site = held.site
    if site is None:
        return Part(held.name, (), lambda _: units(held, None))

    def at(formats: tuple[Format, ...]) -> int:
        return units(held, None if formats[0] == FP32 else packed(site, formats[0]))

    return Part(held.name, (site,), at)


def feature(value: Value, packed: PackedAt, units: Callable[[Value, Packed | None], int]) -> Part:
    """What a node feature or an attention costs.

    Attention without a format costs what its score does: the aggregation reads codes of scores, and divides by the
    running sum of their exponentials, as kernels of fused attention do (Dao et al., arXiv 2205.14135). With a format
    of its own the coefficients are stored, and read.
    """
    own, score = value.site, value.score
    if score is None or own is None or score.site is None:
        return part(value, packed, units)
    of_score = part(score, packed, units)

    def at(formats: tuple[Format, ...]) -> int:
        return of_score(formats[1:]) if formats[0] == FP32 else units(value, packed(own, formats[0]))

    return Part(value.name, (own, score.site), at)


def memory_parts(parameters: Sequence[Parameter], values: Sequence[Value], packed: PackedAt) -> list[Part]:
    """The parts of `memory_bytes`, in bits: parameters, and static grids of quantized values."""
    static = [part(v, packed, static_bits) for v in values if v.site is not None]
    return [*(part(p, packed, parameter_bits) for p in parameters), *static]


def parameter_bits(parameter: Parameter, packed: Packed | None) -> int:
    """All that is stored of a parameter, and of the bias that its layer gains."""
    return parameter.elements * parameter.float_bits if packed is None else packed.bits + parameter.correction_bits


def code_bits(held: Held, packed: Packed | None) -> int:
    """All but static scales; of what stays as it is, 32 for each number."""
    return 32 * held.elements if packed is None else packed.code_bits


def static_bits(value: Value, packed: Packed | None) -> int:
    """Scales and zero points of a value, which are stored with the model."""
    del value
    return 0 if packed is None else packed.static_bits


def value_bytes(value: Value, packed: Packed | None) -> int:
    """The codes of a value, in whole bytes."""
    if packed is None:
        return (value.elements * value.float_bits + 7) // 8
    if value.bin is not None:
        return value.rows * -(-packed.code_bits // (8 * value.rows))
    return packed.padded_code_bits // 8


def held_together(values: Sequence[Value], in_place: Callable[[Value], bool]) -> Bools:
    """Which values are held at each step that matters [steps, values].

    Operands and result of a step are held together, unless the result is made in place: then the operand ends before
    the result begins, and the step needs the larger of the two.

    Args:
        in_place: whether a value that may overwrite another one does.
    """
    born, dies = [2 * v.born for v in values], [2 * v.dies + 1 for v in values]  # each step has two halves
    for i, value in enumerate(values):
        if value.overwrites is not None and in_place(value):
            born[i] += 1
            dies[value.overwrites] -= 1
    return steps_that_matter(born, dies)
