"""A model at one assignment as a packed file: every stored tensor as the memory measure counts it, and the graph.

Codes are packed to bits; scales, zero points and codebooks lie beside them; parameters and buffers that stay float are
as they are, tied ones once, biases corrected; of values the static part of their grids is stored. The graph is in the
manifest, as a list of operators by name, so that the file runs without the code of the model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mpsearch import __version__
from mpsearch.deploy import output_tree, packed_file
from mpsearch.deploy.packed_file import Sizes
from mpsearch.deploy.packed_module import PackedModule
from mpsearch.problem.frozen import FrozenModel
from mpsearch.quant.plain import described


def write_packed(folder: Path, model: FrozenModel, facts: Mapping[str, Any]) -> Sizes:
    """Write `model` to the packed file of `folder`.

    Args:
        facts: of where it comes from, ready for JSON.

    Raises:
        BadInput: the folder has such a file; the model cannot be written down.
        OutOfResources: the folder cannot be written.
    """
    tensors, sites = _packed(model)
    graph = {
        "inputs": asdict(model.inputs),
        "steps": model.frozen.steps,
        "output": output_tree.written(model.out_spec),
        "orders": {name: order for name, tensor in model.frozen.tensors.items() if (order := _order(tensor))},
    }
    versions = {"mpsearch": __version__, "torch": str(torch.__version__)}
    manifest = {
        **facts,
        "sites": sites,
        "graph": graph,
        "threads": model.threads,
        "versions": versions,
    }
    return packed_file.write(folder, manifest, tensors)


def _packed(model: FrozenModel) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Stored tensors by name, and what is told of sites: format, role, shape, grid and the names of its tensors."""
    frozen, tensors, sites = model.frozen, {}, {}
    for name, tensor in frozen.tensors.items():
        if name not in frozen.sites:
            tensors[name] = tensor
    for name, (site, fmt) in frozen.sites.items():
        grid = frozen.grids[name]
        static = grid.static()
        stored = grid.pack(frozen.tensors[name]) if site.role.is_parameter else static
        tensors |= {f"{name}/{part}": tensor for part, tensor in stored.items()}
        sites[name] = {
            "format": str(fmt),
            "role": str(site.role),
            "shape": list(site.shape),
            "grid": described(grid),
            "static": list(static),
            "codes": [part for part in stored if part not in static],
        }
    return {name: _own(tensor) for name, tensor in tensors.items()}, sites


def _own(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().clone(memory_format=torch.contiguous_format)


def _order(tensor: Tensor) -> list[int] | None:
    """Axes in the order they lie in memory, where that is not their own: kernels add up in another order then."""
    order = sorted(range(tensor.ndim), key=lambda axis: tensor.stride()[axis], reverse=True)
    return None if tensor.is_contiguous() or tensor.ndim == 4 else order


def load_packed(path: str | Path) -> PackedModule:
    """The model in a packed file, or in a folder that has one, ready to run on the CPU.

    Its outputs are those that the run scored, bit for bit on the same kind of machine: with the same batches, and as
    many threads of torch as the run had (`manifest["threads"]`). No code of the model is needed, and none is run.

    Raises `BadInput` where there is no such file, or it is not to the last bit as it was written.
    """
    manifest, tensors, sizes = packed_file.read(Path(path))
    return PackedModule(Path(path), manifest, tensors, sizes)
