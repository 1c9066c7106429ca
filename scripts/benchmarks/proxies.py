"""How well each proxy ranks assignments of like cost, beside constant and random importance.

Over all sizes any proxy correlates with the loss, because fewer bits do more harm wherever they are saved. So random
assignments are put into narrow bands of every cost, and Spearman's correlation of the predicted harm with the measured
log-loss (and error) is taken within each band, then averaged over assignments. The controls are the proxy's own: the
same harm of the options with constant importance, and with random importance, whose middle 95 % are the band that
a proxy has to leave. Then the exact front of each score is evaluated at a few points spread over the budgets, and its
hypervolume (log-loss against the first cost) stands beside that of as many points of the controls.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from mpsearch.core.evaluation import Evaluation
from mpsearch.core.format import Format
from mpsearch.core.front import Front, Scale
from mpsearch.core.goal import Goal
from mpsearch.core.space import Space
from mpsearch.drivers.base import Driver
from mpsearch.drivers.proxy import CONSTANT, RANDOM, Proxy, Scores, controls, points
from mpsearch.drivers.sensitivity import Sensitivity
from mpsearch.engine.session import LedgerSession
from mpsearch.ledger.ledger import Ledger
from mpsearch.problem.build import build_problem
from mpsearch.spec import registry
from mpsearch.spec.load import load_spec

Floats = NDArray[np.float64]
Codes = NDArray[np.intp]

DOCS = Path(__file__).resolve().parents[2] / "docs" / "proxies.md"
SPACES = {"CNN": "cnn.yaml", "transformer": "transformer.yaml", "GNN": "gnn_graphs.yaml"}
CHANGES = {"transformer.yaml": ["sites[7].match={role: activation, name: '[!n]*'}"]}
"""What the transformer's last normalisation reads, `norm:in`, stays float here."""
PROXIES: dict[str, tuple[str, dict[str, Any]]] = {
    "hessian": ("hessian", {}),
    "fisher": ("fisher", {}),
    "sensitivity": ("sensitivity", {}),
    "ompq": ("ompq", {}),
    "published ompq": ("ompq", {"version": "published"}),
}
COLUMNS = {"log_loss": "Log-loss within bands", "error": "Error within bands", "hypervolume": "Hypervolume"}
MEASURED = "sensitivity"
"""The row whose controls know measured harm, which is no control for rows that measure nothing."""
SEED = 11
BANDS = 15  # in all: 15 of one cost, 4 x 4 of two
_HEAD = """\
# What proxies know

Written by `scripts/bench proxies --write-docs`.

A proxy predicts the harm of an assignment without evaluating it: importance of a site times harm of an option there,
added up. Much of any such score is the harm of the options alone, so each proxy stands beside its own controls: the
same harm with *constant* importance, and with *random* importance as spread as the proxy's own ({draws} draws; the band
holds the middle 95 %). `sensitivity` measures its harm instead; its controls are the mean rise over choices of equal
options, and the rises swapped among them. A figure in bold is above both of its own controls; those of `ompq` count
relative errors and are stronger, so below each table stands who is above the strongest of all.

* *Within bands*: Spearman's correlation of predicted harm with measured log-loss, or error, among random assignments
  of like cost ({samples} of each model), the mean over bands.
* *Front*: hypervolume, log-loss against the first cost, of {points} points spread over the front that is exact for the
  score; of random importance {front_draws} draws.

`published ompq` knows weights only: where node features vary too, it ranks blindly among them. Everything is
measured on the validation split, where `sensitivity` takes its rises from too; the others see calibration data alone.
"""


def main(arguments: list[str]) -> dict[str, Any]:
    """By model: for each proxy its correlations within bands and its hypervolume, beside those of its controls."""
    parser = argparse.ArgumentParser(prog="scripts/bench proxies", description=__doc__)
    parser.add_argument("--models", nargs="+", choices=SPACES, default=list(SPACES))
    parser.add_argument("--proxies", nargs="+", choices=PROXIES, default=list(PROXIES))
    parser.add_argument("--samples", type=int, default=300, help="random assignments of each model")
    parser.add_argument("--draws", type=int, default=200, help="of random importance, for the correlations")
    parser.add_argument("--front-draws", type=int, default=20, help="of random importance, for the hypervolumes")
    parser.add_argument("--points", type=int, default=10, help="of each front that are evaluated")
    parser.add_argument("--write-docs", action="store_true", help=f"write {DOCS.name}")
    asked = parser.parse_args(arguments)
    found = {model: _model(model, asked) for model in asked.models}
    text = _document(found, asked)
    print(text)
    if asked.write_docs:
        DOCS.write_text(text, encoding="utf-8")
    return found


