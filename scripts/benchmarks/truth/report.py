"""The benchmark's tables, plot and figures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from truth.results import Results
from truth.table import Truth

Centre = Callable[[Sequence[float]], Any]

DOCS = Path(__file__).resolve().parents[3] / "docs"
SHARE = 0.99
_LABEL = {"log_loss": "log-loss", "error": "error"}
_SIDES = {
    "nsga2": "NSGA-II, eager, no cache",
    "frontier": "`frontier`",
    "frontier racing": "`frontier` with racing",
}


def figures(results: Results, truths: Sequence[str]) -> dict[str, Any]:
    """The numbers of the benchmark: each the least over truths of the mean over seeds; null where it was not run."""
    of = {name: _own(results, name) for name in truths}
    names = next(iter(of.values())).keys()
    least = {name: _least([own[name] for own in of.values()], name) for name in names if name != "evaluations_to_99"}
    return {**least, "truths": of}


def _least(values: list[float | None], name: str) -> float | None:
    known = [value for value in values if value is not None]
    complete = len(known) == len(values) or name == "speedup_to_99_racing"  # racing refuses a graph that is one batch
    return min(known) if known and complete else None


def _own(results: Results, truth: str) -> dict[str, Any]:
    def mean(driver: str, budget: int) -> float | None:
        values = results.reached(truth, "log_loss", driver, budget)
        return round(float(np.mean(values)), 4) if values else None

    drivers = results.drivers([truth], "log_loss")
    return {
        "frontier_hv_100": mean("frontier", 100),
        "frontier_hv_200": mean("frontier", 200),
        "nsga2_hv_1000": mean("nsga2", 1000),
        "nsga3_hv_1000": mean("nsga3", 1000),
        "tpe_hv_400": mean("tpe", 400),
        "qmc_hv_1000": mean("qmc", 1000),
        "random_hv_1000": mean("random", 1000),
        "speedup_to_99": _mean_speedup(results, truth, "frontier"),
        "speedup_to_99_of_means": _speedup(results, truth, "frontier"),
        "speedup_to_99_of_medians": _speedup(results, truth, "frontier", np.median),
        "speedup_to_99_racing": _mean_speedup(results, truth, "frontier racing"),
        "evaluations_to_99": {driver: _needed(results.needed(truth, "log_loss", driver, SHARE)) for driver in drivers},
    }


def _mean_speedup(results: Results, truth: str, side: str) -> float | None:
    """Mean over seeds of NSGA-II's time over that of `side`; None where one is missing or did not get there."""
    ours, theirs = results.times(truth, side), results.times(truth, "nsga2")
    seconds = [(theirs[seed].seconds, ours[seed].seconds) for seed in ours if seed in theirs]
    if not ours or ours.keys() != theirs.keys() or any(None in pair for pair in seconds):
        return None
    return round(float(np.mean([above / below for above, below in seconds if above and below])), 1)


def _speedup(results: Results, truth: str, side: str, centre: Centre = np.mean) -> float | None:
    """Time of NSGA-II over that of `side`, each the mean over seeds; None where one is missing or did not get there."""
    ours, theirs = results.times(truth, side), results.times(truth, "nsga2")
    seconds = [[found.seconds for found in times.values()] for times in (theirs, ours)]
    if not ours or ours.keys() != theirs.keys() or any(None in side for side in seconds):
        return None
    above, below = (float(centre([s for s in side if s is not None])) for side in seconds)
    return round(above / below, 1)


def _needed(counts: Sequence[int | None]) -> float | None:
    """Mean; None where a seed did not get there."""
    return None if not counts or None in counts else round(float(np.mean([n for n in counts if n is not None])), 1)


def text(results: Results, truths: Sequence[str], losses: Sequence[str], budgets: Sequence[int]) -> str:
    """All tables, in Markdown."""
    parts = []
    for name in truths:
        truth = Truth.load(name)
        for loss in losses:
            drivers = results.drivers([name], loss)
            if not drivers:
                continue
            parts.append(
                f"### {name}: {_LABEL[loss]} against {truth.size_name}, {len(truth.space.choices)} choices, "
                f"{truth.space.size:,} assignments\n"
            )
            head = ["driver", *(str(budget) for budget in budgets), "evaluations to 99 %", "ms to ask"]
            rows = [_row(results, name, loss, driver, budgets) for driver in drivers]
            parts.append(_table(head, rows))
        if results.times(name, "nsga2"):
            parts.append(f"### {name}: wall time to 99 % of the hypervolume\n")
            parts.append(_table(["search", "seconds", "evaluations", "largest difference"], _times(results, name)))
    return "\n".join(parts)


