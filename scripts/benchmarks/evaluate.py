"""What an evaluation costs, in float forwards: cold, in a scan of one site at a time, in an exhaustive search.

One thread. The float forward is the BatchNorm-folded eager model in the faster of its two memory formats; everything is
timed in turns within this run, and ratios are medians over the turns. ResNet-20 has random weights: only time counts.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from mpsearch.core.assignment import Assignment
from mpsearch.core.format import Format
from mpsearch.graph.memo import keep_freed_memory
from mpsearch.problem.build import assemble
from mpsearch.problem.model import ModelProblem
from mpsearch.problem.objective import Batch, Objective, Scores, Split
from mpsearch.spec.schema import Spec
from mpsearch.zoo.resnet import ResNet20

CPU = torch.device("cpu")
BITS = (2, 3, 4, 6, 8)


def main(arguments: list[str]) -> dict[str, Any]:
    parser = argparse.ArgumentParser(prog="scripts/bench evaluate", description=__doc__)
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--sites", type=int, default=7, help="sites of the chain that is searched exhaustively")
    asked = parser.parse_args(arguments)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    keep_freed_memory()  # as every run does; the float model gains from it too
    return {**_resnet(asked.turns), **_chain(asked.sites, asked.turns)}


class _Fixed(Objective):
    """A model with given inputs; accuracy against its own float answers."""

    def __init__(self, model: nn.Module, inputs: Tensor, calibration: Tensor) -> None:
        self.net, self.inputs, self.calibration = model, inputs, calibration
        with torch.no_grad():
            self.labels = model(inputs).argmax(1)

    def model(self) -> nn.Module:
        return self.net

    def batches(self, split: Split) -> Sequence[Batch]:
        if split == "calibration":
            return [Batch((self.calibration,), None, len(self.calibration))]
        return [Batch((self.inputs,), self.labels, len(self.inputs))]

    def metric(self, outputs: Sequence[Tensor], targets: Sequence[Tensor]) -> Scores:
        return {"accuracy": (outputs[0].argmax(1) == targets[0]).float()}


def _problem(objective: _Fixed, sites: list[dict[str, Any]], bias_correction: str) -> ModelProblem:
    spec = Spec.model_validate(
        {
            "schema": "mpsearch.space/1",
            "name": "bench",
            "objective": {"use": "fixed"},
            "sites": sites,
            "untie": ["residual"],
            "goals": [{"name": "accuracy", "maximise": True}],
            "quantization": {"bias_correction": bias_correction},
            "engine": {"cache_bytes": 4 << 30},
        }
    )
    batches: dict[str, list[Batch]] = {
        split: list(objective.batches(split)) for split in ("calibration", "validation", "test")
    }
    return assemble(spec, objective, objective.net, batches, CPU)


def _resnet(turns: int) -> dict[str, Any]:
    model = ResNet20().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    inputs, calibration = torch.randn(250, 3, 32, 32), torch.randn(128, 3, 32, 32)
    objective = _Fixed(model, inputs, calibration)
    everything = [{"match": "*", "formats": ["int8", "int4"]}]
    plain, corrected = (_problem(objective, everything, mode) for mode in ("none", "sequential"))
    values = sum(not site.role.is_parameter for site in plain.sites)
    print(f"ResNet-20, batch 250: {values} activation sites, {len(plain.sites) - values} weight sites")
    int8 = Assignment({site.name: Format("int", 8) for site in plain.sites})
    folded = _fold(copy.deepcopy(model))
    ao = _torch_ao(model, calibration)

    def cold(problem: ModelProblem) -> Callable[[], Any]:
        def call() -> Any:
            problem.forget()
            return problem.runner.run(int8, "validation", 0)

        return call

    scan = sorted([int8, *_neighbours(plain, int8)], key=plain.space.encode)

    def scanned() -> None:
        plain.forget()
        for assignment in scan:
            plain.runner.run(assignment, "validation", 0)

    last = folded.to(memory_format=torch.channels_last)
    first = _fold(copy.deepcopy(model))
    calls = {
        "contiguous": lambda: first(inputs),
        "channels_last": lambda: last(inputs.contiguous(memory_format=torch.channels_last)),
        "cold": cold(plain),
        "cold_corrected": cold(corrected),
        "torch_ao": lambda: ao(inputs),
        "scan": scanned,
    }
    seconds = _in_turns(calls, turns, seldom={"scan": 3})
    floats = [min(a, b) for a, b in zip(seconds["contiguous"], seconds["channels_last"], strict=True)]
    ratio = {
        name: statistics.median(s / f for s, f in zip(found, floats, strict=False)) for name, found in seconds.items()
    }
    print(f"float forward {1e3 * statistics.median(floats):.0f} ms; in float forwards: ", end="")
    print(", ".join(f"{name} {value:.2f}" for name, value in ratio.items()))
    return {
        "cold_over_float": round(ratio["cold"], 3),
        "cold_with_bias_correction_over_float": round(ratio["cold_corrected"], 3),
        "torch_ao_over_float": round(ratio["torch_ao"], 3),
        "scan_forwards_per_assignment": round(ratio["scan"] / len(scan), 3),
    }


def _neighbours(problem: ModelProblem, base: Assignment) -> list[Assignment]:
    return [Assignment({**base, site.name: Format("int", 4)}) for site in problem.sites]


def _in_turns(
    calls: dict[str, Callable[[], Any]], turns: int, seldom: dict[str, int] | None = None
) -> dict[str, list[float]]:
    """Seconds of each call, one call of every kind per turn; `seldom` ones in their first turns only."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    with torch.no_grad():
        for turn in range(-1, turns):
            for name, call in calls.items():
                if turn >= (seldom or {}).get(name, turns):
                    continue
                began = time.perf_counter()
                call()
                if turn >= 0:  # the first turn warms up
                    seconds[name].append(time.perf_counter() - began)
            _show(f"turn {turn + 1} of {turns}")
    return seconds


