"""A member of a front as a file: packed and scored again, or as JSON; and every way in which that cannot be."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import mpsearch
from mpsearch.engine import export as engine

RUN = ("run", "--out", "found", "--no-tracking", "--space")


@pytest.fixture
def found(cli, space: Path) -> Path:
    """A finished run whose objective trains."""
    objective = space.with_name("objective.py")
    objective.write_text(objective.read_text().replace("(Objective):", "(Objective):\n    trains = True\n"))
    assert cli(*RUN, space).code == 0
    return Path("found")


def test_a_packed_member_scores_what_the_front_says(cli, found: Path) -> None:
    done = cli("export", "found", "--pick", "knee", "--format", "packed", "--to", "out", "--json")
    assert done.code == 0
    told = json.loads(done.out)
    front = json.loads((found / "front.json").read_text())
    member = next(m for m in front["members"] if m["key"] == told["key"] == front["picks"]["knee"])
    assert told["tensor_bytes"] == member["measures"]["memory_bytes"]
    assert told["tensor_bytes"] + told["header_bytes"] == Path(told["path"]).stat().st_size

    module = mpsearch.load_packed("out")
    assert module.manifest["member"]["assignment"] == member["assignment"]
    assert module.manifest["run"]["weights_sha256"]
    assert module(torch.zeros(2, 8)).shape == (2, 4)

    for more in (["--packed", "out"], ["--packed", told["path"]], []):
        shown = cli("verify", "found", "--pick", "knee", *more)
        assert shown.code == 0, shown.err
        assert shown.out.count("equal") == 3  # memory_bytes, and accuracy on two splits
    claims = json.loads(cli("verify", "found", "--pick", "knee", "--packed", "out", "--json").out)
    assert claims["holds"]
    assert {c["split"] for c in claims["claims"]} == {None, "validation", "test"}


def test_a_claim_that_is_missed_is_told(cli, found: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    score = engine.score
    monkeypatch.setattr(engine, "score", lambda *given: {name: s - 0.5 for name, s in score(*given).items()})
    shown = cli("verify", "found", "--pick", "0")
    assert shown.code == 6
    assert "differs by 0.5" in shown.out
    assert "does not score what the front says: accuracy validation, accuracy test." in shown.err


def test_json_is_a_plain_map_and_other_tools_get_their_own(cli, found: Path) -> None:
    assert cli("export", "found", "--pick", "0", "--format", "json", "--to", "out").out == "out/assignment.json\n"
    document = json.loads(Path("out/assignment.json").read_text())
    member = json.loads((found / "front.json").read_text())["members"][0]
    assert {s: e["format"] for s, e in document["sites"].items() if e["format"] != "fp32"} == member["assignment"]
    assert document["member"]["measures"] == member["measures"]
    assert document["member"]["test"] == member["test"]
    assert document["sites"]["0.weight"]["shape"] == [16, 8]
    again = cli("export", "found", "--pick", "0", "--format", "json", "--to", "out")
    assert (again.code, again.err) == (2, "mpsearch: out/assignment.json exists and is kept; name another folder.\n")

    for kind, file in (("torchao", "torchao.json"), ("modelopt", "modelopt.yaml")):
        done = cli("export", "found", "--pick", "0", "--format", kind, "--to", "out")
        assert (done.code, done.out) == (0, f"out/{file}\n"), done.err
    layers = json.loads(Path("out/torchao.json").read_text())["_data"]["fqn_to_config"]
    assert {f"{name}.weight": c["_data"]["weight_dtype"]["_data"] for name, c in layers.items()} == member["assignment"]
    assert "0.weight_quantizer" in Path("out/modelopt.yaml").read_text()


def test_what_cannot_be_exported_is_refused(cli, found: Path) -> None:
    def refused(*arguments: str) -> str:
        done = cli(*arguments)
        assert done.code == 2
        assert done.out == ""
        return done.err

    assert "Allowed: json, modelopt, packed, torchao" in refused(
        "export", "found", "--pick", "0", "--to", "x", "--format", "tflite"
    )
    assert "matches 0 of" in refused("export", "found", "--pick", "key:nothing", "--to", "x")
    assert cli("export", "found", "--pick", "0", "--to", "x", "--where", "memory_bytes<=1").code == 4
    assert "there is no packed file" in refused("verify", "found", "--pick", "0", "--packed", "x")
    (found / "plain").write_text("")
    assert cli("export", "found", "--pick", "0", "--to", "found/plain/x").code == 5

    assert cli("export", "found", "--pick", "0", "--to", "out").code == 0
    assert "exists and is kept" in refused("export", "found", "--pick", "0", "--to", "out")
    assert "export that one" in refused("verify", "found", "--pick", "1", "--packed", "out")
    path = Path("out/packed.safetensors")
    path.write_bytes(path.read_bytes()[:-1] + b"\x55")
    assert "not a packed file as it was written" in refused("verify", "found", "--pick", "0", "--packed", "out")

    weights = (found / "weights.safetensors").read_bytes()
    (found / "weights.safetensors").unlink()
    assert "has lost the float weights" in refused("export", "found", "--pick", "0", "--to", "y")
    (found / "weights.safetensors").write_bytes(weights[:-64] + bytes(64))
    assert "the float weights are not those of the run" in refused("export", "found", "--pick", "0", "--to", "y")
    Path("objective.py").rename("moved.py")
    assert "objective.py" in refused("export", "found", "--pick", "0", "--to", "y")
    assert not Path("y").exists()
