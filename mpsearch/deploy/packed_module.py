"""A packed model as a module of torch: its graph run step by step, without the code that it once was exported from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx.node import map_aggregate

from mpsearch.core.errors import BadInput
from mpsearch.core.format import Format
from mpsearch.core.site import Role
from mpsearch.deploy import output_tree
from mpsearch.deploy.packed_file import Sizes
from mpsearch.graph.export import Example
from mpsearch.graph.frozen import by_name, read_argument
from mpsearch.graph.program import Ref
from mpsearch.graph.runner import layout
from mpsearch.graph.structure import EdgeEnd
from mpsearch.problem.inputs import Inputs
from mpsearch.quant.grid import Grid
from mpsearch.quant.plain import rebuilt

_Step = Callable[[dict[int, Any], list[Any]], Any]


class PackedModule(nn.Module):
    """A quantized model that was read from a packed file.

    It takes the inputs that the model took, on its own device, and gives what the model gave, without gradients. Where
    bins split a graph that is a part of another, degrees are given too: `degrees=...`. It moves between devices; types
    of its tensors stay.

    Args:
        path: of the file, for messages.
        manifest: what it says of itself.
        stored: tensors as they are stored.
        sizes: of the file.

    Raises:
        BadInput: the manifest is not one that this version writes.
    """

    manifest: Mapping[str, Any]
    """Assignment, formats, where it comes from, what the run measured."""
    sizes: Sizes
    """What the file takes: tensors, which are its `memory_bytes`, and the header."""

    def __init__(self, path: Path, manifest: Mapping[str, Any], stored: Mapping[str, Tensor], sizes: Sizes) -> None:
        super().__init__()
        self.manifest, self.sizes = manifest, sizes
        try:
            self._grids, self._tensors = _unpacked(manifest["sites"], stored, manifest["graph"]["orders"])
            self._inputs = _inputs(manifest["graph"]["inputs"])
            self._steps, self._last = self._resolved(torch.device("cpu"))
            output_tree.restored(manifest["graph"]["output"], range(len(manifest["graph"]["steps"][-1]["output"])))
        except Exception as error:  # whatever does not fit, none of it is the caller's own
            raise BadInput(
                f"{path}: its manifest is whole, and still not one that this version of mpsearch reads ({error}); "
                "export it again."
            ) from error
        self.eval()

    @property
    def takes_degrees(self) -> bool:
        """Whether it is given the degrees of nodes besides the inputs of the model."""
        return self._inputs.takes_degrees

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        """Parameters and buffers by name, as the graph reads them: unpacked."""
        return self._tensors

    @torch.no_grad()
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        degrees = kwargs.pop("degrees", None) if self.takes_degrees else None
        flat, rows = self._inputs.of(Example(args, kwargs, degrees))
        device = next((leaf.device for leaf in flat if isinstance(leaf, Tensor)), torch.device("cpu"))
        leaves = [layout(leaf, device) for leaf in flat]
        values: dict[int, Any] = {}
        for index, step in enumerate(self._steps):
            values[index] = step(values, leaves)
            for gone in self._last.get(index, ()):
                del values[gone]
        found = [self._own(leaf, rows) for leaf in values[len(self._steps) - 1]]
        return output_tree.restored(self.manifest["graph"]["output"], found)

    def _own(self, leaf: Any, rows: int) -> Any:
        """Without the rows that a batch was padded with."""
        padded = rows and isinstance(leaf, Tensor) and leaf.ndim and len(leaf) == self._inputs.padded
        return leaf[:rows] if padded else leaf

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> PackedModule:
        super()._apply(fn, recurse)
        device = fn(torch.empty(0)).device
        self._tensors = {name: tensor.to(device) for name, tensor in self._tensors.items()}
        self._grids = {name: grid.to(device) for name, grid in self._grids.items()}
        self._steps, self._last = self._resolved(device)
        return self

    def _resolved(self, device: torch.device) -> tuple[list[_Step], dict[int, list[int]]]:
        """The steps as functions of (values so far, inputs), and after which step which values are read no more."""
        written = self.manifest["graph"]["steps"]
        steps: list[_Step] = []
        last: dict[int, int] = {}
        for index, told in enumerate(written):

            def earlier(step: int, index: int = index) -> Ref:
                if not 0 <= step < index:
                    raise ValueError(f"step {index} reads step {step}")
                last[step] = index
                return Ref(step)

            steps.append(self._step(told, earlier, device))
        if "output" not in written[-1]:
            raise ValueError("there is no output")
        gone: dict[int, list[int]] = {}
        for step, reader in last.items():
            gone.setdefault(reader, []).append(step)
        return steps, gone

    def _step(self, told: Mapping[str, Any], earlier: Callable[[int], Ref], device: torch.device) -> _Step:
        tensors = self._tensors

        def argument(value: Any) -> Any:
            return read_argument(value, earlier, tensors.__getitem__, device)

        match told:
            case {"input": int(place)}:
                return lambda values, inputs: inputs[place]
            case {"tensor": str(name)}:
                tensor = tensors[name]
                return lambda values, inputs: tensor
            case {"site": str(name), "of": int(source), "relu": bool(relu)}:
                return _at_site(self._grids.get(name), earlier(source).step, relu)
            case {"call": str(name), "args": list(args), "kwargs": dict(kwargs)}:
                call = by_name(name)
                given, named = argument(args), {key: argument(value) for key, value in kwargs.items()}
                return lambda values, inputs: call(*_filled(given, values), **_filled(named, values))
            case {"output": list(outputs)}:
                found = argument(outputs)
                return lambda values, inputs: _filled(found, values)
        raise ValueError(f"{told!r:.60} is no step")


def _at_site(grid: Grid | None, source: int, relu: bool) -> _Step:
    def quantized(values: dict[int, Any], inputs: list[Any]) -> Tensor:
        value = torch.relu(values[source]) if relu else values[source]
        return value if grid is None else grid.round_trip(value)

    return quantized


def _filled(arguments: Any, values: Mapping[int, Any]) -> Any:
    return map_aggregate(arguments, lambda a: values[a.step] if isinstance(a, Ref) else a)


def _unpacked(
    sites: Mapping[str, Any], stored: Mapping[str, Tensor], orders: Mapping[str, list[int]]
) -> tuple[dict[str, Grid], dict[str, Tensor]]:
    """Grids of values by site, and all tensors that the graph reads by name."""
    grids, tensors = {}, dict(stored)
    for name, told in sites.items():
        fmt, shape = Format.parse(told["format"]), tuple(told["shape"])
        static, codes = ({part: tensors.pop(f"{name}/{part}") for part in told[kind]} for kind in ("static", "codes"))
        grid = rebuilt(told["grid"], fmt, static, shape)
        if Role(told["role"]).is_parameter:
            tensors[name] = grid.unpack(static | codes, shape)
        else:
            grids[name] = grid
    for name, order in orders.items():
        tensors[name] = torch.empty_permuted(tensors[name].shape, order, dtype=tensors[name].dtype).copy_(tensors[name])
    return grids, {name: layout(tensor, torch.device("cpu")) for name, tensor in tensors.items()}


def _inputs(told: Mapping[str, Any]) -> Inputs:
    ends = tuple(EdgeEnd(e["edges"], e["row"], e["fixed"], (e["given"][0], e["given"][1])) for e in told["ends"])
    return Inputs(**{**told, "ends": ends, "batched": tuple(told["batched"]), "keywords": tuple(told["keywords"])})
