"""The page of one network: tables in Markdown and a plot, all from what was measured."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from pareto.searched import DRIVERS, Searched, average_bits, seconds, versions
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
        self.points: dict[str, Evaluation] = {}
        """The best at so many bits, by `4 bits, frontier`."""
        for bits in WIDTHS:
            asked = {"uniform": searched.uniform.values()} | {driver: searched.found(driver) for driver in DRIVERS}
            for by, found in asked.items():
                best = searched.best_within(bits, found)
                if best is not None:
                    self.points[f"{bits} bits, {by}"] = best
        self.tests = searched.test([searched.baseline, *self.points.values(), *(members[i] for i in rows)])

    def write(self, folder: Path, swept: Mapping[int, Sequence[Row]]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._plot(folder / f"{self.name}.png")
        (folder / f"{self.name}.md").write_text("\n".join(self._lines(swept)) + "\n", encoding="utf-8")

    @property
    def volumes(self) -> dict[tuple[float, str], list[float]]:
        """Hypervolume of each seed's front, by limit and driver."""
        return {(b, driver): self.searched.volumes(driver, b) for b in self.case.bits for driver in DRIVERS}

    def drop(self, found: Evaluation) -> float:
        """How much worse than the float model `found` is on the test split."""
        before, after = (self.tests[e.assignment].measures[self.case.shown] for e in (self.searched.baseline, found))
        return before - after if self.case.maximises else after - before

    def _lines(self, swept: Mapping[int, Sequence[Row]]) -> Iterable[str]:
        case, searched = self.case, self.searched
        error = self.tests[searched.baseline.assignment].stderr.get(case.shown)
        yield f"# {case.title}: post-training front\n"
        yield f"`scripts/reproduce fronts {self.name}` makes this page. {case.data} {case.note}\n"
        limits = ", ".join(f"{bits:g}" for bits in case.bits)
        yield (
            f"Searched: `{case.loss}` (limit: that of the same bits everywhere) against `weight_bits` and "
            f"`activation_bits`, each with a limit; a search for each limit of {limits} bits. Weights: {case.weights}; "
            f"values: {case.values}. Each search has {case.budget} evaluations, float and the controls of the first "
            f"table among them, seed {', '.join(map(str, case.seeds))}; random search has the same. No training: "
            f"ranges by the defaults of the formats; bias correction: {searched.spec.quantization.bias_correction}.\n"
        )
        yield (
            "Bits are averages per element: of the weights of convolutions, linear layers and recurrences, and of the "
            "values that are searched. Scales that are stored with the model are left out, those of rows and blocks "
            "that are made while it runs are counted. Memory holds all that is stored, scales too. Bit "
            "operations are shares of those of the float model. "
            f"*Drop* is that of `{case.shown}` on the test split against the float model of the same run"
            + (f"; one standard error of the float model's is {error:.4f}.\n" if error else ".\n")
        )
        controls = {"float": searched.baseline, **searched.uniform}
        yield from self._table(controls, "## The same bits everywhere\n")
        said = (
            "The best with at most so many bits on average, of weights and of values each, chosen on validation data: "
            "of the same bits everywhere, and among all that each driver evaluated, which these controls are part "
            f"of. {' '.join(self._gains())}\n"
        )
        yield from self._table(self.points, "## At 4 and 3 bits\n", said)
        front = {str(i): e for i, e in enumerate(searched.front.members, 1)}
        tested = f" At most {case.tested}, evenly spread, were scored on test data." if case.tested else ""
        said = f"Of all that `frontier` evaluated, `{case.loss}` against bit operations.{tested}\n"
        yield from self._table(front, "## Front\n", said)
        yield f"![{case.shown} over bit operations]({self.name}.png)\n"
        yield "## Search\n"
        yield "Hypervolume over the goals of a search, up to the worst control.\n"
        yield from _markdown(
            ["bits", "driver", "hypervolume of each seed", f"best validation `{case.loss}`", "seconds of scoring"],
            [
                [
                    f"{bits:g}",
                    f"`{driver}`",
                    ", ".join(f"{v:.4f}" for v in volumes),
                    self._best(driver, bits),
                    f"{sum(seconds(run) for key, run in searched.runs.items() if key[:2] == (driver, bits)):.0f}",
                ]
                for (bits, driver), volumes in self.volumes.items()
            ],
        )
        if swept:
            yield "## The same format everywhere\n"
            yield "Integers, and one change at a time from them, on the validation data of the search.\n"
            yield from _markdown(
                ["weights", "values", *_SIZES[:3], f"`{case.loss}`", f"`{case.shown}`"],
                [[row.weights, row.values, *self._scores(row.evaluation)] for rows in swept.values() for row in rows],
            )
        took = seconds(e for run in searched.runs.values() for e in run) + seconds(self.tests.values())
        took += seconds(row.evaluation for rows in swept.values() for row in rows)
        yield (
            f"{', '.join(f'{name} {text}' for name, text in versions().items())}; {_machine()}; "
            f"{took / 60:.0f} minutes of scoring on one thread, other programs running beside it."
        )

    def _gains(self) -> Iterable[str]:
        """What `frontier` adds on the test split to the same bits everywhere, and to random search."""
        for bits in WIDTHS:
            known = {by: self.points.get(f"{bits} bits, {by}") for by in ("frontier", "uniform", "random")}
            drops = {by: self.drop(found) for by, found in known.items() if found is not None}
            if "frontier" in drops:
                told = [f"{drops[by] - drops['frontier']:+.4f} over {by}" for by in drops if by != "frontier"]
                yield f"At {bits} bits `frontier` gains {', '.join(told)} in `{self.case.shown}` on the test split."

    def _best(self, driver: str, bits: float) -> str:
        """Validation loss of the best that the searches within `bits` found, controls included."""
        runs = (e for key, run in self.searched.runs.items() if key[:2] == (driver, bits) for e in run)
        best = self.searched.best_within(bits, runs)
        return "" if best is None else f"{best.measures[self.case.loss]:.4f}"

    def _scores(self, evaluation: Evaluation) -> list[str]:
        if evaluation.failure is not None:
            return ["failed", *[""] * 4]
        measures = evaluation.measures
        names = (self.case.loss, self.case.shown)
        bits = (f"{bits:.2f}" for bits in average_bits(evaluation))
        return [*bits, f"{measures['memory_bytes'] / 1024:.0f}", *(f"{measures[name]:.4f}" for name in names)]

    def _table(self, entries: Mapping[str, Evaluation], *head: str) -> Iterable[str]:
        case, baseline = self.case, self.searched.baseline
        yield from head
        rows = []
        for name, found in entries.items():
            share = found.measures["bops"] / baseline.measures["bops"]
            test = self.tests.get(found.assignment)
            scored = ["", "", ""]
            if test is not None:
                loss = "" if case.loss == case.shown else f"{test.measures[case.loss]:.4f}"
                scored = [loss, f"{test.measures[case.shown]:.4f}", f"{self.drop(found):+.4f}"]
            sizes = self._scores(found)
            rows.append([name, *sizes[:3], f"{share:.4f}", *sizes[3:], *scored])
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
                "the same bits everywhere",
                list(searched.uniform.values()),
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
