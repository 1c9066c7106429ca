"""How fast each driver finds the front of spaces that were scored assignment by assignment.

Three truths: the weights of a convolutional chain, the weights, features and messages of a GCN, the weights and two
inputs of a transformer block; what else is multiplied in the first and the last is int8. Each is a trained network
whose every assignment was measured once (`--make NAME` does it again). Drivers search them by looking losses up, in the
session of every run; what counts is the share of the whole space's hypervolume after so many evaluations, controls
included. Then wall time: the same search on the network itself, beside Optuna's NSGA-II on plain eager evaluations
without a cache.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from truth.curves import DRIVERS, SAME_AT_ANY_BUDGET, Shares, search
from truth.eager import Timed
from truth.report import SHARE, docs, figures, text
from truth.results import Results
from truth.table import LOSSES, NAMES, TableProblem, Truth, build, make

from mpsearch.core.errors import BadInput
from mpsearch.graph.memo import keep_freed_memory
from mpsearch.spec import registry

BUDGETS = (60, 100, 200, 400, 1000)
SEEDS = (100, 101, 102, 103, 104)
MOST = {"gp": 150, "hessian": 200, "tpe": 400}
"""Where an ask is slow the search is shorter; the first seed of TPE goes on to 1,000."""


Whole = Sequence[int]


def main(arguments: list[str]) -> dict[str, Any]:
    parser = argparse.ArgumentParser(prog="scripts/bench search", description=__doc__)
    parser.add_argument("--make", choices=NAMES, help="train the network of a truth, score every assignment, and end")
    parser.add_argument("--truth", nargs="+", choices=NAMES, default=NAMES)
    parser.add_argument("--drivers", nargs="+", choices=DRIVERS, default=list(DRIVERS))
    parser.add_argument("--losses", nargs="+", choices=LOSSES, default=LOSSES)
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS)
    parser.add_argument("--budgets", nargs="+", type=int, default=BUDGETS)
    parser.add_argument("--quick", action="store_true", help="log-loss, two seeds, budgets of 60 to 200, no clock")
    parser.add_argument("--no-clock", action="store_true", help="leave out the wall times")
    parser.add_argument("--keep", type=Path, help="a file of results; what it holds is not run again")
    parser.add_argument("--write-docs", action="store_true", help="write docs/search.md and docs/search.png")
    asked = parser.parse_args(arguments)
    torch.set_num_threads(1)
    if asked.make:
        truth = make(asked.make)
        return {"truth": asked.make, "assignments": truth.space.size, "fingerprint": truth.fingerprint}
    if asked.quick:
        asked.seeds, asked.losses, asked.no_clock = asked.seeds[:2], ["log_loss"], True
        asked.budgets = [budget for budget in asked.budgets if budget <= 200]
    known = registry.names("drivers")
    drivers = [name for name in asked.drivers if DRIVERS[name][0] in known]
    results = Results(asked.keep)
    for name in asked.truth:
        truth = Truth.load(name)
        problem = TableProblem(truth, build(name)[0])
        for loss in asked.losses:
            shares = Shares(truth, loss)
            for driver in drivers:
                _curves(results, problem, loss, shares, driver, asked.seeds, asked.budgets)
        if not asked.no_clock:
            _clock(results, truth, asked.seeds, drivers)
    print(text(results, asked.truth, asked.losses, asked.budgets))
    if asked.write_docs:
        docs(results, asked.truth, asked.losses, asked.budgets)
    return figures(results, asked.truth)


def _curves(
    results: Results, problem: TableProblem, loss: str, shares: Shares, driver: str, seeds: Whole, budgets: Whole
) -> None:
    truth = problem.truth
    use, options = DRIVERS[driver]
    for seed in seeds:
        most = MOST.get(driver, max(budgets))
        if driver == "tpe" and loss == "log_loss" and seed == seeds[0]:
            most = max(budgets)
        runs = sorted({min(budget, most) for budget in budgets})
        for budget in runs[-1:] if driver in SAME_AT_ANY_BUDGET else runs:
            if results.has_curve(truth.name, loss, driver, seed, budget):
                continue
            began = time.monotonic()
            places = search(problem, loss, use, options, seed, budget)
            seconds = time.monotonic() - began
            curve = shares.curve(places)
            results.add_curve(truth.name, loss, driver, seed, budget, curve, seconds)
            _say(f"{truth.name} {loss} {driver} seed {seed}: {curve[-1]:.4f} after {len(curve)}, {seconds:.1f} s")


def _clock(results: Results, truth: Truth, seeds: Whole, drivers: Sequence[str]) -> None:
    from truth.clock import timed_run
    from truth.eager import Eager, nsga2

    keep_freed_memory()
    problem, eager = build(truth.name)[0], Eager(truth)
    sides: dict[str, Callable[[int], Timed]] = {"nsga2": lambda seed: nsga2(eager, truth, seed, SHARE, most=3000)}
    if "frontier" in drivers:
        sides["frontier"] = lambda seed: timed_run(problem, truth, seed, SHARE, racing=False)
        sides["frontier racing"] = lambda seed: timed_run(problem, truth, seed, SHARE, racing=True)
    for seed in seeds:  # the sides in turns: the machine may change its mind about speed
        for side, run in sides.items():
            if seed in results.times(truth.name, side):
                continue
            try:
                results.add_time(truth.name, side, seed, run(seed))
                _say(f"{truth.name} {side} seed {seed}: {results.times(truth.name, side)[seed]}")
            except BadInput as error:
                _say(f"{truth.name} {side}: {error}")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