def _model(model: str, asked: argparse.Namespace) -> dict[str, Any]:
    began = time.monotonic()
    with _session(SPACES[model]) as (session, costs):
        samples = Samples.draw(session, costs, asked.samples)
        _say(f"{model}: {len(samples.codes)} assignments in {samples.bands.max() + 1} bands")
        found: dict[str, Any] = {
            "space": SPACES[model],
            "samples": len(samples.codes),
            "bands": int(samples.bands.max()) + 1,
            "costs": costs,
            "proxies": {},
        }
        fronts: dict[str, dict[str, list[list[Evaluation]]]] = {}
        for name in asked.proxies:
            driver, options = PROXIES[name]
            proxy = registry.load("drivers", driver)(**options)
            arms = _arms(proxy, session, asked.draws)
            rank = {arm: samples.correlations([samples.predicted(s) for s in many]) for arm, many in arms.items()}
            fronts[name] = _fronts(proxy, session, arms, asked.points, asked.front_draws)
            found["proxies"][name] = {
                "over_all_sizes": round(samples.correlation_over_all(samples.predicted(arms[""][0])), 3),
                **{measure: _beside({arm: r[measure] for arm, r in rank.items()}) for measure in ("log_loss", "error")},
            }
            _say(f"{model}: {name}: {found['proxies'][name]}")
        for name, volumes in _hypervolumes(session, fronts).items():
            found["proxies"][name]["hypervolume"] = _beside(volumes)
        found["seconds"] = round(time.monotonic() - began, 1)
    return found


@contextmanager
def _session(space: str) -> Iterator[tuple[LedgerSession, list[str]]]:
    """A session on the bundled `space`, its controls evaluated, and the costs among the goals of the space.

    Its own goals are log-loss and the first cost, unlimited: what counts for another cost stays at its widest.
    """
    spec = load_spec(space, CHANGES.get(space, ()))
    problem = build_problem(spec)
    costs = [goal.name for goal in spec.goals if problem.cost(goal.name) is not None]
    with tempfile.TemporaryDirectory() as folder, Ledger(Path(folder) / "ledger.jsonl", spec.sha256, {}) as ledger:
        session = LedgerSession(problem, ledger, [Goal("log_loss"), Goal(costs[0])], SEED)
        session.evaluate_controls()
        yield session, costs


def _arms(proxy: Driver, session: LedgerSession, draws: int) -> dict[str, list[Scores]]:
    """Scores of the proxy (arm ""), of constant and of random importance."""
    if isinstance(proxy, Sensitivity):
        return _shuffled(session.space, proxy.rises(session), draws)
    assert isinstance(proxy, Proxy)
    importance, harm = proxy.importance(session), proxy.harm(session)
    arms: dict[str, list[Scores]] = {"": [proxy.scores(session, importance, harm)], RANDOM: []}
    seed = SEED
    while len(arms[RANDOM]) < draws:
        drawn = controls(importance, harm, seed)
        arms[CONSTANT] = drawn[CONSTANT]
        arms[RANDOM] += drawn[RANDOM]
        seed += 1
    return arms


def _shuffled(space: Space, rises: Sequence[Floats], draws: int) -> dict[str, list[Scores]]:
    """Controls of what was measured: the mean over choices of equal options, and the rises swapped among those."""
    rng = np.random.default_rng(SEED)
    alike: dict[tuple[Format, ...], list[int]] = {}
    for i, choice in enumerate(space.choices):
        alike.setdefault(choice.options, []).append(i)

    def scores(of: Mapping[int, Floats]) -> Scores:
        return {choice.sites[0]: of[i] for i, choice in enumerate(space.choices)}

    means = {i: np.mean([rises[j] for j in group], axis=0) for group in alike.values() for i in group}
    swapped = [
        {i: rises[j] for group in alike.values() for i, j in zip(group, rng.permutation(group), strict=True)}
        for _ in range(draws)
    ]
    return {"": [scores(dict(enumerate(rises)))], CONSTANT: [scores(means)], RANDOM: [scores(s) for s in swapped]}


