"""An assignment as the configuration of a tool that quantizes models by itself, where that tool can express it.

Formats are handed over, not numbers: the tool finds scales by rules of its own, so that what comes out is near the
member of the front and not equal to it.

* torchao: the mapping that `torchao.core.config.config_from_dict` reads, an `FqnToConfig`. It knows integers of 2 to 8
  bits for weights of linear layers and tables, a scale per row or per group, and inputs of 8 bits with a range per row.
* modelopt (NVIDIA Model Optimizer): a mapping for `modelopt.torch.quantization.quantize`. It knows symmetric integers,
  `fp8` and `fp4` with a scale per tensor or channel, groups, and the block formats `mx` and `nvfp`, of weights and of
  what enters or leaves a layer.

Written against torchao 0.18 and modelopt 0.47; neither is needed here, nor is it run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from mpsearch.core.errors import BadInput
from mpsearch.core.format import Format
from mpsearch.core.site import Role
from mpsearch.quant.grain import Grain

_FLOATS = {"e4m3": [4, 3], "e5m2": [5, 2], "e2m3": [2, 3], "e3m2": [3, 2], "e2m1": [2, 1]}
_DEFAULT_FLOATS = {8: "e4m3", 6: "e2m3", 4: "e2m1"}
_END = ".weight"
_SIDES = {":in": "input_quantizer", ":out": "output_quantizer"}


@dataclass(frozen=True)
class Told:
    """What is known of a site that is not float."""

    fmt: Format
    role: Role
    shape: tuple[int, ...]

    @property
    def grain(self) -> Grain:
        """How scales run."""
        words = [word for word in self.fmt.options if word in ("tensor", "channel") or word[1:].isdigit()]
        groups = [word for word in words if word in ("tensor", "channel") or word.startswith("g")]
        return Grain.named(groups[0] if groups else "channel" if self.role.is_parameter else "tensor", 0)

    @property
    def is_affine(self) -> bool:
        """Whether integers have a zero point."""
        return "affine" in self.fmt.options or not (self.role.is_parameter or "sym" in self.fmt.options)


Sites = Mapping[str, Told]


class _Cannot(Exception):
    """Why a site cannot be expressed."""


def torchao(sites: Sites) -> dict[str, Any]:
    """The configuration of torchao. Raises `BadInput` with every site that it cannot express."""
    found: dict[str, Any] = {}

    def express(name: str, told: Told) -> None:
        if not told.role.is_parameter:
            layer = f"{name.removesuffix(':in')}{_END}"
            if told.fmt != Format("rowrange", 8) or not name.endswith(":in"):
                raise _Cannot("of values it knows rowrange8 of what enters a linear layer, and ranges of its own")
            if layer not in sites:
                raise _Cannot(f"it needs an integer format of {layer} beside it")
            return
        if told.fmt.scheme != "int" or not 2 <= told.fmt.bits <= 8 or "stochastic" in told.fmt.options:
            raise _Cannot("of weights it knows int2 to int8")
        if len(told.shape) != 2 or not name.endswith(_END):
            raise _Cannot("it knows weights of linear layers and tables")
        if told.grain.axis is None or (told.grain.group and told.shape[1] % told.grain.group):
            raise _Cannot("it knows one scale per row, or per group that divides it")
        grain = {"group_size": told.grain.group} if told.grain.group else {"axis": 0}
        kind = _ao("PerGroup" if told.grain.group else "PerAxis", grain)
        mapping = {"_type": "MappingType", "_data": "ASYMMETRIC" if told.is_affine else "SYMMETRIC"}
        dtype = {"_type": "torch.dtype", "_data": f"int{told.fmt.bits:g}"}
        layer = name.removesuffix(_END)
        if f"{layer}:in" in sites:
            weight = {"weight_dtype": dtype, "weight_granularity": kind, "weight_mapping_type": mapping}
            found[layer] = _ao("Int8DynamicActivationIntxWeightConfig", weight, 2)
        else:
            weight = {"weight_dtype": dtype, "granularity": kind, "mapping_type": mapping}
            found[layer] = _ao("IntxWeightOnlyConfig", weight, 2)

    _each("torchao", sites, express)
    return _ao("FqnToConfig", {"fqn_to_config": found})


def _ao(kind: str, data: Mapping[str, Any], version: int = 1) -> dict[str, Any]:
    return {"_type": kind, "_version": version, "_data": dict(data)}


def modelopt(sites: Sites) -> dict[str, Any]:
    """The configuration of modelopt. Raises `BadInput` with every site that it cannot express."""
    found: list[dict[str, Any]] = [{"quantizer_name": "*", "enable": False}]

    def express(name: str, told: Told) -> None:
        side = next((side for side in _SIDES if name.endswith(side)), "")
        if told.role.is_parameter and name.endswith(_END):
            quantizer = f"{name.removesuffix(_END)}.weight_quantizer"
        elif side and not told.role.is_parameter:
            quantizer = f"{name.removesuffix(side)}.{_SIDES[side]}"
        else:
            raise _Cannot("it quantizes `weight`, what enters a layer and what leaves it")
        found.append({"quantizer_name": quantizer, "cfg": _attributes(told), "enable": True})

    _each("modelopt", sites, express)
    return {"quant_cfg": found, "algorithm": "max"}


def _attributes(told: Told) -> dict[str, Any]:
    fmt = told.fmt
    word = next((word for word in fmt.options if word in _FLOATS), _DEFAULT_FLOATS.get(int(fmt.bits), ""))
    if fmt.scheme in ("mx", "nvfp") and "int" not in fmt.options:
        size, scale = (32, [8, 0]) if fmt.scheme == "mx" else (16, [4, 3])
        return {"num_bits": _FLOATS[word], "block_sizes": {-1: size, "type": "dynamic", "scale_bits": scale}}
    if fmt.scheme == "fp" and word in ("e4m3", "e2m1"):
        bits: Any = _FLOATS[word]
    elif fmt.scheme == "int" and 2 <= fmt.bits <= 8 and not told.is_affine and "stochastic" not in fmt.options:
        bits = int(fmt.bits)
    else:
        raise _Cannot("it knows symmetric int2 to int8, fp8, fp4, mx and nvfp")
    if told.grain.group:
        if len(told.shape) != 2:
            raise _Cannot("it knows groups along the last axis: those of linear layers")
        return {"num_bits": bits, "block_sizes": {-1: told.grain.group}}
    if told.grain.axis is not None and not told.role.is_parameter:
        raise _Cannot("it knows one scale for a value")
    return {"num_bits": bits, "axis": told.grain.axis}


def _each(tool: str, sites: Sites, express: Callable[[str, Told], None]) -> None:
    faults = []
    for name, told in sites.items():
        try:
            express(name, told)
        except _Cannot as why:
            faults.append(f"{name} in {told.fmt}: {why}.")
    if faults:
        head = f"{tool} cannot express {len(faults)} of {len(sites)} sites; export --format packed, or search without:"
        raise BadInput(head, *faults)
