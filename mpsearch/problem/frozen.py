"""A model at one assignment, with all that it takes to run it elsewhere: what is packed into a file."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.utils import _pytree as pytree

from mpsearch.core.assignment import Assignment
from mpsearch.core.errors import BadInput
from mpsearch.core.format import FP32
from mpsearch.graph.frozen import Frozen, freeze
from mpsearch.graph.runner import GraphRunner
from mpsearch.graph.training import called
from mpsearch.problem.finetune import restored
from mpsearch.problem.inputs import Inputs
from mpsearch.problem.model import ModelProblem
from mpsearch.problem.trained import Trained


@dataclass(frozen=True)
class FrozenModel:
    """A model at one assignment.

    Args:
        frozen: the program.
        inputs: makes inputs ready for it.
        out_spec: how the model's own output is made of the flat one.
        threads: of torch, with which outputs are equal bit for bit.
    """

    frozen: Frozen
    inputs: Inputs
    out_spec: pytree.TreeSpec
    threads: int


def frozen(problem: ModelProblem, assignment: Assignment) -> FrozenModel:
    """The model as `problem` scores it at `assignment`. Raises `BadInput` where it runs by module hooks."""
    runner = _runner(problem)
    assert problem.inputs is not None
    program = runner.interpreter.program
    return FrozenModel(runner.frozen(assignment), problem.inputs, program.out_spec, problem.threads)


def frozen_trained(problem: ModelProblem, trained: Trained) -> FrozenModel:
    """The model as `problem` scores it after a finetuning.

    Where a correction would have given a layer a bias, training did without: it has one of zeros, which is what the
    memory of an assignment counts.
    """
    runner, trainer = _runner(problem), problem.trainer
    learner, program = restored(trainer, trained), trainer.program
    formats = [trained.assignment.at(site.name) for site in program.sites]
    zeros = {}
    for step in program.steps if runner.corrects else ():
        if step.corrected is None or formats[step.corrected] == FP32:
            continue
        if len(step.arguments) < 3 or step.arguments[2] is None:
            assert step.node is not None
            zeros[step.index] = torch.zeros(step.node.meta["shape"][step.channel_axis])
    tensors = trainer.trainable.tensors()
    with torch.no_grad():
        for site, noun in enumerate(program.sites):
            if noun.role.is_parameter and formats[site] != FP32:
                weights = trainer.trainable.parameters.get(noun.name, program.tensors[noun.name])
                tensors[noun.name] = learner(site, weights).detach()
    found = freeze(program, formats, lambda site, _: learner.grid(site), tensors, zeros, called)
    for name in found.sites:
        grid, quantized = found.grids.get(name), found.tensors.get(name)
        if grid is None or (quantized is not None and not torch.equal(grid.round_trip(quantized), quantized)):
            raise BadInput(
                f"learner {trained.recipe.method} has no grid that stores {name} as it is: it cannot be packed."
            )
    return FrozenModel(found, trainer.inputs, program.out_spec, problem.threads)


def _runner(problem: ModelProblem) -> GraphRunner:
    if not isinstance(problem.runner, GraphRunner):
        raise BadInput(f"the model cannot be packed, for it runs by module hooks. {problem.limits[0]}")
    return problem.runner
