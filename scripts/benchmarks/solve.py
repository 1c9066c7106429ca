"""How long the exact solvers take: a program with three budgets, whole fronts against one cost, a sweep; and the same
where a cost has terms of three choices each.

CPU seconds of one thread, so that other programs on the machine count little. Errors fall by four per bit and costs are
bits times sizes of layers; weights of the errors are drawn at random, so nothing here says how good a score is.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mpsearch.cost.solve.front import front
from mpsearch.cost.solve.program import best, tightest, total
from mpsearch.cost.solve.sweep import sweep
from mpsearch.cost.terms import Cost, Terms

Rows = list[NDArray[Any]]
BITS = np.arange(1, 9)


def main(arguments: list[str]) -> dict[str, Any]:
    parser = argparse.ArgumentParser(prog="scripts/bench solve", description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    seeds = range(parser.parse_args(arguments).seeds)
    return {**_program(seeds), **_fronts(seeds), **_sweeps(), **_kernels(seeds)}


def _program(seeds: range) -> dict[str, Any]:
    """120 choices of 6 weight by 6 activation precisions; size, bit operations and activations, each under a budget."""
    seconds = []
    for seed in seeds:
        score, costs = _three_costs(120, seed)
        ends = [(tightest(cost), float(cost([[35] * 120])[0])) for cost in costs]
        for share in (0.2, 0.4, 0.6, 0.8):
            budgets = [low + share * (high - low) for low, high in ends]
            spent, found = _timed(lambda s=score, c=costs, b=budgets: best(s, c, b))
            seconds.append(spent)
            print(f"program, seed {seed}, budgets at {share:.0%}: {spent:.2f} s, {total(score, None, [found])[0]:.6g}")
    print(f"program: optimum proven (gap 0), median {statistics.median(seconds):.2f} s, longest {max(seconds):.2f} s")
    return {"program_s": round(statistics.median(seconds), 3), "program_longest_s": round(max(seconds), 3)}


def _fronts(seeds: range) -> dict[str, Any]:
    """50 choices of 8 precisions, whole front: sizes of a ResNet-50, and random ones that share no divisor."""
    result: dict[str, Any] = {}
    for name, sizes_of in {"front": lambda rng: _resnet50()[:50], "front_random": _random_sizes}.items():
        seconds, points = [], []
        for seed in seeds:
            rng = np.random.default_rng(seed)
            sizes = sizes_of(rng)
            score = [4.0**-BITS * n**0.7 * np.exp(rng.normal(0, 1) + rng.normal(0, 0.1, 8)) for n in sizes]
            cost = Cost((Terms.of([n * BITS for n in sizes]),))
            spent, found = _timed(lambda s=score, c=cost: front(s, [c]))
            assert found.complete
            seconds.append(spent)
            points.append(len(found.score))
            print(f"{name}, seed {seed}: {len(found.score)} points in {spent:.2f} s")
        result |= {f"{name}_s": round(max(seconds), 3), f"{name}_points": points}
    return result


def _sweeps() -> dict[str, Any]:
    """The hull of 5,000 choices of 8 precisions."""
    rng = np.random.default_rng(0)
    sizes = _random_sizes(rng, 5000)
    score = [4.0**-BITS * n**0.7 * np.exp(rng.normal()) for n in sizes]
    cost = Cost((Terms.of([n * BITS for n in sizes]),))
    spent, found = _timed(lambda: sweep(score, [cost]))
    some_s, some = _timed(lambda: sweep(score, [cost], most=1000))
    print(
        f"sweep, 5000 choices: {len(found.score)} points in {spent:.2f} s; {len(some.score)} of them in {some_s:.2f} s"
    )
    return {"sweep_s": round(spent, 3), "sweep_points": len(found.score), "sweep_1000_s": round(some_s, 3)}


def _kernels(seeds: range) -> dict[str, Any]:
    """A chain of 30 kernels: time by weight (4 options), input and output (3), whichever of arithmetic and memory takes
    longer; memory of the weights. Under both budgets; the whole front against time; 64 points against both."""
    seconds: dict[str, list[float]] = {"program": [], "front": [], "front_two_costs": [], "sweep_two_costs": []}
    for seed in seeds:
        score, time_, memory = _chain(30, seed)
        widest = [[len(row) - 1 for row in score]]
        ends = [(tightest(cost), float(cost(widest)[0])) for cost in (time_, memory)]
        for share in (0.2, 0.4, 0.6, 0.8):
            budgets = [low + share * (high - low) for low, high in ends]
            seconds["program"].append(_timed(lambda s=score, c=[time_, memory], b=budgets: best(s, c, b))[0])
        spent, whole = _timed(lambda s=score, c=time_: front(s, [c]))
        seconds["front"].append(spent)
        spent, some = _timed(lambda s=score, c=[time_, memory]: front(s, c, most=64))
        seconds["front_two_costs"].append(spent)
        spent, hull = _timed(lambda s=score, c=[time_, memory]: sweep(s, c))
        seconds["sweep_two_costs"].append(spent)
        print(f"kernels, seed {seed}: {len(whole.score)}, {len(some.score)} and {len(hull.score)} points of the fronts")
    return {f"kernels_{name}_s": round(max(found), 3) for name, found in seconds.items()}


def _chain(kernels: int, seed: int) -> tuple[Rows, Cost, Cost]:
    """Scores, time in picoseconds and memory in bits: a value, then a weight and the value that it makes, and so on."""
    rng = np.random.default_rng(seed)
    weights, values = np.array([2, 4, 8, 16]), np.array([4, 8, 16])
    score, tables = [4.0**-values * np.exp(rng.normal(0, 1.5))], {}
    memory = [np.zeros(3, dtype=np.int64)]
    a, w, b = np.meshgrid(values, weights, values, indexing="ij")
    for k in range(kernels):
        macs, n_weights, n_values = (int(np.exp(rng.uniform(*ends))) for ends in ((14, 20), (8, 14), (10, 14)))
        arithmetic, moved = macs * np.maximum(w, a) / 520e12, (n_weights * w + n_values * (a + b)) / 2560e9
        tables[2 * k, 2 * k + 1, 2 * k + 2] = np.round(np.maximum(arithmetic, moved) * 1e12).astype(np.int64)
        score += [4.0**-bits * np.exp(rng.normal(0, 1.5)) for bits in (weights, values)]
        memory += [n_weights * weights, np.zeros(3, dtype=np.int64)]
    unary = [np.zeros(len(row), dtype=np.int64) for row in score]
    return score, Cost((Terms.of(unary, 0, tables),), per=10**12), Cost((Terms.of(memory),), per=8, whole=True)


def _three_costs(choices: int, seed: int) -> tuple[Rows, list[Cost]]:
    rng = np.random.default_rng(seed)
    bits = np.array([2, 3, 4, 5, 6, 8])
    w, a = (grid.ravel() for grid in np.meshgrid(bits, bits, indexing="ij"))
    weights, values = (64 * np.exp(rng.uniform(3, 10, choices)).astype(int) for _ in range(2))
    macs = weights * np.exp(rng.uniform(0, 6, choices)).astype(int)
    scale = np.exp(rng.normal(0, 1.5, (choices, 2)))
    score = [s * 4.0**-w + t * 4.0**-a for s, t in scale]
    rows = [[n * w for n in weights], [n * w * a for n in macs], [n * a for n in values]]
    return score, [Cost((Terms.of(row),)) for row in rows]


def _resnet50() -> list[int]:
    """Weights of every convolution and of the classifier, in the order of computation."""
    sizes, before = [64 * 3 * 49], 64
    for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for block in range(blocks):
            sizes += [before * width, 9 * width * width, 4 * width * width]
            sizes += [4 * before * width] if block == 0 else []
            before = 4 * width
    return [*sizes, 2048 * 1000]


def _random_sizes(rng: np.random.Generator, n: int = 50) -> list[int]:
    return rng.integers(1, 10**6, n).tolist()


def _timed(call: Callable[[], Any]) -> tuple[float, Any]:
    began = time.process_time()
    found = call()
    return time.process_time() - began, found
