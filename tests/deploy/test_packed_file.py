"""A packed file that is not to the last bit what was written is refused, and one that is forged does no harm."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor
from torch.utils import _pytree as pytree

from mpsearch.core.errors import BadInput
from mpsearch.core.format import Format
from mpsearch.core.site import Role, Site
from mpsearch.deploy import packed_file
from mpsearch.deploy.packed import load_packed, write_packed
from mpsearch.graph.frozen import Frozen
from mpsearch.problem.frozen import FrozenModel
from mpsearch.problem.inputs import Inputs
from mpsearch.quant.floating import Float
from mpsearch.quant.integer import Integer

X = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))
STEPS = [
    {"input": 0},
    {"site": "layer:in", "of": 0, "relu": True},
    {"tensor": "layer.weight"},
    {"call": "aten.linear.default", "args": [{"step": 1}, {"step": 2}, {"tensor": "layer.bias"}], "kwargs": {}},
    {"output": [{"step": 3}]},
]


def model(seed: int) -> FrozenModel:
    """A linear layer with a weight in fp4 and an input in int4, without exporting anything."""
    draw = torch.Generator().manual_seed(seed)
    weight = torch.randn(4, 6, generator=draw)
    weights, values = Format("fp", 4), Format("int", 4)
    sites = {
        "layer.weight": (Site("layer.weight", Role.WEIGHT, (4, 6)), weights),
        "layer:in": (Site("layer:in", Role.ACTIVATION, (5, 6), 1), values),
    }
    grids = {
        "layer.weight": Float().fit(weight, weights, Role.WEIGHT, 0),
        "layer:in": Integer().fit(X.relu(), values, Role.ACTIVATION, 1),
    }
    tensors = {"layer.weight": weight, "layer.bias": torch.randn(4, generator=draw)}
    frozen = Frozen(copy.deepcopy(STEPS), sites, tensors, grids)
    return FrozenModel(frozen, Inputs(None, (), ()), pytree.tree_structure(0), threads=1)


def write(folder: Path, seed: int = 0) -> Path:
    sizes = write_packed(folder, model(seed), {"member": {"key": "abc"}})
    assert sizes.tensor_bytes == 12 + 16 + 4 + 1 + 16  # codes, scales, a scale, a zero point, the bias
    return folder / packed_file.FILE


def test_it_gives_what_its_grids_give(tmp_path: Path) -> None:
    made, module = model(0), load_packed(write(tmp_path))
    weight, values = made.frozen.grids["layer.weight"], made.frozen.grids["layer:in"]
    quantized = weight.round_trip(made.frozen.tensors["layer.weight"])
    want = torch.nn.functional.linear(values.round_trip(X.relu()), quantized, made.frozen.tensors["layer.bias"])
    assert torch.equal(module(X), want)
    assert torch.equal(module.double().to("cpu")(X), want), "types stay"
    assert module.manifest["member"]["key"] == "abc"


def corrupted(one: bytes, other: bytes) -> Iterator[bytes]:
    """200 ways to spoil a file: flipped bits anywhere, cuts, more at the end, the header of another file."""
    draw, header = random.Random(0), 8 + int.from_bytes(one[:8], "little")
    for place in (*range(64), *(draw.randrange(8 * len(one)) for _ in range(70)), *range(8 * header, 8 * header + 24)):
        spoilt = bytearray(one)
        spoilt[place // 8] ^= 1 << place % 8
        yield bytes(spoilt)
    for length in (*range(10), *(draw.randrange(len(one)) for _ in range(28))):
        yield one[:length]
    yield one + b"\0"
    of_other = 8 + int.from_bytes(other[:8], "little")
    yield other[:of_other] + one[header:]
    yield one[:header] + other[of_other:]
    yield b"not a file of tensors at all"


def test_what_is_corrupted_is_refused(tmp_path: Path) -> None:
    one, other = (write(tmp_path / str(seed), seed).read_bytes() for seed in (0, 1))
    spoilt = list(corrupted(one, other))
    assert len(spoilt) == 200
    path = tmp_path / packed_file.FILE
    for number, data in enumerate(spoilt):
        assert data not in (one, other)
        path.write_bytes(data)
        with pytest.raises(BadInput, match=r"packed\.safetensors: .*(export it again|mpsearch that wrote it)") as told:
            load_packed(tmp_path)
        assert str(path) in str(told.value), number


def test_other_files_and_versions_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="there is no packed file; make one: mpsearch export"):
        load_packed(tmp_path)
    path = write(tmp_path)
    with pytest.raises(BadInput, match="exists and is kept"):
        write(tmp_path)
    save_file({"x": torch.zeros(2)}, path, {"mpsearch.packed/2": "{}"})
    with pytest.raises(BadInput, match=r"of version mpsearch\.packed/2, and this is mpsearch\.packed/1; load it with"):
        load_packed(path)
    save_file({"x": torch.zeros(2)}, path, {"format": "pt"})
    with pytest.raises(BadInput, match="it has no manifest"):
        load_packed(path)


def places(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where a part of a JSON tree can be replaced."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, inner in items:
        yield (*path, key)
        yield from places(inner, (*path, key))


def forge(folder: Path, path: tuple[Any, ...], value: Any, tensors: dict[str, Tensor], manifest: Any) -> None:
    """A file that is whole, its digests right, with another value at a place of its manifest."""
    whole = copy.deepcopy(manifest)
    at = whole
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    (folder / packed_file.FILE).unlink(missing_ok=True)
    packed_file.write(folder, whole, tensors)


VALUES = [None, -1, 3, 2**50, 1e300, True, "layer.weight", "os.system", [], [0], {}, {"step": 9}]


@settings(max_examples=60)
@given(data=st.data())
def test_a_forged_file_is_refused_or_runs_and_nothing_else(tmp_path_factory: Any, data: st.DataObject) -> None:
    folder = tmp_path_factory.getbasetemp() / "forged"
    if not folder.exists():
        write(folder / "good")
    manifest, tensors, _ = packed_file.read(folder / "good")
    where = [path for path in places(manifest) if path[0] in ("graph", "sites")]
    forge(folder, data.draw(st.sampled_from(where)), data.draw(st.sampled_from(VALUES)), tensors, manifest)
    with suppress(BadInput):
        assert load_packed(folder).sizes.tensor_bytes == 49


def test_a_file_can_call_nothing_but_operators(tmp_path: Path) -> None:
    manifest, tensors, _ = packed_file.read(write(tmp_path))
    assert json.loads(json.dumps(manifest)) == manifest
    for name in ("os.system", "aten.relu_.default", "aten.from_file.default"):
        forge(tmp_path, ("graph", "steps", 3, "call"), name, tensors, manifest)
        with pytest.raises(BadInput, match=f"there is no operator '{name}'"):
            load_packed(tmp_path)
    forge(tmp_path, ("sites", "layer.weight", "grid", "kind", "exponent"), 60, tensors, manifest)
    with pytest.raises(BadInput, match="at most 16 bits"):
        load_packed(tmp_path)