@dataclass(frozen=True)
class Samples:
    """Random assignments and what they measured.

    Args:
        space: that they are drawn from.
        codes: option indices [n, choices].
        bands: number of the band of costs [n] each lies in, from 0.
        measured: log-loss and error [n].
    """

    space: Space
    codes: Codes
    bands: NDArray[np.intp]
    measured: Mapping[str, Floats]

    @classmethod
    def draw(cls, session: LedgerSession, names: Sequence[str], n: int) -> Samples:
        """About `n` assignments, the same number in each band of the costs `names` as far as the space has them."""
        rng = np.random.default_rng(SEED)
        pool = _spread_out(session, rng, 200 * n)
        costs = [session.problem.cost(name) for name in names]
        parts = round(BANDS ** (1 / len(costs)))
        bands = np.zeros(len(pool), dtype=np.intp)
        for cost in costs:
            assert cost is not None
            logs = np.log2(cost(pool))
            share = (logs - logs.min()) / np.ptp(logs)
            bands = bands * parts + np.minimum((share * parts).astype(np.intp), parts - 1)
        _, bands = np.unique(bands, return_inverse=True)
        each = n // (bands.max() + 1)
        taken = np.concatenate([np.flatnonzero(bands == band)[:each] for band in range(bands.max() + 1)])
        done = session.evaluate([session.space.decode(code.tolist()) for code in pool[taken]])
        good = np.array([e.failure is None for e in done])
        measured = {
            "log_loss": np.array([e.measures["log_loss"] for e in done if e.failure is None]),
            "error": np.array([1 - e.measures["accuracy"] for e in done if e.failure is None]),
        }
        return cls(session.space, pool[taken][good], bands[taken][good], measured)

    def predicted(self, scores: Scores) -> Floats:
        """The sum over sites [n] of `scores`."""
        total = np.zeros(len(self.codes))
        for i, choice in enumerate(self.space.choices):
            for site in choice.sites:
                if site in scores:
                    total += np.asarray(scores[site], dtype=float)[self.codes[:, i]]
        return total

    def correlations(self, predicted: Sequence[Floats]) -> dict[str, Floats]:
        """Spearman's correlation [len(predicted)] with each measure, the mean over bands by their size."""
        totals = {name: np.zeros(len(predicted)) for name in self.measured}
        for band in range(self.bands.max() + 1):
            inside = self.bands == band
            ours = rankdata(np.array(predicted)[:, inside], axis=1)
            for name, values in self.measured.items():
                totals[name] += _pearson(ours, rankdata(values[inside])) * inside.mean()
        return totals

    def correlation_over_all(self, predicted: Floats) -> float:
        """Spearman's correlation with the log-loss, no matter the size."""
        return float(_pearson(rankdata(predicted)[None], rankdata(self.measured["log_loss"]))[0])


def _spread_out(session: LedgerSession, rng: np.random.Generator, n: int) -> Codes:
    """Option indices [about n, choices], distinct: each assignment leans to few or to many bits, by role of a site."""
    role_of = {site.name: site.role for site in session.problem.sites}
    roles = [role_of[choice.sites[0]] for choice in session.space.choices]
    lean = {role: rng.normal(0, 2, n) for role in dict.fromkeys(roles)}
    columns = []
    for choice, role in zip(session.space.choices, roles, strict=True):
        bits = np.array([fmt.bits for fmt in choice.options])
        place = (bits.argsort().argsort() + 0.5) / len(bits) - 0.5
        chances = np.exp(2 * lean[role][:, None] * place)
        below = (chances / chances.sum(axis=1, keepdims=True)).cumsum(axis=1)
        columns.append((rng.random((n, 1)) > below[:, :-1]).sum(axis=1))
    codes: Codes = np.stack(columns, axis=1)
    _, first = np.unique(codes, axis=0, return_index=True)
    return codes[np.sort(first)]


def _pearson(rows: Floats, values: Floats) -> Floats:
    """Correlation [n] of each of `rows` [n, k] with `values` [k]; 0 where one of them is constant."""
    a, b = rows - rows.mean(axis=1, keepdims=True), values - values.mean()
    norms = np.sqrt((a * a).sum(axis=1) * (b @ b))
    return np.divide(a @ b, norms, out=np.zeros(len(a)), where=norms > 0)


