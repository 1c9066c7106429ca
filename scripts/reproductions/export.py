"""Every member of the fronts of bundled spaces as a packed file: does it take what the front says, and give the same?

Each space is searched, and the best few finetuned where its objective trains. Of every member of the front the tensors
of the packed file are counted, the outputs on validation and test batches compared bit for bit with those of the
evaluator, and all measures with the front's. Runs are kept under `--out`, and searched once.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from mpsearch.core.evaluation import Evaluation
from mpsearch.deploy.packed import load_packed
from mpsearch.deploy.packed_module import PackedModule
from mpsearch.engine.export import export_packed, problems_of, verify
from mpsearch.engine.folder import Folder
from mpsearch.engine.load import load_result
from mpsearch.engine.result import RunResult
from mpsearch.engine.run import run
from mpsearch.problem.build import SPLITS, batches_of
from mpsearch.problem.finetune import restored
from mpsearch.problem.inputs import example
from mpsearch.problem.model import ModelProblem
from mpsearch.problem.trained import Trained
from mpsearch.spec.load import load_spec

TRAINED = ("gnn", "cnn", "transformer", "lstm")
SPACES = (*TRAINED, "cifar_resnet20")


def main(arguments: list[str]) -> dict[str, Any]:
    parser = argparse.ArgumentParser(
        prog="scripts/reproduce export", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", default=[], help=f"bundled spaces; by default {', '.join(SPACES)}")
    parser.add_argument("--out", type=Path, default=Path("runs") / "export", help="folder of the runs")
    parser.add_argument("--budget", type=int, default=40, help="evaluations of a search")
    asked = parser.parse_args(arguments)
    return {name: _checked(name, asked.out / name, asked.budget) for name in asked.names or SPACES}


def _checked(name: str, folder: Path, budget: int) -> dict[str, Any]:
    if not (folder / "front.json").is_file():
        trains = ["finetune={epochs: 1, top: 3}"] if name in TRAINED else []
        spec = load_spec(name, [f"driver.budget={budget}", "tracking.enabled=false", *trains])
        run(spec, folder, show_progress=False, bare=True)
    result = load_result(folder)
    problems = problems_of(result)
    began, sizes, wrong = time.perf_counter(), [], []
    for member in result.front.members:
        with tempfile.TemporaryDirectory() as place:
            found = export_packed(result, member, Path(place), problems)
            module = load_packed(place)
            different = _different(result, problems[member.variant], member, module)
            missed = [f"{c.measure} {c.split}" for c in verify(result, member, Path(place)) if not c.holds]
        sizes.append((found.tensor_bytes, found.header_bytes))
        wrong += [f"{member.key}: {what}" for what in (*different, *missed)]
    finetuned = sum(member.is_finetuned for member in result.front.members)
    print(f"{name}: {len(sizes)} members, {finetuned} finetuned, {len(wrong)} wrong", *wrong, sep="\n  ", flush=True)
    return {
        "members": len(sizes),
        "finetuned": finetuned,
        "wrong": wrong,
        "tensor_bytes": [min(size for size, _ in sizes), max(size for size, _ in sizes)],
        "header_bytes": [min(size for _, size in sizes), max(size for _, size in sizes)],
        "seconds_per_member": round((time.perf_counter() - began) / len(sizes), 2),
    }


def _different(result: RunResult, problem: ModelProblem, member: Evaluation, module: PackedModule) -> list[str]:
    """Batches on which a packed file gives other outputs than the evaluator."""
    torch.set_num_threads(module.manifest["threads"])
    trained = Trained.load(Folder(result.folder).member_weights(member.key)) if member.is_finetuned else None
    found = []
    for split in SPLITS:
        batches = batches_of(problem.objective, split)
        if trained is not None:
            wanted = problem.trainer.outputs(split, restored(problem.trainer, trained))
        else:
            wanted = (problem.runner.run(member.assignment, split, i) for i in range(len(batches)))
        for i, (batch, want) in enumerate(zip(batches, wanted, strict=True)):
            given = example(batch, torch.device("cpu"))
            pairs = zip(pytree.tree_leaves(module(*given.args, **given.kwargs)), pytree.tree_leaves(want), strict=True)
            found += [f"output of {split} {i}" for ours, theirs in pairs if not _same(ours, theirs)]
    return found


def _same(one: Any, other: Any) -> bool:
    """Whether two outputs are equal to the last bit, which tells 0.0 from -0.0."""
    if not isinstance(one, Tensor):
        return bool(one == other)
    bits = [tensor.contiguous().reshape(-1).view(torch.uint8) for tensor in (one, other)]
    return one.dtype == other.dtype and one.shape == other.shape and torch.equal(*bits)