def _fold(model: nn.Module) -> nn.Module:
    """BatchNorms folded into the convolution that is defined before them."""
    model.eval()
    children = list(model.named_children())
    for (name, child), (after, norm) in itertools.pairwise(children):
        if isinstance(child, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            setattr(model, name, fuse_conv_bn_eval(child, norm))
            setattr(model, after, nn.Identity())
    for _, child in model.named_children():
        _fold(child)
    return model


def _torch_ao(model: nn.Module, calibration: Tensor) -> nn.Module:
    """The same model with eager fake quantization by torch.ao, calibrated, observers off."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch.ao.quantization import disable_observer, get_default_qat_qconfig_mapping
        from torch.ao.quantization.quantize_fx import prepare_qat_fx

        prepared = prepare_qat_fx(copy.deepcopy(model).train(), get_default_qat_qconfig_mapping("x86"), (calibration,))
    prepared.eval()
    with torch.no_grad():
        prepared(calibration)
    prepared.apply(disable_observer)
    return prepared


class _Chain(nn.Module):
    """Convolutions 16-16-32-32-64-64 on 16x16, stride 2 where they widen, pool, linear."""

    def __init__(self, sites: int) -> None:
        super().__init__()
        widths = (16, 16, 32, 32, 64, 64)[: sites - 1]
        layers: list[nn.Module] = []
        before = 1
        for width in widths:
            stride = 2 if before not in (1, width) else 1
            layers += [nn.Conv2d(before, width, 3, stride, 1), nn.ReLU()]
            before = width
        self.features, self.head = nn.Sequential(*layers), nn.Linear(before, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).mean((2, 3)))


def _chain(sites: int, turns: int) -> dict[str, Any]:
    model = _Chain(sites).eval()
    inputs = torch.randn(256, 1, 16, 16)
    rule = [{"match": "*.weight", "formats": [f"int{b}" for b in BITS]}]
    problem = _problem(_Fixed(model, inputs, inputs[:64]), rule, "none")
    size = problem.space.size
    layers = _layers(model, inputs.contiguous(memory_format=torch.channels_last))
    seconds = _in_turns({**layers, "forward": lambda: model(inputs)}, max(5, turns) * 4)
    median = {name: statistics.median(found) for name, found in seconds.items()}
    began = time.perf_counter()
    for done, evaluation in enumerate(problem.evaluate(problem.space.assignments())):
        assert evaluation.failure is None, evaluation.failure
        if done % 2000 == 0:
            _show(f"exhaustive: {done} of {size}")
    spent = time.perf_counter() - began
    again = _in_turns(layers, max(5, turns) * 4)  # the machine may have changed its mind about speed meanwhile
    for name, found in again.items():
        median[name] = (median[name] + statistics.median(found)) / 2
    depths = enumerate(layers, start=1)
    trie_s = sum(len(BITS) ** depth * median[name] for depth, name in depths)
    print(f"exhaustive: {size} assignments in {spent:.1f} s; the layer times of the trie add up to {trie_s:.1f} s")
    return {
        "exhaustive_speedup": round(size * median["forward"] / spent, 2),
        "exhaustive_bound": round(size * median["forward"] / trie_s, 2),
    }


def _layers(model: _Chain, x: Tensor) -> dict[str, Callable[[], Any]]:
    """One call per site: its layer with all that follows before the next one, on its own input."""
    calls: dict[str, Callable[[], Any]] = {}
    modules = list(model.features)
    with torch.no_grad():
        model.to(memory_format=torch.channels_last)
        for i in range(0, len(modules), 2):
            conv, x_in = modules[i], x
            calls[f"conv{i // 2}"] = lambda conv=conv, x_in=x_in: F.relu_(conv(x_in))
            x = F.relu(conv(x_in))
        last = x
        previous = list(calls)[-1]
        inner = calls[previous]
        calls[previous] = lambda: inner().mean((2, 3))
        pooled = last.mean((2, 3))
        calls["linear"] = lambda: model.head(pooled)
    return calls


def _show(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r{text}    ", end="", file=sys.stderr, flush=True)
