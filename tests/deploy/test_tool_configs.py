"""Assignments as configurations of torchao and modelopt: what these can express, and every site that they cannot."""

from __future__ import annotations

import pytest
import yaml

from mpsearch.core.errors import BadInput
from mpsearch.core.format import Format
from mpsearch.core.site import Role
from mpsearch.deploy.tool_configs import Told, modelopt, torchao


def sites(**formats: str) -> dict[str, Told]:
    """`a_weight="int4"` is the format of `a.weight`, [8, 64]; `a_in` that of `a:in`."""
    found = {}
    for name, text in formats.items():
        layer, _, part = name.partition("_")
        role = Role.WEIGHT if part == "weight" else Role.ACTIVATION
        found[f"{layer}.weight" if part == "weight" else f"{layer}:{part}"] = Told(Format.parse(text), role, (8, 64))
    return found


def test_torchao_gets_integers_of_rows_and_groups() -> None:
    made = torchao(sites(a_weight="int4", b_weight="int3:affine:g32", b_in="rowrange8"))
    assert (made["_type"], made["_version"]) == ("FqnToConfig", 1)
    layers = made["_data"]["fqn_to_config"]
    a, b = layers["a"]["_data"], layers["b"]["_data"]
    assert layers["a"]["_type"] == "IntxWeightOnlyConfig"
    assert a["weight_dtype"] == {"_type": "torch.dtype", "_data": "int4"}
    assert a["granularity"] == {"_type": "PerAxis", "_version": 1, "_data": {"axis": 0}}
    assert a["mapping_type"]["_data"] == "SYMMETRIC"
    assert layers["b"]["_type"] == "Int8DynamicActivationIntxWeightConfig"
    assert b["weight_granularity"]["_data"] == {"group_size": 32}
    assert b["weight_mapping_type"]["_data"] == "ASYMMETRIC"


def test_modelopt_gets_quantizers_by_name() -> None:
    given = sites(a_weight="int4:sym:g32", a_in="int8:sym", b_weight="fp8", c_weight="nvfp4", c_out="mx6:e3m2")
    made = modelopt(given)
    assert yaml.safe_load(yaml.safe_dump(made)) == made
    first, *rest = made["quant_cfg"]
    assert first == {"quantizer_name": "*", "enable": False}
    assert {entry["quantizer_name"]: entry["cfg"] for entry in rest} == {
        "a.weight_quantizer": {"num_bits": 4, "block_sizes": {-1: 32}},
        "a.input_quantizer": {"num_bits": 8, "axis": None},
        "b.weight_quantizer": {"num_bits": [4, 3], "axis": 0},
        "c.weight_quantizer": {"num_bits": [2, 1], "block_sizes": {-1: 16, "type": "dynamic", "scale_bits": [4, 3]}},
        "c.output_quantizer": {"num_bits": [3, 2], "block_sizes": {-1: 32, "type": "dynamic", "scale_bits": [8, 0]}},
    }


@pytest.mark.parametrize(
    ("tool", "faulty"),
    [
        (torchao, {"a_weight": "int4:tensor", "b_weight": "int16", "c_weight": "int4:g48", "d_in": "rowrange8"}),
        (torchao, {"a_weight": "esb4", "b_in": "int8", "c_out": "rowrange8", "d_weight": "int1"}),
        (modelopt, {"a_weight": "int4:affine", "b_in": "int8", "c_scores": "int8:sym", "d_weight": "pq2"}),
        (
            modelopt,
            {"a_weight": "int4:stochastic", "b_in": "int8:sym:channel", "c_weight": "int1", "d_weight": "mx8:int"},
        ),
    ],
)
def test_every_site_that_cannot_be_expressed_is_told(tool, faulty: dict[str, str]) -> None:
    given = {**sites(**faulty), **sites(z_weight="int8")}
    with pytest.raises(BadInput, match="cannot express 4 of 5 sites") as told:
        tool(given)
    assert len(told.value.errors) == 5
    for name, line in zip(given, told.value.errors[1:], strict=False):
        assert line.startswith(f"{name} in ")
