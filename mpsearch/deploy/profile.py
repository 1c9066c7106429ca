"""Times of a model on this processor, measured with onnxruntime: a table for `latency_s`, and how good it is.

1. Two whole models, all float and all 8 bits. What ran on integers in the second is what the processor can run so.
2. Each distinct operation alone, on floats and on integers.
3. Whole models at mixed assignments, a third of them held out, in turn with the two anchors.
4. Times of operations and conversions from the mixed models (`mpsearch.cost.calibrate.additive`).

What was asked is what ran: the integer kernels of each optimised model are held against the request, and a run that
differs counts as what it was.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mpsearch.core.assignment import Assignment
from mpsearch.core.errors import BadInput, OutOfResources
from mpsearch.core.format import FP32
from mpsearch.cost.calibrate import Additive, Quality, Runs, additive, line_through, quality
from mpsearch.cost.machine import Machine, this_machine
from mpsearch.cost.workload import Workload
from mpsearch.deploy.cut import operation_model
from mpsearch.deploy.features import Features
from mpsearch.deploy.mixes import anchors, layers, mixes
from mpsearch.deploy.onnx_model import OnnxModel, to_onnx
from mpsearch.deploy.operations import steps_of
from mpsearch.deploy.timing import Bench, Failed, Timed, save_inputs
from mpsearch.graph.program import Kind
from mpsearch.graph.runner import GraphRunner
from mpsearch.problem.model import ModelProblem

WHOLE_S, ALONE_S, ANCHORS_S = 120.0, 10.0, 2.0
"""How long whole models, single operations and the two anchors are measured, unless few rounds take longer."""
PER_LAYER, FEWEST, MOST = 3, 36, 90
"""Mixed models: so many per layer, and as many as there is time for."""
PASSES = 6
"""How often each mixed model runs at least, sessions made ready included."""
GOOD_MAPE, GOOD_SPEARMAN = 0.05, 0.97
"""On held-out runs, of a table that counts as calibrated."""
CALM = 1.03
"""A round counts where the float model took at most so much longer than in its best one, if there are enough such."""
FEW = 3

Floats = NDArray[np.float64]
Tell = Callable[[str, int, int], None]
"""What goes on: (what is measured, rounds done, models)."""


@dataclass(frozen=True)
class Profile:
    """What was measured and what it amounts to.

    Args:
        features: what times are made of. times: of operations and conversions.
        float_s, integer_s: whole models, all float and all 8 bits.
        predictors: how good the table is on held-out runs, and what else could predict them, by name.
        apart: layers in which each held-out run differs from every other. runs: whole models measured.
        strange: runs of which other operations ran on integers than were asked to.
        failed: what did not run, and why.
        loads: average of the machine before and after.
    """

    features: Features
    times: Additive
    machine: Machine
    threads: int
    float_s: float
    integer_s: float
    predictors: Mapping[str, Quality]
    apart: int
    runs: int
    strange: int
    failed: Mapping[str, str]
    loads: tuple[float, float]

    @property
    def quality(self) -> Quality:
        """Of the table, on held-out runs."""
        return next(iter(self.predictors.values()))

    @property
    def is_good(self) -> bool:
        """Whether the table counts as calibrated."""
        return self.quality.mape <= GOOD_MAPE and self.quality.spearman >= GOOD_SPEARMAN


def profile(problem: ModelProblem, threads: int = 1, seed: int = 0, tell: Tell = lambda *told: None) -> Profile:
    """Measure the model of `problem` on this machine.

    Raises:
        BadInput: the model has no graph, an operator without a form in ONNX, or nothing that could run on integers.
        OutOfResources: the float model does not run.
    """
    workload = problem.cost_model.workload
    if workload is None or not isinstance(problem.runner, GraphRunner):
        raise BadInput(f"the model has no graph to measure: {' '.join(problem.limits)}")
    with TemporaryDirectory(prefix="mpsearch-profile-") as folder:
        return _Profiler(problem, problem.runner, workload, Bench(Path(folder), threads), tell).run(seed)


class _Profiler:
    def __init__(
        self, problem: ModelProblem, runner: GraphRunner, workload: Workload, bench: Bench, tell: Tell
    ) -> None:
        self.space, self.workload, self.bench, self.tell = problem.space, workload, bench, tell
        self.interpreter, self.stream = runner.interpreter, runner.streams["validation"][0]
        self.program = runner.interpreter.program
        self.steps = steps_of(workload, self.program)
        self.failed: dict[str, str] = {}
        self.load = _load()
        (leaves,) = self.stream.batches
        names = (step.name for step in self.program.steps if step.kind is Kind.INPUT)
        given = {name: _array(leaf) for name, leaf in zip(names, leaves, strict=True)}
        self.inputs = save_inputs(bench.folder / "inputs.npz", given)

    def run(self, seed: int) -> Profile:
        both = anchors(self.space)
        models = [self._model(assignment) for assignment in both]
        files = {name: self._file(name, model) for name, model in zip(("float", "int8"), models, strict=True)}
        first = self._measured(files, ANCHORS_S, "anchors")
        capable = self._integer(first["int8"])
        if not capable:
            raise BadInput(
                "nothing of this space can run on integers: a layer needs 8 bits or fewer for its weight and for its "
                "input, and a convolution for its result too. Every assignment takes as long as the float model."
            )
        alone = self._alone(models, capable)
        count = self._count(first["float"].wall_s)
        drawn = mixes(self.space, self.workload, capable, count, seed)
        chosen = dict(zip(("float", "int8"), both, strict=True))
        for number, assignment in enumerate((*drawn.train, *drawn.held_out)):
            name = f"mix {number}"
            chosen[name], files[name] = assignment, self._file(name, self._model(assignment))
        measured = self._measured(files, WHOLE_S, "whole models")
        held_out = {f"mix {number}" for number in range(len(drawn.train), count)}
        return self._fitted(chosen, measured, held_out, drawn.apart, Features(self.workload, capable), alone)

    def _count(self, wall_s: float) -> int:
        """Mixed models to measure."""
        least = max(FEWEST, PER_LAYER * len(layers(self.workload)))
        return max(least, min(MOST, int(WHOLE_S / (PASSES * wall_s))))

    def _model(self, assignment: Assignment) -> OnnxModel:
        return to_onnx(self.program, self.interpreter.grids, assignment)

    def _file(self, name: str, model: OnnxModel) -> tuple[Path, Path]:
        path = self.bench.folder / f"{name}.onnx"
        path.write_bytes(model.proto.SerializeToString())
        return path, self.inputs

    def _measured(self, files: Mapping[str, tuple[Path, Path]], seconds: float, what: str) -> dict[str, Timed]:
        """What ran, by name; the rest is kept in `failed`. Raises `OutOfResources` where the anchors do not run."""
        found = self.bench.measure(files, seconds, tell=lambda rounds: self.tell(what, rounds, len(files)))
        self.failed |= {name: result.reason for name, result in found.items() if isinstance(result, Failed)}
        for anchor in ("float", "int8"):
            if anchor in files and isinstance(found[anchor], Failed):
                raise OutOfResources(f"the {anchor} model does not run in onnxruntime: {self.failed[anchor]}.")
        return {name: result for name, result in found.items() if isinstance(result, Timed)}

    def _integer(self, ran: Timed) -> frozenset[str]:
        """Operations that ran on integers."""
        return frozenset(name for name, step in self.steps.items() if step.name in ran.kernels.integer)

    def _alone(self, models: Sequence[OnnxModel], capable: frozenset[str]) -> dict[str, tuple[float, float]]:
        """Seconds on floats and on integers of operations measured alone, each distinct one once."""
        features = Features(self.workload, capable)
        first: dict[int, str] = {}
        for name, number in zip(features.names, features.alike(), strict=True):
            if name in self.steps:
                first.setdefault(number, name)
        files: dict[str, tuple[Path, Path]] = {}
        for number, name in first.items():
            for kind, model in zip(("float", "int8"), models, strict=True):
                if kind == "float" or name in capable:
                    files[f"{number} {kind}"] = self._single(f"{number} {kind}", model, name)
        ran = self._measured(files, ALONE_S, "single operations")
        found = {}
        for name, number in zip(features.names, features.alike(), strict=True):
            if f"{number} float" in ran:
                wide = ran[f"{number} float"].best_s
                found[name] = wide, ran[f"{number} int8"].best_s if f"{number} int8" in ran else wide
        return found

    def _single(self, label: str, model: OnnxModel, name: str) -> tuple[Path, Path]:
        proto, given = operation_model(self.program, model, self.steps[name])
        self.interpreter.assign([FP32] * len(self.program.sites))
        values = self.interpreter.pull(self.stream, list(given.values()))
        path = self.bench.folder / f"alone {label}.onnx"
        path.write_bytes(proto.SerializeToString())
        arrays = {tensor: _array(values[index]) for tensor, index in given.items()}
        return path, save_inputs(path.with_suffix(".npz"), arrays)

    def _fitted(
        self,
        chosen: Mapping[str, Assignment],
        measured: Mapping[str, Timed],
        held_out: set[str],
        apart: int,
        features: Features,
        alone: Mapping[str, tuple[float, float]],
    ) -> Profile:
        calm = _calm(measured["float"].rounds_s)
        seconds = {name: float(timed.rounds_s[calm].min()) for name, timed in measured.items()}
        strange = 0
        runs: dict[str, tuple[Floats, Floats]] = {}
        for name, timed in measured.items():
            wanted, ran = features.narrow(chosen[name]), self._integer(timed)
            strange += wanted != ran
            narrow = wanted if name in held_out else ran  # a table knows the request alone
            runs[name] = features.row(narrow), features.switches(chosen[name], narrow)
        train = _runs(runs, seconds, [name for name in runs if name not in held_out])
        test = _runs(runs, seconds, [name for name in runs if name in held_out])
        floats, integers = (np.array([alone.get(name, (0.0, 0.0))[i] for name in features.names]) for i in (0, 1))
        times = additive(train, floats, features.alike())
        sums = {name: float(row @ integers + (1 - row) @ floats) for name, (row, _) in runs.items()}
        line = line_through([sums["float"], sums["int8"]], [seconds["float"], seconds["int8"]])
        raw = np.array([sums[name] for name in runs if name in held_out])
        return Profile(
            features,
            times,
            this_machine(),
            self.bench.threads,
            seconds["float"],
            seconds["int8"],
            {
                "this table": quality(times(test.narrow, test.switches), test.seconds),
                "sum of single operations": quality(raw, test.seconds),
                "the same, on a line through two anchors": quality(line(raw), test.seconds),
            },
            apart,
            len(runs),
            strange,
            self.failed,
            (self.load, _load()),
        )


def _runs(runs: Mapping[str, tuple[Floats, Floats]], seconds: Mapping[str, float], names: Sequence[str]) -> Runs:
    narrow, switches = (np.array([runs[name][i] for name in names]) for i in (0, 1))
    return Runs(narrow, switches, np.array([seconds[name] for name in names]))


def _calm(rounds_s: Floats) -> NDArray[np.intp]:
    """Rounds in which the machine was not disturbed: at least the best few."""
    order = np.argsort(rounds_s, kind="stable")
    return order[: max(FEW, int((rounds_s <= CALM * rounds_s.min()).sum()))]


def _array(value: object) -> NDArray[np.generic]:
    assert isinstance(value, Tensor)
    return value.detach().cpu().contiguous().numpy()


def _load() -> float:
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
