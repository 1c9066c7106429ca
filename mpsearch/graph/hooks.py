"""The fallback for models that cannot be exported: weights swapped and layer inputs quantized by module hooks.

What remains of the exported graph's features: weights of conv, linear, embedding and recurrent modules, and the inputs
of these modules. What is lost is said in `LIMITS`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils import _pytree as pytree

from mpsearch.core.assignment import Assignment
from mpsearch.core.format import Format
from mpsearch.core.site import Role, Site
from mpsearch.cost.memory import Packed, Parameter, Value
from mpsearch.graph.export import Example
from mpsearch.graph.grids import packed_size
from mpsearch.graph.joined import joined
from mpsearch.graph.runner import Runner, on_cpu
from mpsearch.graph.workload import value_rows
from mpsearch.quant.bank import Bank

LIMITS = (
    "sites are the weights and the inputs of modules: no residual, attention or message sites",
    "BatchNorm is not folded and biases are not corrected",
    "every evaluation runs the whole model: nothing is reused",
    "memory that a value takes is known for module inputs only: no activation_peak_bytes, no feature_bytes",
)

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_LAYERS = (*_CONVOLUTIONS, *_TRANSPOSED, nn.Linear, nn.Embedding, nn.LSTM, nn.GRU)


def _gates(module: nn.Module, parameter: Tensor) -> int:
    """Gates along the rows of a matrix of a recurrent module; 1 for its projection, 0 for other modules."""
    if not isinstance(module, nn.RNNBase):
        return 0
    return len(parameter) // module.hidden_size if len(parameter) % module.hidden_size == 0 else 1


class HookRunner(Runner):
    """Runs the model itself, its weights swapped and its layer inputs quantized on the way in.

    Args:
        model: in eval mode, on its device.
        calibration: batches whose layer inputs the grids are fitted on.
        batches: by split.
        limit_bytes: how much quantized parameters may hold.
    """

    def __init__(
        self,
        model: nn.Module,
        calibration: Sequence[Example],
        batches: Mapping[str, Sequence[Example]],
        limit_bytes: int,
    ) -> None:
        self._model = model
        self._batches = batches
        self._calibration = calibration
        self._parameters = dict(model.named_parameters())
        self._modules = {f"{n}:in" if n else "in": m for n, m in model.named_modules() if isinstance(m, _LAYERS)}
        self._shapes = {n: shapes[0] for n, shapes in self._shapes_seen(batches["validation"][0]).items()}
        self.sites = tuple(self._discover())
        self._site = {site.name: site for site in self.sites}
        self._bank = Bank(self._sample, limit_bytes)
        self._runs = 0

    @property
    def forwards(self) -> float:
        return self._runs / len(self._batches["validation"])

    def run(self, assignment: Assignment, split: str, batch: int) -> Any:
        self._runs += 1
        names = [name for name in assignment if self._site[name].role.is_parameter]
        weights = {name: self._bank.get(self._site[name], assignment[name])[0] for name in names}
        grids = {n: self._bank.grid(self._site[n], assignment[n]) for n in assignment if n in self._modules}
        with self._watching({n: grid.round_trip for n, grid in grids.items()}):
            return pytree.tree_map(on_cpu, self._call(self._batches[split][batch], weights))

    def packed(self, name: str, fmt: Format) -> Packed:
        """What site `name` takes in `fmt`, as its grid says."""
        return packed_size(self._bank.grid(self._site[name], fmt), self._site[name].shape)

    def parameters(self) -> tuple[Parameter, ...]:
        """Every parameter and buffer; tied ones once."""
        found = []
        for name, tensor in [*self._parameters.items(), *self._model.named_buffers()]:
            site = self._site.get(name)
            counts = site is not None and site.role is Role.WEIGHT
            rows = 1 if site is None else tensor.shape[site.axis]
            own = None if site is None else name
            found.append(Parameter(name, tensor.numel(), rows, tensor.element_size() * 8, own, counts=counts))
        return tuple(found)

    def values(self) -> tuple[Value, ...]:
        """The inputs of the layers, each on its own."""
        shapes = enumerate(self._shapes.items())
        return tuple(
            Value(name, math.prod(shape), value_rows(self._site[name]), site=name, born=i, dies=i)
            for i, (name, shape) in shapes
        )

    @torch.no_grad()
    def _call(self, example: Example, weights: Mapping[str, Tensor]) -> Any:
        return functional_call(self._model, dict(weights), example.args, dict(example.kwargs))

    @contextmanager
    def _watching(self, changes: Mapping[str, Any]) -> Iterator[None]:
        """Pass the first input of each named layer through its function while the model runs."""

        def hook(change: Any) -> Any:
            return lambda module, args: (change(args[0]), *args[1:])

        handles = [self._modules[name].register_forward_pre_hook(hook(f)) for name, f in changes.items()]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _shapes_seen(self, example: Example) -> dict[str, list[tuple[int, ...]]]:
        seen: dict[str, list[tuple[int, ...]]] = {}

        def look(name: str) -> Any:
            def note(x: Tensor) -> Tensor:
                if x.is_floating_point():
                    seen.setdefault(name, []).append(tuple(x.shape))
                return x

            return note

        with self._watching({name: look(name) for name in self._modules}):
            self._call(example, {})
        return seen

    def _discover(self) -> Iterator[Site]:
        owners = {id(p): name for name, p in self._parameters.items()}
        others = [module for module in self._modules.values() if not isinstance(module, nn.Embedding)]
        multiplied = {id(p) for module in others for p in module.parameters(recurse=False)}  # a tied table is a weight
        known: set[str] = set()
        for name, module in self._modules.items():
            if name in self._shapes:
                shape = self._shapes[name]
                yield Site(name, Role.ACTIVATION, shape, 1 if isinstance(module, _CONVOLUTIONS) else len(shape) - 1)
            for parameter in module.parameters(recurse=False):
                owner = owners[id(parameter)]
                if parameter.ndim >= 2 and owner not in known:
                    known.add(owner)
                    role = Role.WEIGHT if id(parameter) in multiplied else Role.EMBEDDING
                    axis = 1 if isinstance(module, _TRANSPOSED) else 0
                    yield Site(owner, role, tuple(parameter.shape), axis, gates=_gates(module, parameter))

    def _sample(self, name: str) -> Tensor:
        if name in self._parameters:
            return self._parameters[name].detach()
        found: list[Tensor] = []

        def keep(x: Tensor) -> Tensor:
            found.append(x)
            return x

        with self._watching({name: keep}):
            for example in self._calibration:
                self._call(example, {})
        return joined(found, self._site[name].axis)
