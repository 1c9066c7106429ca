"""The search as one writes it without this library: Optuna's NSGA-II over a model fake-quantized by plain torch.

Each evaluation quantizes every weight anew and runs the whole validation split in eager mode. Scales and zero points
are found beforehand, by the rules of the formats, so that both sides score the same thing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import optuna
import torch
from optuna.distributions import BaseDistribution, CategoricalDistribution
from torch import Tensor, nn
from truth.curves import Shares, Volume
from truth.networks import Network, score
from truth.table import Truth

from mpsearch.core.format import Format
from mpsearch.core.site import Role
from mpsearch.quant.affine import AffineGrid
from mpsearch.quant.integer import Integer

Quantize = Callable[[Tensor], Tensor]

_MODULE_OF = {"blocks.0.attn.q_proj:in": "blocks.0.attn"}
"""Where a value is read by several layers: the module whose input it is."""


class Eager:
    """A network whose weights and inputs are fake-quantized.

    Args:
        truth: whose space it covers.
    """

    def __init__(self, truth: Truth) -> None:
        self._space = truth.space
        objective = Network(truth.name)
        self._model = objective.model()
        self._batches = list(objective.batches("validation"))
        self._weights = {name: tensor.detach().clone() for name, tensor in self._model.named_parameters()}
        self._now: dict[str, Quantize] = {}
        self._caught: dict[str, list[Tensor]] = {}
        values = [site for choice in self._space.choices for site in choice.sites if ":" in site]
        for site in values:
            self._hook(site)
        self._caught = {site: [] for site in values}
        with torch.no_grad():
            for batch in objective.batches("calibration"):
                self._model(*batch.args)
        self._quantize = {
            (site, option): self._fit(site, option)
            for choice in self._space.choices
            for site in choice.sites
            for option in choice.options
        }
        self._caught = {}

    @torch.no_grad()
    def log_loss(self, indices: Sequence[int]) -> float:
        """Mean over the validation split at option `indices`."""
        for choice, index in zip(self._space.choices, indices, strict=True):
            for site in choice.sites:
                self._now[site] = self._quantize[site, choice.options[index]]
        for name, parameter in self._model.named_parameters():
            if name in self._now:
                parameter.data = self._now[name](self._weights[name])
        losses = [score(self._model(*batch.args), batch.target)[0] for batch in self._batches]
        return torch.cat(losses).double().mean().item()

    def _hook(self, site: str) -> None:
        module, _, part = site.partition(":")
        layer = self._model.get_submodule(_MODULE_OF.get(site, module))

        def on_input(layer: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
            return (self._seen(site, args[0]), *args[1:])

        def on_message(layer: nn.Module, args: tuple[dict[str, Any], ...]) -> tuple[dict[str, Any], ...]:
            return ({**args[0], "x_j": self._seen(site, args[0]["x_j"])},)

        if part == "message":
            cast(Any, layer).register_message_forward_pre_hook(on_message)
        else:
            layer.register_forward_pre_hook(on_input)

    def _seen(self, site: str, value: Tensor) -> Tensor:
        if site in self._caught:
            self._caught[site].append(value)
        return self._now[site](value) if site in self._now else value

    def _fit(self, site: str, option: Format) -> Quantize:
        sample = torch.cat(self._caught[site]) if site in self._caught else self._weights[site]
        role = Role.ACTIVATION if site in self._caught else Role.WEIGHT
        grid = Integer().fit(sample, option, role, 0)
        assert isinstance(grid, AffineGrid)
        scale, zero, low, high = grid.scale, grid.zero_point, grid.qmin, grid.qmax
        if scale.dim() == 0:
            at = 0 if zero is None else int(zero)
            return lambda x: torch.fake_quantize_per_tensor_affine(x, float(scale), at, low, high)
        assert zero is None
        zeros, size = torch.zeros(len(scale), dtype=torch.int32), scale.abs()
        if (scale > 0).all():
            return lambda x: torch.fake_quantize_per_channel_affine(x, size, zeros, 0, low, high)
        sign = scale.sign().reshape(-1, *(1 for _ in sample.shape[1:]))  # torch takes no negative scale
        return lambda x: sign * torch.fake_quantize_per_channel_affine(sign * x, size, zeros, 0, low, high)


@dataclass(frozen=True)
class Timed:
    """What a search took until it had its share of the hypervolume.

    Args:
        seconds: wall time; None if it did not get there.
        evaluations: until then.
        difference: the largest one between a log-loss measured here and that of the truth.
    """

    seconds: float | None
    evaluations: int | None
    difference: float


def nsga2(eager: Eager, truth: Truth, seed: int, share: float, most: int) -> Timed:
    """Optuna's NSGA-II as it comes, told log-loss and bytes, until it has `share` of the truth or after `most`."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    shares, volume = Shares(truth, "log_loss"), Volume()
    options: dict[str, BaseDistribution] = {
        choice.name: CategoricalDistribution(range(len(choice.options))) for choice in truth.space.choices
    }
    study = optuna.create_study(directions=["minimize"] * 2, sampler=optuna.samplers.NSGAIISampler(seed=seed))
    seconds = difference = 0.0
    for done in range(1, most + 1):
        began = time.perf_counter()
        trial = study.ask(options)
        indices = [trial.params[name] for name in options]
        loss = eager.log_loss(indices)
        study.tell(trial, [loss, float(truth.size([indices])[0])])
        seconds += time.perf_counter() - began
        place = truth.number(truth.space.decode(indices))  # from here on only to know when to stop
        difference = max(difference, abs(loss - float(truth.log_loss[place])))
        if volume.add(*shares.points[place]) >= share * shares.whole:
            return Timed(seconds, done, difference)
    return Timed(None, None, difference)
