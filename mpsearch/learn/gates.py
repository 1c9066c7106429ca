"""DropBits-style learned bits: gates drop bits of uniform grids, and a penalty on what the bits cost closes them.

After "Semi-relaxed quantization with DropBits" (Lee et al., arXiv 1911.12990) and "Cluster-promoting quantization with
bit-drop" (arXiv 2109.02100). Of both only the abstracts could be read, and no code of theirs was found; so this is
their idea and no reproduction: the layout of the masks, what the gradient passes to, constants, schedule and results
could not be verified.

The options of a choice, integers of rising width, are nested lattices of each of its tensors (`NESTINGS`). A gate z in
[0, 1] for each but the lowest says how far it is open; the product G of those up to a lattice is its share of the next
lower ones'. So the numbers that a value may become have a distribution, a mixture of lattices with weights
G_b - G_(b+1), and within each one the distribution that logistic noise gives, as in relaxed quantization (Louizos et
al., arXiv 1810.01875). Forward is its mode, on a grid always: the lattice of largest weight, the number that is nearest
there. Backward is that of its mean, sum of G_b (x_b - x_(b-1)), to the gates exactly. To values and steps the slope of
the mean is within 14 % of 1 inside of the ends at a noise of a third of a step, and taken as that of LSQ.

Gates are hard concrete (Louizos et al., arXiv 1712.01312; constants as in Bayesian Bits, van Baalen et al., arXiv
2005.07093), one sample for each step and choice, so tied sites lose bits together. A training warms up with all gates
open, then learns with noise while the penalty rises, then hardens: a gate is open where phi > 0, and stays so. The rest
of the epochs finetunes steps and weights at these formats, as `lsq`. BatchNorm is folded, so nothing is re-estimated.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from mpsearch.core.errors import BadInput
from mpsearch.core.format import Format
from mpsearch.core.site import Site
from mpsearch.core.space import Choice, Space
from mpsearch.cost.terms import Cost
from mpsearch.learn.expected import Expected
from mpsearch.learn.lsq import Lsq, on_learned_grid
from mpsearch.quant.affine import AffineGrid

LOW, HIGH, TEMPERATURE = -0.1, 1.1, 2 / 3
"""Of the hard concrete distribution: it is stretched to these ends, then clipped to [0, 1]."""
FIRST_PHI = 2.5
"""Of every gate: it is above zero with a probability of 0.984."""
WARM_UP, HARDEN, RAMP = 0.1, 0.65, 1 / 3
"""Shares of the epochs before gates are learned and before they are hardened; of those in between, where the penalty
has risen to its own."""
NESTINGS = ("resolution", "range")
"""One bit less doubles the step and keeps the range, or halves the range and keeps the step."""


def ladder(choice: Choice) -> tuple[Format, ...]:
    """The options of `choice` that bits are learned between, by width: integers alike but for their width.

    The only option of a choice is its ladder, whatever it is. Raises `BadInput` where there are several, none of them
    an integer of 2 bits or more that is rounded to nearest.
    """
    if len(choice.options) == 1:
        return choice.options
    fit = [f for f in choice.options if f.scheme == "int" and f.bits >= 2 and not {"rows", "stochastic"} & {*f.options}]
    if not fit:
        raise BadInput(
            f"{choice.name}: bits are learned between integers of 2 bits and more, rounded to nearest; among "
            f"{', '.join(map(str, choice.options))} there is none. Offer some, or a single format."
        )
    widest = max(fit, key=lambda fmt: fmt.bits)
    return tuple(sorted((f for f in fit if f.options == widest.options), key=lambda fmt: fmt.bits))


class Gates(Lsq):
    """Learned steps, and of each choice with several options that differ in cost the bits; others stay as they start.

    Args:
        penalty: what is added to the loss where the cost is that of the widest options.
        cost: name of the cost.
        nesting: `resolution` or `range`.
        gate_rate: how many times as fast as everything else gates are learned.
    """

    scores_as = "lsq"

    def __init__(
        self,
        penalty: float = 0.1,
        cost: str = "weight_bits",
        nesting: str = NESTINGS[0],
        gate_rate: float = 20.0,
    ) -> None:
        super().__init__()
        if not (isinstance(penalty, (int, float)) and 0 <= penalty < math.inf):
            raise BadInput(f"gates: penalty {penalty!r} is no number from 0 on.")
        if not (isinstance(gate_rate, (int, float)) and 0 < gate_rate < math.inf):
            raise BadInput(f"gates: gate_rate {gate_rate!r} is no number above 0.")
        if nesting not in NESTINGS:
            raise BadInput(f"gates: nesting {nesting!r} is not known. Allowed: {', '.join(NESTINGS)}.")
        self._penalty, self._cost_name, self._nesting, self._rate = penalty, cost, nesting, gate_rate
        self._ladders: list[tuple[Format, ...]] = []  # of the choices, from the lowest to where each started
        self._of_site: dict[str, int] = {}
        self._phi: dict[int, nn.Parameter] = {}  # by choice: of each option but the lowest, over the rate of gates
        self._choice: dict[int, int] = {}  # of gated sites
        self._lattices: dict[int, list[AffineGrid]] = {}  # of gated sites, by option, at the steps they were fitted
        self._drawn: dict[int, list[Tensor]] = {}  # G of each option, in this step
        self._pressure = 0.0  # share of the penalty that is on
        self._learning = False
        self._hardened = False

    @property
    def settled(self) -> bool:
        return self._hardened

    def offer(self, space: Space, cost: Callable[[str], Cost | None]) -> None:
        table = cost(self._cost_name)
        if table is None:
            raise BadInput(f"gates: {self._cost_name!r} is no cost that follows from the formats.")
        self._ladders = [ladder(choice) for choice in space.choices]
        self._of_site = {site: i for i, choice in enumerate(space.choices) for site in choice.sites}
        self._table, self._options = table, [choice.options for choice in space.choices]

    def place(self, sites: Sequence[Site], formats: Sequence[Format], weights: Mapping[int, Tensor]) -> None:
        super().place(sites, formats, weights)
        for site, fmt in enumerate(formats):
            i = self._of_site[sites[site].name]
            rungs = self._ladders[i]
            self._ladders[i] = rungs[: rungs.index(fmt) + 1] if fmt in rungs else (fmt,)  # from where it starts, down
        self._expected = Expected(self._table, self._options, self._ladders)
        for site, noun in enumerate(sites):
            if self._expected.depends_on(self._of_site[noun.name]):  # else nothing would close its gates
                self._choice[site] = self._of_site[noun.name]
        self._phi = {
            i: nn.Parameter(torch.full((len(self._ladders[i]) - 1,), FIRST_PHI / self._rate))
            for i in sorted(set(self._choice.values()))
        }

    def __call__(self, site: int, value: Tensor) -> Tensor:
        if self._hardened or site not in self._lattices:
            return super().__call__(site, value)
        if not (self.training and self._learning):
            return self._on_lattice(site, value, self._level(site))
        return self._mixed(site, value, self._opened(self._choice[site]))

    def _mixed(self, site: int, value: Tensor, opened: list[Tensor]) -> Tensor:
        """The mode of the mixture of lattices, with the gradients of its mean."""
        weights = [a - b for a, b in zip(opened, [*opened[1:], torch.zeros(())], strict=True)]
        sizes = [float(weight.detach()) for weight in weights]
        found = {b: self._on_lattice(site, value, b) for b, size in enumerate(sizes) if size > 0}
        mode = max(found, key=lambda b: sizes[b])
        if len(found) == 1:
            return found[mode]
        mean = torch.stack([weights[b].to(value) * x for b, x in found.items()]).sum(0)
        return found[mode].detach() + (mean - mean.detach())  # exactly the mode: what is added is zero

    def _on_lattice(self, site: int, value: Tensor, level: int) -> Tensor:
        grid = self._lattices[site][level]
        return on_learned_grid(value, grid, grid.scale * self._steps[site].exp())

    def _level(self, site: int) -> int:
        """The option that the gates of a site are open to."""
        return int((self._phi[self._choice[site]].detach() > 0).long().cumprod(0).sum())

    def _opened(self, choice: int) -> list[Tensor]:
        """G of each option, drawn when first asked for in a step."""
        if choice not in self._drawn:
            z = hard_concrete(self._phi[choice] * self._rate)
            self._drawn[choice] = [torch.ones(()), *z.cumprod(0)]
        return self._drawn[choice]

    def parameters(self) -> list[nn.Parameter]:
        return [*super().parameters(), *self._phi.values()]

    def penalty(self) -> Tensor | None:
        """The expected cost, as a share of that of the widest options, times the penalty of now."""
        if not self._pressure or not self._phi:
            return None
        return self._penalty * self._pressure * self.expected_cost()

    def expected_cost(self) -> Tensor:
        """Over the cost of the widest options: of the formats that gates leave, by the chance of each."""
        gates = [self._phi.get(i) for i in range(len(self._ladders))]
        chances = [None if phi is None else option_chances(phi * self._rate) for phi in gates]
        return self._expected(chances) / self._expected([None] * len(gates))

    def stepped(self) -> None:
        self._drawn.clear()

    def advance(self, epoch: int, epochs: int) -> None:
        begin = math.floor(WARM_UP * epochs)
        end = min(epochs - 1, max(begin + 1, round(HARDEN * epochs)))
        self._learning = begin <= epoch < end
        self._pressure = min(1.0, (epoch + 1 - begin) / (RAMP * (end - begin))) if self._learning else 0.0
        if epoch >= end:
            self._settle()

    def _settle(self) -> None:
        """Close what is closed; from now on this is learned steps."""
        if self._hardened:
            return
        self._hardened, self._learning, self._pressure = True, False, 0.0
        for site, i in self._choice.items():
            level = self._level(site)
            self._formats[site], self._grids[site] = self._ladders[i][level], self._lattices[site][level]

    def changed(self) -> Mapping[int, Format]:
        return {site: self._formats[site] for site in self._choice} if self._hardened else {}

    def fit(self, observe: Callable[..., object]) -> None:
        super().fit(observe)
        for site in self._choice:
            if site not in self._lattices:
                self._lattices[site] = self._nested(site)

    def _nested(self, site: int) -> list[AffineGrid]:
        """The lattices of a site, all at the step of the widest."""
        top = self._grids[site]
        assert isinstance(top, AffineGrid)
        found = [nested(top, int(fmt.bits), self._nesting) for fmt in self._ladders[self._choice[site]]]
        return [on_better_side(grid, self._weights[site]) for grid in found] if site in self._weights else found

    def extra(self) -> dict[str, Tensor]:
        return {"settled": torch.tensor(self._hardened)}

    def take_extra(self, extra: Mapping[str, Tensor]) -> None:
        if extra["settled"]:
            self._settle()


def nested(top: AffineGrid, bits: int, nesting: str) -> AffineGrid:
    """The grid of `bits` bits inside of `top`: codes as a format of that width has them, zero among them.

    Two symmetric bits have a fourth number, at one end, that is not in the wider ones.
    """
    if bits == top.bits:
        return top
    ratio = 2 ** (top.bits - bits)
    scale = top.scale * (ratio if nesting == "resolution" else 1)
    if top.zero_point is not None:
        lowest = torch.ceil(top.lowest / ratio)
        return replace(top, bits=bits, qmin=0, qmax=2**bits - 1, scale=scale, zero_point=(-lowest).to(torch.int32))
    half = 2 ** (bits - 1)
    return replace(top, bits=bits, qmin=-half if bits == 2 else 1 - half, qmax=half - 1, scale=scale)


def on_better_side(grid: AffineGrid, weights: Tensor) -> AffineGrid:
    """`grid`, mirrored where that loses less of `weights`: two symmetric bits have more numbers on one side."""
    if -grid.qmin == grid.qmax or grid.zero_point is not None:
        return grid

    def loss(of: AffineGrid) -> Tensor:
        errors = (of.round_trip(weights.detach()) - weights.detach()).square()
        return of.grain.gather([block.sum(1) for block in of.grain.rows(errors)], tuple(weights.shape))

    mirrored = replace(grid, scale=-grid.scale)
    return replace(grid, scale=torch.where(loss(mirrored) < loss(grid), mirrored.scale, grid.scale))


def hard_concrete(phi: Tensor) -> Tensor:
    """A gate in [0, 1] for each of `phi`, with torch's generator."""
    noise = torch.rand_like(phi).clamp(1e-6, 1 - 1e-6)
    stretched = torch.sigmoid((noise.logit() + phi) / TEMPERATURE) * (HIGH - LOW) + LOW
    return stretched.clamp(0, 1)


def open_chance(phi: Tensor) -> Tensor:
    """Of each gate: how likely it is above zero."""
    return torch.sigmoid(phi - TEMPERATURE * math.log(-LOW / HIGH))


def option_chances(phi: Tensor) -> Tensor:
    """Of each option, from the lowest on: how likely all gates up to it are above zero, and the next is not.

    `phi` is of every option but the lowest.
    """
    reached = torch.cat([torch.ones(1), open_chance(phi).cumprod(0), torch.zeros(1)])
    return reached[:-1] - reached[1:]
