"""OMPQ: a layer whose features resemble those of many others is redundant, and gets fewer bits.

Ma et al., "OMPQ: Orthogonal mixed precision quantization", AAAI 2023 (arXiv 2109.07865). What is known of the method
comes from the authors' released code and from the paper's abstract; the body of the paper could not be read, so none
of its ablations is taken as given here.

Published, and reproduced by `version: published`: features of all layers on one batch, pairwise similarity by linear
centred kernel alignment with the biased estimator, gamma = sum of a layer's similarities with the others, theta =
exp(-beta * gamma), averaged over a layer and all later ones; then a linear program that maximises importance times
bits within a model size, bits continuous and rounded afterwards, activations at one width. Deviations: the features
are taken in eval mode (the released script leaves BatchNorm in training mode), from calibration data without
augmentation; the program is solved to a vertex by the simplex method, not by a nonlinear solver whose last digits
decide a floor; a convolution on a shortcut has its own choice unless the space ties it.

Ours, the default: the debiased estimator (with 32 images the biased one takes wide independent features for equal), at
least 256 samples, gamma divided by the number of other layers so that beta means the same at any depth, no average
over later layers (nothing in orthogonality asks for it), the relative squared quantization error instead of bits
(which has diminishing returns and sees the formats), the exact front against every cost, and choices that are no
weights, weighed by the similarity of their own value.

The released configurations follow mostly from the sizes of the layers: with constant importance the linear program
gives 15 of 16 widths of the published ResNet-18 and all 53 of a MobileNetV2. That is why every run evaluates constant
and random importance beside the proxy.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import linprog

from mpsearch.core.assignment import Assignment
from mpsearch.core.errors import BadInput
from mpsearch.core.space import Choice
from mpsearch.cost.solve.solutions import spread
from mpsearch.drivers.base import Session
from mpsearch.drivers.proxy import TINY, Proxy, Scores
from mpsearch.graph.features import Features, Rows, Where
from mpsearch.graph.similarity import constant, orthogonality, redundancy, similarity, suffix_mean

Floats = NDArray[np.float64]
Version = Literal["published", "ours"]
Smoothing = Literal["suffix_mean", "none"]

LEAST, THIRDS = 4, 3
"""Rows that the debiased estimator needs, and in how many parts they are split to see how far they decide."""
FEW = 20
"""Up to so many layers the released code searches roundings that stay within the budget; beyond, it just rounds."""
_SAMPLES = {"published": 32, "ours": 256}
_BETA = {"published": 1.0, "ours": 10.0}
_SMOOTHING: dict[str, Smoothing] = {"published": "suffix_mean", "ours": "none"}
log = logging.getLogger("mpsearch.drivers")


class Ompq(Proxy):
    """A layer whose features resemble those of others gets fewer bits; constant and random importance beside it.

    Args:
        version: `ours` or `published`, see above.
        beta: how much redundancy costs; 0 makes all layers equal. None for 10 (ours) or 1 (published), where the
            released scripts give each network and budget its own, from 1e-9 to 100.
        samples: images; of transformers four times as many tokens and of graphs 16 times as many nodes are compared
            (published: as many rows). None for 256 (ours) or 32 (published).
        smoothing: `suffix_mean` averages over a layer and all later ones, `none` does not. None for the version's own.
        tap: `branch`, a layer's own result, or `post_residual`, the sum it enters. None for `post_residual`, as
            published for convolutional networks, except where there is attention.
    """

    def __init__(
        self,
        version: Version = "ours",
        beta: float | None = None,
        samples: int | None = None,
        smoothing: Smoothing | None = None,
        tap: Where | None = None,
    ) -> None:
        for name, value, allowed in (
            ("version", version, get_args(Version)),
            ("smoothing", smoothing, (None, *get_args(Smoothing))),
            ("tap", tap, (None, *get_args(Where))),
        ):
            if value not in allowed:
                raise BadInput(f"{name}: {value!r} is not possible; choose {' or '.join(filter(None, allowed))}.")
        if beta is not None and not 0 <= beta < np.inf:
            raise BadInput(f"beta={beta} is not possible; redundancy costs 0 or more.")
        if samples is not None and samples < LEAST:
            raise BadInput(f"samples={samples} are too few; the estimator needs at least {LEAST}.")
        self._published = version == "published"
        self._beta = _BETA[version] if beta is None else beta
        self._samples = samples or _SAMPLES[version]
        self._smoothing = smoothing or _SMOOTHING[version]
        self._tap = tap

    def check(self, session: Session) -> None:
        super().check(session)
        session.problem.probe()
        if not self._open_sites(session) and any(len(choice.options) > 1 for choice in session.space.choices):
            raise BadInput(
                "ompq as published chooses the widths of weights alone, and none has two widths to choose from; "
                "let some have, or set driver.options.version to ours."
            )

    def importance(self, session: Session) -> Mapping[str, float]:
        n, more = self._samples, not self._published
        limits: dict[Rows, int] = {"sample": n, "token": 4 * n if more else n, "node": 16 * n if more else n}
        sites = self._open_sites(session)
        found = session.problem.probe().features(sites, limits, session.seed, self._tap)
        theta = orthogonality(self._gamma(found), self._beta)
        smooth = suffix_mean(theta) if self._smoothing == "suffix_mean" else theta
        by_tap = dict(zip(found.order, np.maximum(smooth / smooth.mean(), TINY).tolist(), strict=True))
        return {site: by_tap[found.tap_of[site]] for site in sites}

    def _gamma(self, found: Features) -> Floats:
        """Redundancy [taps] above the mean of those with the same rows, in the order of computation.

        How alike edges are says nothing of nodes; what has nothing to be compared with is like the mean.
        """
        gamma: dict[str, float] = {}
        for block in found.blocks:
            n = len(next(iter(block.matrices.values())))
            if n < self._samples:
                fewer = "ompq has %d rows (%ss) of the calibration split to compare layers on; %d were asked for."
                log.warning(fewer, n, block.rows, self._samples)
            if len(block.matrices) == 1 or n < LEAST:
                continue
            dead = {tap for tap, matrix in block.matrices.items() if constant(matrix)}
            if dead:
                log.warning("ompq: %s: constant on the calibration data, taken as least redundant.", ", ".join(dead))
            shared = self._redundancy(list(block.matrices.values()))
            alive = {tap: value for tap, value in zip(block.matrices, shared.tolist(), strict=True) if tap not in dead}
            for tap, value in alive.items():
                log.info("ompq: redundancy of %s: %.3f", tap, value)
            mean = sum(alive.values()) / max(1, len(alive))
            gamma |= {tap: value - mean for tap, value in alive.items()}
            gamma |= dict.fromkeys(dead, min(alive.values(), default=0.0) - mean)
            if n >= LEAST * THIRDS:
                parts = [self._redundancy([m[i::THIRDS] for m in block.matrices.values()]) for i in range(THIRDS)]
                noise = "ompq: redundancy on %d %ss from %.3f to %.3f; on thirds of them it varies by %.3f"
                log.info(noise, n, block.rows, shared.min(), shared.max(), np.std(parts, axis=0, ddof=1).mean())
        return np.array([gamma.get(tap, 0.0) for tap in found.order])

    def _redundancy(self, matrices: Sequence[NDArray[np.float32]]) -> Floats:
        return redundancy(similarity(matrices, debiased=not self._published), mean=not self._published)

    def harm(self, session: Session) -> Scores:
        sites = self._open_sites(session)
        if not self._published:
            errors = session.problem.probe().relative_errors()
            return {site: errors[site] for site in sites}
        bits = {site: _bits(session.space.choice_of[site]) for site in sites}
        return {site: found.max() - found for site, found in bits.items()}

    def points(self, session: Session, scores: Scores, most: int) -> list[Assignment]:
        if not self._published:
            return super().points(session, scores, most)
        choices, sizes = (
            session.space.choices,
            {site.name: float(np.prod(site.shape)) for site in session.problem.sites},
        )
        layers = {i: [site for site in choice.sites if site in scores] for i, choice in enumerate(choices)}
        layers = {i: sites for i, sites in layers.items() if sites}
        bits = [_bits(choice) for choice in choices]
        low, high = np.array([bits[i].min() for i in layers]), np.array([bits[i].max() for i in layers])
        size = np.array([sum(sizes[site] for site in sites) for sites in layers.values()])
        value = np.array([sum(scores[site].max() for site in sites) for sites in layers.values()]) / (high - low)
        chosen = [int(widths.argmax()) for widths in bits]  # what is no weight stays at its widest
        found: dict[Assignment, float] = {}
        for budget in np.linspace(size @ low, size @ high, most):
            continuous = linear_program(value, size, low, high, float(budget))
            for i, wanted in zip(layers, continuous.tolist(), strict=True):
                chosen[i] = round_bits(wanted, bits[i], down=len(layers) <= FEW)
            found[session.space.decode(chosen)] = float(size @ [bits[i][chosen[i]] for i in layers])
        assignments = list(found)
        return [assignments[i] for i in spread(np.array(list(found.values()))[:, None])]

    def _open_sites(self, session: Session) -> list[str]:
        """Sites between whose options there is a difference to the method, in the order of computation."""
        known = {site.name: site for site in session.problem.sites}
        found = []
        for choice in session.space.choices:
            if self._published:
                wide = len(set(_bits(choice).tolist())) > 1
                found += [site for site in choice.sites if wide and known[site].role.is_parameter]
            elif len(choice.options) > 1:
                found += choice.sites
        return found


def linear_program(value: ArrayLike, size: ArrayLike, low: ArrayLike, high: ArrayLike, budget: float) -> Floats:
    """Bits [layers] that maximise value times bits within a budget for size times bits; a vertex: all but one layer are
    at one of their ends.

    Args:
        value: of a bit, per layer.
        size: of a bit, per layer, in the unit of `budget`.
        low: fewest bits.
        high: most bits.

    Raises `BadInput` where the fewest bits are over the budget.
    """
    value, size, low, high = (np.asarray(a, dtype=float) for a in (value, size, low, high))
    least = float(size @ low)
    if least > budget * (1 + 1e-12):
        raise BadInput(f"a budget of {budget:g} is out of reach: with the fewest bits it takes {least:g}.")
    # from the fewest bits on, in units of the budget: so the solver's tolerances mean the same for any network
    scale = max(budget - least, 1e-12 * budget)
    found = linprog(
        -value / np.abs(value).max(),
        A_ub=(size / scale)[None],
        b_ub=[max(0.0, budget - least) / scale],
        bounds=np.stack([np.zeros_like(low), high - low], axis=1),
        method="highs-ds",
        options={"dual_feasibility_tolerance": 1e-10},  # importance spans many powers of ten
    )
    assert found.success, found.message
    return np.asarray(low + found.x)


def round_bits(bits: float, levels: Floats, down: bool) -> int:
    """Index of the first option whose width is nearest to `bits`, or with `down` the next lower one."""
    bits = round(bits, 6)
    distance = np.where(levels > bits, np.inf, bits - levels) if down else np.abs(levels - bits)
    return int(distance.argmin())


def _bits(choice: Choice) -> Floats:
    return np.array([fmt.bits for fmt in choice.options])
