"""The page of one network: tables in Markdown and a plot, all from what was measured."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from pareto.searched import DRIVERS, ROUND, Searched, seconds, versions
from pareto.sweep import WIDTHS, Row

from mpsearch.core.evaluation import Evaluation

_SIZES = ("bits of weights", "of values", "memory, KiB", "bit operations")


class Page:
    """Everything that is said of one network.

    Args:
        name: of the page.
        searched: what the searches found.
    """

    def __init__(self, name: str, searched: Searched) -> None:
        self.name, self.searched, self.case = name, searched, searched.case
        members = searched.front.members
        rows = np.unique(np.linspace(0, len(members) - 1, min(self.case.tested, len(members))).round().astype(int))
        self.points = {
            f"{driver}, {bits} bits": found
            for bits in WIDTHS
            for driver in DRIVERS
            if (found := searched.best_within(bits, searched.found(driver))) is not None
        }
        uniform = [e for e in searched.uniform if e.asked_by in ("uniform 4", "uniform 8")]
        chosen = [searched.baseline, *uniform, *self.points.values(), *(members[i] for i in rows)]
        self.tests = searched.test(chosen)

    def write(self, folder: Path, swept: Mapping[int, Sequence[Row]]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._plot(folder / f"{self.name}.png")
        (folder / f"{self.name}.md").write_text("\n".join(self._lines(swept)) + "\n", encoding="utf-8")

    @property
    def volumes(self) -> dict[str, list[float]]:
        """Hypervolume of each seed's front, by driver."""
        return {driver: self.searched.volumes(driver) for driver in DRIVERS}

    def drop(self, found: Evaluation) -> float:
        """How much worse than the float model `found` is on the test split."""
        before, after = (self.tests[e.assignment].measures[self.case.shown] for e in (self.searched.baseline, found))
        return before - after if self.case.maximises else after - before

    def _lines(self, swept: Mapping[int, Sequence[Row]]) -> Iterable[str]:
        case, searched = self.case, self.searched
        runs = searched.runs.values()
        error = self.tests[searched.baseline.assignment].stderr.get(case.shown)
        yield f"# {case.title}: post-training front\n"
        yield f"`scripts/reproduce fronts {self.name}` makes this page. {case.data} {case.note}\n"
        yield (
            f"Searched: `{case.loss}` (limit: {case.limit}) against `bops`, bit operations (limit: {case.most} of the "
            f"float model's). Weights: {case.weights}; values: {case.values}. Driver `frontier`, {case.budget} "
            f"evaluations with float and the controls of the first table, seed "
            f"{', '.join(map(str, case.seeds))}; random search has the same budget and seeds. No training: ranges by "
            f"the defaults of the formats; bias correction: {searched.spec.quantization.bias_correction}.\n"
        )
        yield (
            "Bits are averages per element, scales apart: of the weights of convolutions, linear layers and "
            "recurrences, and of the values that are searched. Memory holds all that is stored, scales too. Bit "
            "operations are shares of those of the float model. "
            f"*Drop* is that of `{case.shown}` on the test split against the float model of the same run"
            + (f"; one standard error of the float model's is {error:.4f}.\n" if error else ".\n")
        )
        yield from self._table(
            {"float": searched.baseline, **searched.controls}, "## One format for all weights, one for all values\n"
        )
        said = (
            f"The best with at most so many bits on average (up to {ROUND} more), of weights and of values, chosen on "
            "validation data among all that a driver evaluated, controls included.\n"
        )
        yield from self._table(self.points, "## At 4 and 3 bits\n", said)
        front = {str(i): e for i, e in enumerate(searched.front.members, 1)}
        yield from self._table(
            front, "## Front\n", f"At most {case.tested}, evenly spread, were scored on test data.\n"
        )
        yield f"![{case.shown} over bit operations]({self.name}.png)\n"
        yield "## Search\n"
        yield from _markdown(
            ["driver", "hypervolume of each seed", "mean", "evaluations", "seconds of scoring"],
            [
                [
                    f"`{driver}`",
                    ", ".join(f"{v:.4f}" for v in volumes),
                    f"{statistics.mean(volumes):.4f}",
                    str(sum(len(run) for (by, _), run in searched.runs.items() if by == driver)),
                    f"{sum(seconds(run) for (by, _), run in searched.runs.items() if by == driver):.0f}",
                ]
                for driver, volumes in self.volumes.items()
            ],
        )
        if swept:
            yield "## The same format everywhere\n"
            yield "Integers, and one change at a time from them, on the validation data of the search.\n"
            yield from _markdown(
                ["weights", "values", *_SIZES[:3], f"`{case.loss}`", f"`{case.shown}`"],
                [
                    [row.weights, row.values, *(f"{b:.2f}" for b in row.bits), *self._scores(row.evaluation)]
                    for rows in swept.values()
                    for row in rows
                ],
            )
        took = seconds(e for run in runs for e in run) + seconds(self.tests.values())
        took += seconds(row.evaluation for rows in swept.values() for row in rows)
        yield (
            f"{', '.join(f'{name} {text}' for name, text in versions().items())}; {_machine()}; "
            f"{took / 60:.0f} minutes of scoring on one thread, other programs running beside it."
        )

    def _scores(self, evaluation: Evaluation) -> list[str]:
        if evaluation.failure is not None:
            return ["failed", "", ""]
        measures = evaluation.measures
        names = (self.case.loss, self.case.shown)
        return [f"{measures['memory_bytes'] / 1024:.0f}", *(f"{measures[name]:.4f}" for name in names)]

    def _table(self, entries: Mapping[str, Evaluation], *head: str) -> Iterable[str]:
        case, baseline = self.case, self.searched.baseline
        yield from head
        rows = []
        for name, found in entries.items():
            bits = (f"{b:.2f}" for b in self.searched.bits(found.assignment))
            share = found.measures["bops"] / baseline.measures["bops"]
            test = self.tests.get(found.assignment)
            scored = ["", "", ""]
            if test is not None:
                loss = "" if case.loss == case.shown else f"{test.measures[case.loss]:.4f}"
                scored = [loss, f"{test.measures[case.shown]:.4f}", f"{self.drop(found):+.4f}"]
            memory, *scores = self._scores(found)
            rows.append([name, *bits, memory, f"{share:.4f}", *scores, *scored])
        measured = [f"{split} `{name}`" for split in ("validation", "test") for name in (case.loss, case.shown)]
        header = ["", *_SIZES, *measured, "drop"]
        if case.loss == case.shown:
            rows = [[*row[:5], *row[6:7], *row[8:]] for row in rows]
            header = [*header[:5], *header[6:7], *header[8:]]
        yield from _markdown(header, rows)

    def _plot(self, path: Path) -> None:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot

        searched, shown = self.searched, self.case.shown
        figure, axes = pyplot.subplots(figsize=(6, 3.6), dpi=90)
        whole = searched.baseline.measures
        for name, found, style in (
            ("random", searched.found("random"), {"marker": ".", "linestyle": "", "color": "0.7"}),
            (
                "one format each",
                list(searched.controls.values()),
                {"marker": "s", "linestyle": "", "color": "tab:orange"},
            ),
            ("front", list(searched.front.members), {"marker": "o", "markersize": 4, "color": "tab:blue"}),
        ):
            good = [e.measures for e in found if e.failure is None and e is not searched.baseline]
            axes.plot([m["bops"] / whole["bops"] for m in good], [m[shown] for m in good], label=name, **style)
        axes.axhline(whole[shown], color="0.3", linewidth=0.8, label="float")
        axes.set(xscale="log", xlabel="share of the float model's bit operations", ylabel=f"{shown}, validation")
        if not self.case.maximises:
            axes.set_yscale("log")
        axes.set_xlim(right=0.1)
        axes.legend()
        figure.tight_layout()
        figure.savefig(path)
        pyplot.close(figure)


def _markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterable[str]:
    for cells in (header, ["---"] * len(header), *rows):
        yield f"| {' | '.join(cells)} |"
    yield ""


def _machine() -> str:
    model = next(
        (line.partition(":")[2].strip() for line in _cpuinfo() if line.startswith("model name")), platform.machine()
    )
    return f"{model}, {os.cpu_count()} cores"


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.is_file() else []
