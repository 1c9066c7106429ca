"""The program of a model run so that its parameters can be trained, with any function at its sites.

What stands at a site is the caller's: fake quantization with straight-through gradients (`mpsearch.graph.straight`),
nothing at all, or a quantizer that learns its width. BatchNorm that was not folded keeps its statistics.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx.node import map_aggregate

from mpsearch.graph.dropout import dropout
from mpsearch.graph.gradients import DIFFERENTIABLE
from mpsearch.graph.ops import ATTENTION, RECURRENT, aten
from mpsearch.graph.program import Kind, Program, Ref, Step

AtSite = Callable[[int, Tensor], Tensor]
"""What becomes of a parameter or a value, by the index of its site; gradients flow through it."""
Look = Callable[[int, Tensor], None]
"""Is shown, by index of the site, the value that its grid is fitted on; of a state once per step."""

_TRAIN, _DROPOUT_P = 6, 4  # places of arguments: of a recurrent layer, of a fused attention


def as_it_is(site: int, value: Tensor) -> Tensor:
    """The float model: nothing at any site."""
    del site
    return value


class Trainable:
    """Runs `program` with parameters of its own, which start at those of the model.

    Args:
        program: of a graph that kept its dropout; stays as it is.
        trained: names of the tensors to train.
    """

    def __init__(self, program: Program, trained: Collection[str]) -> None:
        self.program = program
        self.parameters = {
            name: nn.Parameter(tensor.detach().clone())
            for name, tensor in program.tensors.items()
            if name in trained and tensor.is_floating_point()
        }
        steps = program.steps
        self._last_reader = {j: s.index for s in steps for j in (*s.inputs, *((s.sample,) if s.sample >= 0 else ()))}
        self._given: list[Any] = []
        self._constants: dict[int, Any] = {}
        self._constant = [False] * len(steps)
        for step in steps:
            self._constant[step.index] = self._follows_from_inputs(step)

    def _follows_from_inputs(self, step: Step) -> bool:
        if step.kind is Kind.TENSOR:
            return step.name not in self.parameters
        if step.kind is Kind.CALL:
            return not _drops(step) and all(self._constant[i] for i in step.inputs)
        return step.kind is Kind.INPUT

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Set parameters to `tensors`, by name."""
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(tensors[name])

    def tensors(self) -> dict[str, Tensor]:
        """Copies of the parameters, by name."""
        return {name: parameter.detach().clone() for name, parameter in self.parameters.items()}

    def run(
        self,
        inputs: Sequence[Any],
        at_site: AtSite,
        *,
        training: bool = False,
        original: bool = False,
        look: Look | None = None,
    ) -> list[Any]:
        """Flat outputs for flat `inputs`.

        What follows from the inputs alone is kept as long as the same tensors are given again.

        Args:
            training: whether dropout acts.
            original: use the tensors of the program, as they were before any training.
            look: is shown what each site would be fitted on.
        """
        if len(self._given) != len(inputs) or any(a is not b for a, b in zip(self._given, inputs, strict=True)):
            self._given, self._constants = list(inputs), {}
        tensors: Mapping[str, Tensor] = {} if original else self.parameters
        values: dict[int, Any] = {}
        given = iter(inputs)
        for step in self.program.steps:
            i = step.index
            if step.kind is Kind.INPUT:
                value = next(given)
            elif step.kind is Kind.TENSOR:
                value = tensors.get(step.name, self.program.tensors[step.name])
            elif step.kind is Kind.PARAMETER:
                assert step.site is not None
                value = at_site(step.site, tensors.get(step.name, self.program.tensors[step.name]))
            elif step.kind is Kind.VALUE:
                assert step.site is not None
                value = values[step.inputs[0]]
                sample = values[step.sample] if look is not None else value
                if step.after_relu:
                    value, sample = torch.relu(value), torch.relu(sample) if sample is not value else sample
                if look is not None:
                    look(step.site, value if step.sample == step.inputs[0] else sample)
                value = at_site(step.site, value)
            elif step.kind is Kind.OUTPUT:
                return list(_filled(step.arguments, values))
            elif self._constant[i]:
                if i not in self._constants:
                    self._constants[i] = _call(step, values, False)
                value = self._constants[i]
            else:
                value = _call(step, values, training)
            values[i] = value
            for j in step.inputs:
                if self._last_reader[j] == i:
                    del values[j]
        raise AssertionError("a program without output")


def called(step: Step) -> Callable[..., Any]:
    """What runs where a step calls an operator: a form of it that gradients flow through."""
    assert step.call is not None
    return TRAINABLE.get(step.call, step.call)


def _drops(step: Step) -> bool:
    return step.call is dropout or (step.node is not None and bool(step.node.meta.get("dropout")))


def _filled(arguments: Any, values: Mapping[int, Any]) -> Any:
    return map_aggregate(arguments, lambda a: values[a.step] if isinstance(a, Ref) else a)


def _call(step: Step, values: Mapping[int, Any], training: bool) -> Any:
    call = called(step)
    arguments, keywords = list(_filled(step.arguments, values)), dict(_filled(step.keywords, values))
    if training:
        if step.call is dropout:
            keywords["training"] = True
        elif step.call in RECURRENT:
            arguments[_TRAIN] = True
        elif step.call in ATTENTION and _drops(step):
            assert step.node is not None
            given = {"dropout_p": step.node.meta["dropout"]}
            if len(arguments) > _DROPOUT_P:
                arguments[_DROPOUT_P] = given["dropout_p"]
            else:
                keywords |= given
    return call(*arguments, **keywords)


def _frozen_batch_norm(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Tensor, variance: Tensor, momentum: float, eps: float
) -> tuple[Tensor]:
    return (F.batch_norm(x, mean, variance, weight, bias, False, momentum, eps),)


TRAINABLE: dict[Any, Callable[..., Any]] = {
    **cast("dict[Any, Callable[..., Any]]", DIFFERENTIABLE),
    aten._native_batch_norm_legit_no_training.default: _frozen_batch_norm,
}
