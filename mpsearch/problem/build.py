"""From a spec to a problem that is ready to be evaluated. Everything that can fail is tried here, before the search."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from mpsearch.core.errors import BadInput, MpsearchError, ObjectiveFailed
from mpsearch.core.machine import free_bytes
from mpsearch.graph.correct import BiasCorrection
from mpsearch.graph.export import ExportError
from mpsearch.graph.grids import SiteGrids
from mpsearch.graph.hooks import LIMITS, HookRunner
from mpsearch.graph.interpret import Interpreter, Stream
from mpsearch.graph.kv_cache import cached
from mpsearch.graph.memo import keep_freed_memory
from mpsearch.graph.notes import noted
from mpsearch.graph.operations import operations
from mpsearch.graph.program import compile_program
from mpsearch.graph.runner import GraphRunner, layout
from mpsearch.graph.sparse import refuse_held
from mpsearch.graph.structure import structure
from mpsearch.graph.workload import parameters, values
from mpsearch.problem.costs import Computed, graph_costs, hooked_costs
from mpsearch.problem.graphed import graphed
from mpsearch.problem.inputs import example
from mpsearch.problem.model import ModelProblem
from mpsearch.problem.objective import Batch, Objective, Split
from mpsearch.problem.rules import build_space
from mpsearch.problem.trainer import Trainer
from mpsearch.spec.find import find_objective, load_objective_class
from mpsearch.spec.schema import Spec

LARGE_MACS = 4e9
"""Multiply-accumulates of a batch from which several threads pay, even where other programs want a core now and then:
below, an operator is done before a second thread is awake, and a thread that has to wait for a core holds up all."""
SPLITS: tuple[Split, ...] = ("calibration", "validation", "test")


def build_problem(spec: Spec, weights: Path | None = None) -> ModelProblem:
    """Build the model, its data and its space as `spec` says.

    Args:
        weights: safetensors file of float weights that an earlier sitting kept, used instead of the objective's own.

    Raises:
        BadInput: a rule that matches nothing, missing data, a device that is not there.
        ObjectiveFailed: the objective raises, or the graph does not reproduce the model.
    """
    device = prepare_machine(spec)
    objective = make_objective(spec)
    model = _guard("model()", objective.model)
    if not isinstance(model, nn.Module):
        raise ObjectiveFailed(f"the objective's model() gave {type(model).__name__}, not a torch.nn.Module.")
    if weights is not None:
        _load(model, weights)
    model = model.to(device).eval()
    batches: dict[str, list[Batch]] = {split: batches_of(objective, split) for split in SPLITS}
    return assemble(spec, objective, model, batches, device)


def assemble(
    spec: Spec,
    objective: Objective,
    model: nn.Module,
    batches: Mapping[str, Sequence[Batch]],
    device: torch.device,
) -> ModelProblem:
    """Put the parts of a problem together: from the exported graph, or by module hooks where that fails."""
    refuse_held(model)
    state = {name: tensor.detach() for name, tensor in model.state_dict().items() if isinstance(tensor, Tensor)}
    cache_bytes = free_bytes() // 4 if spec.engine.cache_bytes is None else spec.engine.cache_bytes
    examples = {split: [example(batch, device) for batch in found] for split, found in batches.items()}
    try:
        found = graphed(spec, model, examples)
    except ExportError as error:
        first = examples["validation"][0]
        with torch.no_grad():
            _guard("model, given the first batch of validation,", lambda: model(*first.args, **first.kwargs))
        if any(rule.bins for rule in spec.sites):
            raise BadInput(f"bins split values of the exported graph, and there is none. {error}") from error
        hooks = HookRunner(model, examples["calibration"], examples, cache_bytes)
        space = build_space(spec, hooks.sites, ())
        costs = hooked_costs(spec, space, hooks.parameters(), hooks.values(), hooks.packed, str(error))
        limits = (f"{error} Falling back to module hooks.", *LIMITS)
        return ModelProblem(objective, hooks, space, hooks.sites, costs, batches, state, limits)
    lowered, discovery, flat = found.lowered, found.discovery, found.flat
    if spec.engine.threads is None and sum(node.meta.get("macs", 0) for node in lowered.graph.nodes) < LARGE_MACS:
        torch.set_num_threads(1)
    space = build_space(spec, discovery.sites, discovery.ties)
    active = [site for choice in space.choices for site in choice.sites]
    mode = spec.quantization.bias_correction
    stored = parameters(lowered, discovery, active, corrects=mode != "none")
    made = values(lowered, discovery, active)
    computed = Computed(
        operations(lowered, discovery, active, batches["validation"][0].n),
        stored,
        made,
        cached(lowered, discovery, active),
        structure(lowered, discovery),
        noted(discovery, found.times, set(active)),
    )

    program = compile_program(lowered, discovery, active)
    program.tensors = {name: layout(tensor, device) for name, tensor in program.tensors.items()}
    grids = SiteGrids(program, limit_bytes=cache_bytes // 4)
    interpreter = Interpreter(program, grids, cache_bytes)
    n = batches["validation"][0].n
    laid = {split: [[layout(x, device) for x in b] for b in found] for split, found in flat.items()}
    streams: dict[str, list[Stream]] = {
        split: [Stream((split, i), [b], batches[split][i].n / n) for i, b in enumerate(laid[split])] for split in SPLITS
    }
    share = sum(batch.n for batch in batches["calibration"]) / n
    calibration = Stream("calibration", laid["calibration"], share, calibrates=True)
    index = {site.name: i for i, site in enumerate(program.sites)}
    wanted = {index[site]: choice.options for choice in space.choices for site in choice.sites}
    grids.calibrate(interpreter, calibration, wanted)
    correction = None if mode == "none" else BiasCorrection(interpreter, calibration, mode)
    runner = GraphRunner(interpreter, correction, streams, found.rows)
    costs = graph_costs(spec, space, computed, grids.packed)
    make_trainer = partial(Trainer, spec, objective, model, batches, space, lambda name: costs.cost(name, space))
    return ModelProblem(
        objective, runner, space, discovery.sites, costs, batches, state, make_trainer=make_trainer, inputs=found.inputs
    )


def prepare_machine(spec: Spec) -> torch.device:
    """Threads, data root and device. Raises `BadInput` where a device is asked for that is not there."""
    if spec.data_root is not None:
        os.environ["MPSEARCH_DATA"] = spec.data_root
    keep_freed_memory()
    torch.set_num_threads(spec.engine.threads or _cores())
    device = torch.device(spec.engine.device)
    if device.type == "cuda" and (not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count()):
        raise BadInput(f"engine.device: {device} is not available here ({torch.cuda.device_count()} GPUs); use cpu.")
    if device.type == "cuda":  # the same assignment must give the same numbers, and float32 must be float32
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.backends.cudnn.allow_tf32 = False
    return device


def make_objective(spec: Spec) -> Objective:
    """The objective that `spec` names, constructed with its options."""
    beside = Path(spec.resolved.space_file).parent if spec.resolved and spec.resolved.space_file else Path.cwd()
    path, class_name = find_objective(spec.objective.use, beside)
    made = load_objective_class(path, class_name)
    objective = _guard("__init__", lambda: made(**spec.objective.options))
    if not isinstance(objective, Objective):
        raise BadInput(
            f"objective.use: {made.__name__} in {path} must derive from mpsearch.problem.objective.Objective."
        )
    return objective


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _load(model: nn.Module, weights: Path) -> None:
    try:
        model.load_state_dict(load_file(weights))
    except (OSError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:200]
        raise BadInput(f"{weights}: not the weights of this model ({reason}); restore the file.") from error


def _guard(what: str, call: Any) -> Any:
    """Call the user's code; what it raises becomes one message."""
    try:
        return call()
    except MpsearchError:
        raise
    except (Exception, SystemExit) as error:
        raise ObjectiveFailed(f"the objective's {what} raised {type(error).__name__}: {error}") from error


def batches_of(objective: Objective, split: Split) -> list[Batch]:
    """The batches of a split. Raises `ObjectiveFailed` where the objective gives none, or something else."""
    found = _guard(f"batches({split!r})", lambda: list(objective.batches(split)))
    if not found:
        raise ObjectiveFailed(f"the objective's batches({split!r}) gave no Batch; each split needs at least one.")
    for batch in found:
        if not isinstance(batch, Batch):
            kind = type(batch).__name__
            raise ObjectiveFailed(f"the objective's batches({split!r}) gave a {kind}; each must be a Batch.")
        if batch.n < 1:
            raise ObjectiveFailed(f"the objective's batches({split!r}) gave a Batch of n={batch.n}; at least 1.")
    return found