def _fronts(
    proxy: Driver, session: LedgerSession, arms: Mapping[str, Sequence[Scores]], n: int, draws: int
) -> dict[str, list[list[Evaluation]]]:
    """By arm: `n` points, evaluated, of the front of each of its scores, of `draws` of them at most."""
    choose = proxy.points if isinstance(proxy, Proxy) else points
    asked = {arm: [choose(session, scores, n)[:n] for scores in many[:draws]] for arm, many in arms.items()}
    wanted = list(dict.fromkeys(a for many in asked.values() for front in many for a in front))
    done = dict(zip(wanted, session.evaluate(wanted), strict=True))
    return {arm: [[done[a] for a in front] for front in many] for arm, many in asked.items()}


def _hypervolumes(
    session: LedgerSession, fronts: Mapping[str, Mapping[str, Sequence[Sequence[Evaluation]]]]
) -> dict[str, dict[str, Floats]]:
    """By proxy and arm: the hypervolume of log-loss against the first cost, on one scale for all of them."""
    evaluations = session.evaluations
    controls = [e for e in evaluations if e.asked_by == "baseline" or e.asked_by.startswith("uniform")]
    scale = Scale.of(evaluations, controls, session.goals)
    return {
        proxy: {
            arm: np.array([Front.of(front, session.goals).hypervolume(scale) for front in many])
            for arm, many in arms.items()
        }
        for proxy, arms in fronts.items()
    }


def _beside(found: Mapping[str, Floats]) -> dict[str, Any]:
    """The proxy's own figure, the control's, the band of 95 % of random importance, and whether it lies above."""
    low, high = np.quantile(found[RANDOM], [0.025, 0.975])
    own = float(found[""][0])
    return {
        "own": round(own, 3),
        CONSTANT: round(float(found[CONSTANT][0]), 3),
        RANDOM: [round(float(low), 3), round(float(high), 3)],
        "beats_random": bool(own > high),
        "beats_constant": bool(own > found[CONSTANT][0]),
    }


def _document(found: Mapping[str, Any], asked: argparse.Namespace) -> str:
    """`docs/proxies.md`: what was measured, and which proxy beats its controls by it."""
    lines = [_HEAD.format(samples=asked.samples, draws=asked.draws, front_draws=asked.front_draws, points=asked.points)]
    for model, facts in found.items():
        lines += [
            f"## {model}: `{facts['space']}`",
            "",
            f"{facts['samples']} assignments in {facts['bands']} bands of {' and '.join(facts['costs'])}"
            f"{'; `norm:in` stays float' if facts['space'] in CHANGES else ''}. "
            "The correlation over all sizes is that with log-loss, and shows only why the bands are needed.",
            "",
            "| proxy | over all sizes | within bands: log-loss | within bands: error | front: hypervolume |",
            "| --- | --- | --- | --- | --- |",
        ]
        for name, figures in facts["proxies"].items():
            cells = [_cell(figures[column]) for column in COLUMNS]
            lines.append(f"| {name} | {figures['over_all_sizes']:.3f} | {' | '.join(cells)} |")
        lines += ["", *_verdicts(facts["proxies"]), ""]
    return "\n".join(lines)


def _cell(figure: Mapping[str, Any]) -> str:
    low, high = figure[RANDOM]
    own = f"**{figure['own']:.3f}**" if figure["beats_random"] and figure["beats_constant"] else f"{figure['own']:.3f}"
    return f"{own} (constant {figure[CONSTANT]:.3f}, random {low:.3f} to {high:.3f})"


def _verdicts(proxies: Mapping[str, Any]) -> list[str]:
    """For each column, who lies above its random importance, its constant one too, and every control in the table."""
    lines = []
    for column, title in COLUMNS.items():
        both = [n for n, f in proxies.items() if f[column]["beats_random"] and f[column]["beats_constant"]]
        one = [n for n, f in proxies.items() if f[column]["beats_random"] and not f[column]["beats_constant"]]
        none = [n for n in proxies if n not in both and n not in one]
        told = [
            f"{text} {', '.join(names)}"
            for text, names in (
                ("better than both controls:", both),
                ("better than random importance and no better than constant:", one),
                ("within or below what random importance reaches:", none),
            )
            if names
        ]
        strongest = max(max(f[column][CONSTANT], f[column][RANDOM][1]) for n, f in proxies.items() if n != MEASURED)
        above = [n for n, f in proxies.items() if f[column]["own"] > strongest] or ["none"]
        also = f" Above the strongest control of all rows but `{MEASURED}` ({strongest:.3f}): {', '.join(above)}."
        lines.append(f"* {title}: {'; '.join(told)}.{also}")
    return lines


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