def _row(results: Results, truth: str, loss: str, driver: str, budgets: Sequence[int]) -> list[str]:
    cells = []
    for budget in budgets:
        values = results.reached(truth, loss, driver, budget)
        spread = f" ± {np.std(values, ddof=1):.4f}" if len(values) > 1 else " (one seed)"
        cells.append(f"{np.mean(values):.4f}{spread}" if values else "")
    counts = results.needed(truth, loss, driver, SHARE)
    there = [n for n in counts if n is not None]
    missing = "" if len(there) == len(counts) else f" ({len(there)} of {len(counts)} seeds)"
    needed = f"{np.mean(there):.0f}{missing}" if there else "not reached"
    return [f"`{driver}`", *cells, needed, f"{1e3 * results.ask_s(truth, loss, driver):.1f}"]


def _times(results: Results, truth: str) -> list[list[str]]:
    rows = []
    for side, label in _SIDES.items():
        found = list(results.times(truth, side).values())
        seconds = [t.seconds for t in found if t.seconds is not None]
        if not seconds:
            if found:
                rows.append([label, "not reached", "", ""])
            continue
        spread = f" ± {np.std(seconds, ddof=1):.2f}" if len(seconds) > 1 else ""
        missing = "" if len(seconds) == len(found) else f" ({len(seconds)} of {len(found)} seeds)"
        evaluations = np.mean([t.evaluations for t in found if t.evaluations is not None])
        difference = max(t.difference for t in found)
        rows.append([label, f"{np.mean(seconds):.2f}{spread}{missing}", f"{evaluations:.0f}", f"{difference:.1g}"])
    ratio, racing = (_mean_speedup(results, truth, side) for side in ("frontier", "frontier racing"))
    if ratio is not None:
        rows.append(
            ["times faster, mean over seeds", f"{ratio}" + (f", with racing {racing}" if racing else ""), "", ""]
        )
    for label, centre in (("ratio of mean times", np.mean), ("ratio of median times", np.median)):
        ratio, racing = (_speedup(results, truth, side, centre) for side in ("frontier", "frontier racing"))
        if ratio is not None:
            rows.append([label, f"{ratio}" + (f", with racing {racing}" if racing else ""), "", ""])
    return rows


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows)]
    return "\n".join(lines) + "\n"


def docs(results: Results, truths: Sequence[str], losses: Sequence[str], budgets: Sequence[int]) -> None:
    """Write `docs/search.md` and `docs/search.png`."""
    intro = (Path(__file__).parent / "intro.md").read_text(encoding="utf-8")
    (DOCS / "search.md").write_text(f"{intro}\n{text(results, truths, losses, budgets)}", encoding="utf-8")
    plot(results, truths, DOCS / "search.png")


def plot(results: Results, truths: Sequence[str], path: Path) -> None:
    """Share of the hypervolume over evaluations, a panel a truth: mean over seeds, spread shaded."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(truths), figsize=(5 * len(truths), 4), sharey=True, squeeze=False)
    for axis, truth in zip(axes[0], truths, strict=True):
        for driver in results.drivers(truths, "log_loss"):
            curves = results.longest(truth, "log_loss", driver)
            if not curves:
                continue
            n = min(map(len, curves))
            stacked = 1 - np.stack([curve[:n] for curve in curves])
            missing, spread = stacked.mean(axis=0), stacked.std(axis=0)
            at = np.arange(1, n + 1)
            (line,) = axis.plot(at, missing, label=driver, linewidth=2 if driver == "frontier" else 1)
            low = np.maximum(missing - spread, 1e-5)
            axis.fill_between(at, low, missing + spread, color=line.get_color(), alpha=0.15, linewidth=0)
        axis.set(xscale="log", yscale="log", xlim=(10, None), ylim=(2e-4, 0.5), title=truth, xlabel="evaluations")
        axis.axhline(1 - SHARE, color="grey", linewidth=0.7, linestyle=":")
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("missing share of the hypervolume")
    axes[0][-1].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
