"""The search as one writes it without this library: Optuna's NSGA-II over a model fake-quantized by plain torch.

Each evaluation quantizes every weight and every value anew and runs the whole validation split in eager mode. Scales
and zero points are found beforehand, by the rules of the formats, so that both sides score the same thing.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import optuna
import torch
import torch.nn.functional as F
from optuna.distributions import BaseDistribution, CategoricalDistribution
from torch import Tensor, nn
from truth.curves import Shares, Volume
from truth.networks import Network, score
from truth.table import Truth

from mpsearch.core.format import Format
from mpsearch.core.site import Role
from mpsearch.quant.affine import AffineGrid
from mpsearch.quant.integer import Integer
from mpsearch.zoo.vit import Block, ViT

Quantize = Callable[[Tensor], Tensor]


class Eager:
    """A network whose weights and values are fake-quantized: values in a forward of its own (`vit`), or in hooks.

    Args:
        truth: whose space it covers.
    """

    def __init__(self, truth: Truth) -> None:
        self._space = truth.space
        objective = Network(truth.name)
        self._model = objective.model()
        rewritten = isinstance(self._model, ViT)
        self._forward = partial(_quantized_vit, self._model, self._seen) if rewritten else self._model
        self._batches = list(objective.batches("validation"))
        self._weights = {name: tensor.detach().clone() for name, tensor in self._model.named_parameters()}
        self._now: dict[str, Quantize] = {}
        self._caught: dict[str, list[Tensor]] = {}
        values = [site for choice in self._space.choices for site in choice.sites if site not in self._weights]
        for site in [] if rewritten else values:
            self._hook(site)
        self._caught = {site: [] for site in values}
        with torch.no_grad():
            for batch in objective.batches("calibration"):
                self._forward(*batch.args)
        self._quantize = {
            (site, option): self._fit(site, option)
            for choice in self._space.choices
            for site in choice.sites
            for option in choice.options
        }
        self._caught = {}

    @torch.no_grad()
    def log_loss(self, indices: Sequence[int] | None) -> float:
        """Mean over the validation split at option `indices`; None for the float model."""
        self._now = {}
        for choice, index in zip(self._space.choices, indices or (), strict=indices is not None):
            for site in choice.sites:
                self._now[site] = self._quantize[site, choice.options[index]]
        for name, parameter in self._model.named_parameters():
            weight = self._weights[name]
            parameter.data = self._now[name](weight) if name in self._now else weight
        losses = [score(self._forward(*batch.args), batch.target)[0] for batch in self._batches]
        return torch.cat(losses).double().mean().item()

    def _hook(self, site: str) -> None:
        module, _, part = site.partition(":")
        layer = self._model.get_submodule(module)

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


def _quantized_vit(model: ViT, quantize: Callable[[str, Tensor], Tensor], images: Tensor) -> Tensor:
    """The forward of a ViT of one block, attention written out, with `quantize(site, value)` at every site."""
    name, block = "blocks.0", cast(Block, model.blocks[0])
    attn, heads = block.attn, block.attn.heads

    def layer(site: str, module: nn.Module, x: Tensor) -> Tensor:
        return cast(Tensor, module(quantize(f"{site}:in", x)))

    tokens = layer("patches", model.patches, images).flatten(2).transpose(1, 2) + model.positions
    tokens = quantize("sum", tokens)
    normed = quantize(f"{name}.attn.q_proj:in", block.norm1(tokens))
    q, k, v = (
        quantize(f"{name}.attn:{part}", projection(normed)).unflatten(-1, (heads, -1)).transpose(1, 2)
        for part, projection in (("q", attn.q_proj), ("k", attn.k_proj), ("v", attn.v_proj))
    )
    scores = quantize(f"{name}.attn:scores", q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1]))
    probs = quantize(f"{name}.attn:probs", torch.softmax(scores, -1))
    mixed = layer(f"{name}.attn.out_proj", attn.out_proj, (probs @ v).transpose(1, 2).flatten(2))
    tokens = quantize(f"{name}:sum", tokens + quantize(f"{name}.attn.out_proj:out", mixed))
    hidden = F.gelu(layer(f"{name}.fc1", block.fc1, block.norm2(tokens)))
    tokens = tokens + quantize(f"{name}.fc2:out", layer(f"{name}.fc2", block.fc2, hidden))
    return layer("head", model.head, model.norm(tokens).mean(1))


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
    eager.log_loss(None)  # the machine warms up before the clock starts
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
