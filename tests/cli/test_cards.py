"""Cards on the command line: what is listed, and what a goal on a faulty one ends with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mpsearch.spec import find

MEASURES = ["latency_s", "energy_j", "memory_bytes", "activation_peak_bytes"]


def test_list_accelerators(cli) -> None:
    done = cli("list", "accelerators")
    assert done.code == 0
    rows = {line.split()[0]: line for line in done.out.splitlines() if not line.startswith(" ")}
    assert set(find.card_names()) <= set(rows)
    assert "roofline" in rows["nvidia-t4"]
    assert "analytic" in rows["nvidia-t4"]
    assert "latency_s" in rows["nvidia-t4"]
    assert "energy_j" not in rows["nvidia-t4"]
    assert "energy_j" in rows["bitfusion-eyeriss45"]
    found = json.loads(cli("list", "accelerators", "--json").out)["accelerators"]
    assert [row["name"] for row in found] == find.card_names()
    for row in found:
        assert set(row) == {"name", "kind", "status", "measures", "note"}
        assert row["note"]
        assert row["measures"] == [measure for measure in MEASURES if measure in row["measures"]]
        assert {"memory_bytes", "activation_peak_bytes"} <= set(row["measures"])


def test_cards_of_ones_own_are_listed_and_a_faulty_one_says_why(cli, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (find.cards() / "nvidia-t4.yaml").read_text()
    Path("own").mkdir()
    Path("own/good.yaml").write_text(text.replace("name: nvidia-t4", "name: good"))
    Path("own/bad.yaml").write_text(text.replace("name: nvidia-t4", "name: bad").replace("launch_s", "launch"))
    Path("own/space.yaml").write_text("name: space\n")
    monkeypatch.setenv("MPSEARCH_PATH", "own")
    rows = {row["name"]: row for row in json.loads(cli("list", "accelerators", "--json").out)["accelerators"]}
    assert set(rows) == {*find.card_names(), "good", "bad"}
    assert rows["good"]["status"] == "analytic"
    assert rows["bad"]["status"] == "faulty"
    assert rows["bad"]["measures"] == []
    assert "unknown key 'launch'" in rows["bad"]["note"]
    assert "faulty" in cli("list", "accelerators").out


def test_an_unknown_kind_of_names(cli) -> None:
    done = cli("list", "accelerator")
    assert done.code == 2
    assert "unknown kind 'accelerator'. Did you mean 'accelerators'?" in done.err


@pytest.mark.parametrize(
    ("goal", "message"),
    [
        ("{name: latency_s}", "latency_s is of a device: name its card"),
        ("{name: latency_s, accelerator: nvidia-t5}", "Did you mean 'nvidia-t4'?"),
        ("{name: energy_j, accelerator: nvidia-t4}", "nvidia-t4 cannot give energy_j: it has no energy block"),
        ("{name: latency_s, accelerator: ./mine.yaml}", "mine.yaml: is empty; start from a bundled card"),
        ("{name: bops, accelerator: nvidia-t4}", "'bops' takes no accelerator"),
    ],
)
def test_goals_on_bad_cards_end_before_anything_is_built(cli, space: Path, goal: str, message: str) -> None:
    Path("mine.yaml").touch()
    space.write_text(space.read_text().replace("{name: memory_bytes}", goal))
    for command in (["run", "--out", "found"], ["describe"]):
        done = cli(command[0], "--space", space, *command[1:])
        assert done.code == 2
        assert message in done.err
        assert "goals[1]" in done.err
    assert not Path("found").exists()


def test_a_run_whose_card_was_edited_is_not_resumed(cli, space: Path) -> None:
    text = (find.cards() / "nvidia-t4.yaml").read_text().replace("name: nvidia-t4", "name: mine")
    Path("mine.yaml").write_text(text)
    space.write_text(space.read_text().replace("{name: memory_bytes}", "{name: latency_s, accelerator: mine.yaml}"))
    assert cli("run", "--space", space, "--out", "found").code == 0
    before = Path("found/ledger.jsonl").read_bytes()
    Path("mine.yaml").write_text(text.replace("320.0e9", "160.0e9"))
    done = cli("resume", "found")
    assert done.code == 2
    assert "the card of mine is not that of the run any more" in done.err
    assert Path("found/ledger.jsonl").read_bytes() == before
    assert cli("front", "found").code == 0
    Path("mine.yaml").write_text(text)
    assert cli("resume", "found").code == 0
