# ruff: noqa: E501 - one case, one line
"""Goals that name an accelerator: checked with the rest of the space file, before anything is built."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import pytest

from mpsearch.core.errors import BadInput
from mpsearch.spec import find
from mpsearch.spec.load import load_saved, load_spec, refuse_edited_cards, save_spec
from mpsearch.spec.schema import GoalSpec, json_schema

OBJECTIVE = "class Mine:\n    def model(self): ...\n    def batches(self, split): ...\n    def metric(self, outputs, targets): ...\n"
SPACE = """\
name: mine
objective: {use: objective.py}
sites: [{match: "*", formats: [fp32]}]
goals:
  - {name: accuracy, maximise: true}
  - {name: memory_bytes}
  - {name: latency_s, accelerator: nvidia-t4}
"""


@pytest.fixture
def space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("MPSEARCH_PATH", raising=False)
    (tmp_path / "objective.py").write_text(OBJECTIVE)
    (tmp_path / "cards").mkdir()
    card = (find.cards() / "nvidia-t4.yaml").read_text()
    (tmp_path / "cards/mine.yaml").write_text(card.replace("name: nvidia-t4", "name: mine"))
    (tmp_path / "cards/nvidia-t4.yaml").write_text(card)
    path = tmp_path / "space.yaml"
    path.write_text(SPACE)
    return path


def errors_of(space: Path, goals: str) -> list[str]:
    space.write_text(SPACE.replace("  - {name: latency_s, accelerator: nvidia-t4}\n", goals))
    with pytest.raises(BadInput) as caught:
        load_spec(space)
    return [error.replace(f"{space.parent}/", "") for error in caught.value.errors]


def test_goals_on_several_cards(space: Path) -> None:
    more = "  - {name: latency_s, accelerator: cards/mine.yaml}\n  - {name: memory_bytes, accelerator: nvidia-t4}\n"
    space.write_text(SPACE + more)
    spec = load_spec(space)
    assert [goal.measure for goal in spec.goals] == [
        "accuracy",
        "memory_bytes",
        "latency_s@nvidia-t4",
        "latency_s@mine",
        "memory_bytes@nvidia-t4",
    ]
    assert spec.resolved is not None
    assert set(spec.resolved.cards) == {"nvidia-t4", "mine"}
    assert all(re.fullmatch("[0-9a-f]{64}", sha256) for sha256 in spec.resolved.cards.values())


@pytest.mark.parametrize(
    ("goal", "message"),
    [
        ("{name: latency_s}", "space.yaml:7:6: goals[2].name: latency_s is of a device: name its card, for example accelerator: nvidia-t4. Shipped are bismo-pynq-z1, "),
        ("{name: energy_j}", "goals[2].name: energy_j is of a device"),
        ("{name: energy_j}", "see mpsearch list accelerators"),
        ("{name: latency_s@nvidia-t4}", "goals[2].name: 'latency_s@nvidia-t4' is written {name: latency_s, accelerator: nvidia-t4}."),
        ("{name: bops, accelerator: nvidia-t4}", "space.yaml:7:18: goals[2].accelerator: 'bops' takes no accelerator."),
        ("{name: accuracy2, accelerator: nvidia-t4}", "takes no accelerator. Allowed: activation_peak_bytes, energy_j, latency_s, memory_bytes."),
        ("{name: latency, accelerator: nvidia-t4}", "'latency' takes no accelerator. Did you mean 'latency_s'?"),
        ("{name: latency_s, accelerator: nvidia-t5}", "space.yaml:7:23: goals[2].accelerator: no card 'nvidia-t5'; tried "),
        ("{name: latency_s, accelerator: nvidia-t5}", "Did you mean 'nvidia-t4'?"),
        ("{name: latency_s, accelerator: ./nothing.yaml}", "no card './nothing.yaml'; tried nothing.yaml"),
        ("{name: latency_s, accelerator: ''}", "goals[2].accelerator: string should have at least 1 character"),
        ("{name: energy_j, accelerator: nvidia-t4}", "goals[2].accelerator: nvidia-t4 cannot give energy_j: it has no energy block. Shipped cards that can: bitfusion-eyeriss45"),
        ("{name: latency_s, accelerator: nvidia-t4, limit: soon}", "goals[2].limit: limit 'soon' is not understood"),
        ("{name: latency_s, accelerator: nvidia-t5, limit: soon}", "no card 'nvidia-t5'"),
    ],
)  # fmt: skip
def test_one_faulty_goal(space: Path, goal: str, message: str) -> None:
    found = errors_of(space, f"  - {goal}\n")
    assert any(message in error for error in found), found
    assert all(error.startswith("space.yaml:7:") for error in found), found


def test_every_fault_of_a_card_is_told_at_the_goal(space: Path) -> None:
    card = space.parent / "cards/mine.yaml"
    card.write_text(card.read_text().replace("launch_s", "launch").replace("status: analytic", "status: sure"))
    found = errors_of(space, "  - {name: latency_s, accelerator: cards/mine.yaml}\n  - {name: energy_j}\n")
    assert len(found) == 3
    assert found[0].startswith(
        "space.yaml:7:23: goals[2].accelerator: cards/mine.yaml:5:1: status: 'sure' is not allowed."
    )
    assert re.match(
        r"space.yaml:7:23: goals\[2\].accelerator: cards/mine.yaml:\d+:\d+: overhead.launch: unknown key", found[1]
    )
    assert found[2].startswith("space.yaml:8:6: goals[3].name: energy_j is of a device")


def test_two_cards_of_one_name_are_refused(space: Path) -> None:
    goals = (
        "  - {name: latency_s, accelerator: nvidia-t4}\n  - {name: memory_bytes, accelerator: cards/nvidia-t4.yaml}\n"
    )
    (found,) = errors_of(space, goals)
    assert found.startswith("space.yaml:8:26: goals[3].accelerator: cards/nvidia-t4.yaml and ")
    assert "are both called 'nvidia-t4'; rename one" in found
    same = "  - {name: latency_s, accelerator: cards/mine.yaml}\n  - {name: memory_bytes, accelerator: cards/../cards/mine.yaml}\n"
    space.write_text(SPACE + same)
    assert load_spec(space).goals[-1].measure == "memory_bytes@mine"


def test_one_measure_on_one_card_is_one_goal(space: Path) -> None:
    goal = "  - {name: latency_s, accelerator: nvidia-t4}\n"
    assert any("latency_s@nvidia-t4 is listed twice" in error for error in errors_of(space, goal * 2))


def test_a_run_goes_on_only_with_the_cards_it_began_with(space: Path, tmp_path: Path) -> None:
    space.write_text(SPACE + "  - {name: latency_s, accelerator: cards/mine.yaml}\n")
    spec = load_spec(space)
    save_spec(spec, tmp_path)
    saved = load_saved(tmp_path)
    assert saved == spec
    refuse_edited_cards(saved)
    card = tmp_path / "cards/mine.yaml"
    before = card.read_text()
    card.write_text(before.replace("3.2", "3.1") + "# edited\n")
    with pytest.raises(
        BadInput, match=r"the card of mine is not that of the run any more; bring it back, or start a new run\."
    ):
        refuse_edited_cards(saved)
    assert load_spec(space).sha256 != spec.sha256
    card.unlink()
    with pytest.raises(BadInput, match=r"no card 'cards/mine\.yaml'"):
        refuse_edited_cards(saved)
    card.write_text(before)
    refuse_edited_cards(saved)


def test_the_digest_of_a_run_without_accelerators_knows_nothing_of_them(space: Path) -> None:
    space.write_text(SPACE.replace("  - {name: latency_s, accelerator: nvidia-t4}\n", ""))
    spec = load_spec(space)
    assert spec.resolved is not None
    assert spec.resolved.cards == {}
    data = spec.model_dump(mode="json", by_alias=True, exclude={"tracking", "resolved", "data_root"})
    assert data.pop("finetune") is data.pop("variants") is None
    for goal in data["goals"]:
        assert goal.pop("accelerator", "absent") is None
    for rule in data["sites"]:
        assert rule.pop("bins", "absent") is None
    data["objective_sha256"] = spec.resolved.objective_sha256
    assert spec.sha256 == hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()
    refuse_edited_cards(spec)
    refuse_edited_cards(spec.model_copy(update={"resolved": None}))
    on_card = spec.model_copy(update={"goals": (GoalSpec(name="memory_bytes", accelerator="nvidia-t4"),)})
    assert on_card.sha256 != spec.sha256


def test_an_override_may_name_another_card(space: Path) -> None:
    assert load_spec(space, ["goals[2].accelerator=nvidia-h200"]).goals[2].measure == "latency_s@nvidia-h200"
    with pytest.raises(BadInput, match=r"--set goals\[2\]\.accelerator=nvidia-h20: .*Did you mean 'nvidia-h200'"):
        load_spec(space, ["goals[2].accelerator=nvidia-h20"])


@pytest.mark.parametrize(
    ("accelerator", "measure"),
    [
        (None, "latency_s"),
        ("nvidia-t4", "latency_s@nvidia-t4"),
        ("cards/mine.yaml", "latency_s@mine"),
        ("~/cards/soc.v1.2.yml", "latency_s@soc.v1.2"),
        ("soc.v1.2", "latency_s@soc.v1.2"),
    ],
)
def test_names_of_measures(accelerator: str | None, measure: str) -> None:
    goal = GoalSpec(name="latency_s", accelerator=accelerator)
    assert goal.measure == goal.goal().name == measure
    assert goal.goal().on_log_scale


def test_the_json_schema_knows_accelerators_and_no_facts() -> None:
    schema = json.loads(json.dumps(json_schema()))
    assert "bundled name" in schema["$defs"]["GoalSpec"]["properties"]["accelerator"]["description"]
    assert "Resolved" not in schema["$defs"]
