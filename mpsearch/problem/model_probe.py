"""The probe of an exported model: Hessian traces, gradients of single samples, and quantization errors of its sites."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mpsearch.core.errors import BadInput
from mpsearch.core.format import FP32, Format
from mpsearch.core.space import Space
from mpsearch.graph.features import Features, Rows, Where, features
from mpsearch.graph.gradients import block_traces, differentiable, leaves, replay, signs, squared_gradients
from mpsearch.graph.runner import GraphRunner
from mpsearch.problem.objective import Batch, Objective
from mpsearch.problem.probe import Estimate, Probe
from mpsearch.problem.samples import single_samples

Floats = NDArray[np.float64]

_BLOCK = 16
"""Random vectors between two looks at the standard errors; what they share is computed once per block."""


class ModelProbe(Probe):
    """Looks at the float program of `runner`: BatchNorm folded, eval mode, biases not corrected.

    Args:
        objective: gives the loss.
        runner: holds the program, its grids and the calibration data.
        space: whose choices between several options are looked at.
        batches: of the calibration split.
    """

    def __init__(self, objective: Objective, runner: GraphRunner, space: Space, batches: Sequence[Batch]) -> None:
        self._objective, self._runner, self._batches = objective, runner, list(batches)
        self._program, self._grids = runner.interpreter.program, runner.interpreter.grids
        sites = self._program.sites
        index = {site.name: i for i, site in enumerate(sites)}
        self._options: dict[int, tuple[Format, ...]] = {
            index[name]: choice.options for choice in space.choices if len(choice.options) > 1 for name in choice.sites
        }
        self._parameters = [i for i in sorted(self._options) if sites[i].role.is_parameter]
        self._values = [i for i in sorted(self._options) if not sites[i].role.is_parameter]

    def require_loss(self) -> None:
        if type(self._objective).loss is Objective.loss:
            raise BadInput(
                f"objective {type(self._objective).__name__} defines no loss, so there are no gradients to look at; "
                "write its method loss(output, batch), or search with driver sensitivity."
            )

    def mean_traces(self, seed: int, tolerance: float, least: int, most: int) -> Mapping[str, Estimate]:
        self.require_loss()
        generator = torch.Generator().manual_seed(seed)
        variables = leaves(self._program)
        sizes = np.array([variables[site].numel() for site in self._parameters])
        found = np.zeros((0, len(sizes)))
        while len(found) < most and not (len(found) >= least and _settled(found, tolerance)):
            n = min(_BLOCK, most - len(found))
            draws = [signs([variables[site] for site in self._parameters], generator) for _ in range(n)]
            found = np.concatenate([found, self._traces(variables, draws)])
        estimates = zip(found.mean(axis=0) / sizes, _stderr(found) / sizes, strict=True)
        return {
            self._program.sites[site].name: Estimate(float(mean), float(stderr), len(found))
            for site, (mean, stderr) in zip(self._parameters, estimates, strict=True)
        }

    def _traces(self, variables: Mapping[int, Tensor], draws: Sequence[Sequence[Tensor]]) -> Floats:
        """v_i^T (H v)_i [draws, parameter sites] of the mean loss of a sample."""
        total = np.zeros((len(draws), len(self._parameters)))
        wanted = [variables[site] for site in self._parameters]
        n = sum(batch.n for batch in self._batches)
        with differentiable(self._program):
            for i, batch in enumerate(self._batches):
                flat, _ = replay(self._program, self._inputs(i), variables)
                loss = self._objective.loss(self._runner.output(flat, "calibration", i), batch)
                gradient = torch.autograd.grad(loss, wanted, create_graph=True, materialize_grads=True)
                total += np.array(list(block_traces(gradient, wanted, draws))) * batch.n / n
        return total

    def mean_fisher(self) -> Mapping[str, float]:
        return self._fisher[0]

    def fisher_errors(self) -> Mapping[str, Floats]:
        return self._fisher[1]

    @cached_property
    def _fisher(self) -> tuple[dict[str, float], dict[str, Floats]]:
        """Means of the diagonal, and errors weighed by it."""
        self.require_loss()
        variables = leaves(self._program)
        totals, elements = dict.fromkeys(self._options, 0.0), dict.fromkeys(self._options, 0)
        diagonal = {site: torch.zeros_like(variables[site]) for site in self._parameters}
        errors = {site: np.zeros(len(options)) for site, options in self._options.items()}
        covered = 0.0
        with differentiable(self._program):
            for part in single_samples(self._objective, self._runner, self._batches, variables):
                made = {(site, i): value for site in self._values for i, value in enumerate(part.values[site])}
                wanted = {(site, 0): variables[site] for site in self._parameters} | made
                squares = squared_gradients(part.losses, wanted)
                for site in self._parameters:
                    diagonal[site] += squares[site, 0] * part.share
                for (site, i), found in made.items():
                    both = (found.detach(), squares[site, i])
                    value, square = (self._runner.cut(x, "calibration", part.batch) for x in both)
                    totals[site] += float(square.sum(dtype=torch.float64)) * part.share
                    elements[site] += square.numel()
                    errors[site] += self._errors(site, value, square) * part.share
                covered += part.share
        for site in self._values:
            errors[site] /= covered
        for site, found in diagonal.items():
            totals[site], elements[site] = float(found.sum(dtype=torch.float64)) / covered, found.numel()
            errors[site] = self._errors(site, variables[site].detach(), found / covered)
        names = {site: self._program.sites[site].name for site in self._options}
        return {n: totals[s] / elements[s] for s, n in names.items()}, {n: errors[s] for s, n in names.items()}

    def squared_errors(self) -> Mapping[str, Floats]:
        return self._sums[0]

    def relative_errors(self) -> Mapping[str, Floats]:
        errors, squares = self._sums
        return {site: found / (squares[site] or 1.0) for site, found in errors.items()}

    @cached_property
    def _sums(self) -> tuple[dict[str, Floats], dict[str, float]]:
        """Squared errors, and squares."""
        variables = leaves(self._program)
        errors = {site: np.zeros(len(options)) for site, options in self._options.items()}
        squares = dict.fromkeys(self._options, 0.0)

        def add(site: int, value: Tensor) -> None:
            errors[site] += self._errors(site, value)
            squares[site] += float(value.square().sum(dtype=torch.float64))

        for site in self._parameters:
            add(site, variables[site].detach())
        for i in range(len(self._batches) if self._values else 0):
            with torch.no_grad():
                _, values = replay(self._program, self._inputs(i), variables)
            for site in self._values:
                for value in values[site]:
                    add(site, self._runner.cut(value, "calibration", i))
        names = {site: self._program.sites[site].name for site in self._options}
        return {n: errors[s] for s, n in names.items()}, {n: squares[s] for s, n in names.items()}

    def features(self, sites: Sequence[str], limits: Mapping[Rows, int], seed: int, where: Where | None) -> Features:
        streams = self._runner.streams["calibration"]
        firsts = [next(x for x in s.batches[0] if isinstance(x, Tensor) and x.ndim) for s in streams]
        lengths = [len(self._runner.cut(first, "calibration", i)) for i, first in enumerate(firsts)]
        return features(self._runner.interpreter, streams, lengths, sites, limits, seed, where)

    def _errors(self, site: int, value: Tensor, weight: Tensor | None = None) -> Floats:
        """Sum of squared errors [options] of `value` on the grids of `site`, elements weighed by `weight`."""
        errors = []
        for fmt in self._options[site]:
            square = 0 * value if fmt == FP32 else (self._grids.grid(site, fmt).round_trip(value) - value).square()
            errors.append((square if weight is None else square * weight).sum(dtype=torch.float64).item())
        return np.array(errors)

    def _inputs(self, batch: int) -> Sequence[object]:
        return self._runner.streams["calibration"][batch].batches[0]


def _stderr(found: Floats) -> Floats:
    return found.std(axis=0, ddof=1) / np.sqrt(len(found))


def _settled(found: Floats, tolerance: float) -> bool:
    """Whether every mean over draws is known to `tolerance` of itself."""
    return bool((_stderr(found) <= tolerance * np.abs(found.mean(axis=0))).all())
