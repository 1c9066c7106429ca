"""Costs on devices from end to end: described, searched, picked by their short names, drawn, and always labelled."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mpsearch.engine.load import load_result
from mpsearch.engine.report import markdown
from mpsearch.engine.views import View
from mpsearch.spec.find import find_card

T4, LATENCY = "nvidia-t4", "latency_s@nvidia-t4"
GOALS = "goals=[{name: accuracy, maximise: true}, {name: memory_bytes}, {name: latency_s, accelerator: nvidia-t4}"
ONE, TWO = f"{GOALS}]", f"{GOALS}, {{name: latency_s, accelerator: bitfusion-eyeriss45}}]"
ALL = "driver={use: exhaustive, budget: 10}"


@pytest.fixture
def found(cli, space: Path) -> Path:
    """A finished run with a goal on one device."""
    assert cli("run", "--space", space, "--out", "found", "--set", ONE, "--set", ALL).code == 0
    return Path("found")


def test_describe_tells_where_costs_come_from_and_what_they_can_be(cli, space: Path) -> None:
    done = cli("describe", "--space", space, "--accelerator", T4, "--accelerator", "bitfusion-eyeriss45", "--json")
    assert done.code == 0
    facts = json.loads(done.out)
    energy = "energy_j@bitfusion-eyeriss45"
    assert energy in facts["measure_status"]
    assert f"energy_j@{T4}" not in facts["measure_status"]  # its card says nothing of energy
    assert set(facts["shares"]) == {"memory_bytes", LATENCY, "latency_s@bitfusion-eyeriss45", energy}
    for name, shares in facts["shares"].items():
        assert list(shares) == ["float", "uniform 2"]
        for control, parts in shares.items():
            assert sum(parts.values()) == pytest.approx(facts["costs"][control][name])
    for name, found in facts["range"].items():
        uniform = [measures[name] for control, measures in facts["costs"].items() if control != "float"]
        assert found["least"] <= min(uniform) <= max(uniform) <= found["most"]
    assert {"memory_bytes", LATENCY, energy, "bops"} <= set(facts["range"])
    assert [device["name"] for device in facts["accelerators"]] == [T4, "bitfusion-eyeriss45"]
    assert facts["goals"][-1]["name"] == "energy_j"


def test_describe_is_readable_in_100_columns(cli, space: Path) -> None:
    done = cli("describe", "--space", space, "--accelerator", T4)
    assert f"{LATENCY} (analytic)" in done.out
    assert f"{LATENCY} (analytic), where it comes from" in done.out
    assert "nvidia-t4 (roofline) is analytic: computed from the figures of the card" in done.out
    notes = ("nvidia-t4 (", "note: ", "limit: ")
    assert max(len(line.rstrip()) for line in done.out.splitlines() if not line.startswith(notes)) <= 100


def test_describe_takes_a_card_of_ones_own_and_a_goal_twice_is_one(cli, space: Path) -> None:
    card = find_card(T4, Path()).read_text(encoding="utf-8").replace("name: nvidia-t4", "name: my.t4")
    Path("my.t4.yaml").write_text(card)
    cards = ["--accelerator", T4, "--accelerator", "my.t4.yaml"]
    facts = json.loads(cli("describe", "--space", space, "--set", ONE, *cards, "--json").out)
    assert list(facts["measure_status"]) == [LATENCY, "latency_s@my.t4"]
    assert facts["range"]["latency_s@my.t4"] == facts["range"][LATENCY]


@pytest.mark.parametrize(
    ("name", "message"),
    [("nvidia-t5", "Did you mean 'nvidia-t4'?"), ("./gone.yaml", "gone.yaml"), ("space.yaml", "space.yaml")],
)
def test_describe_of_a_card_that_is_none(cli, space: Path, name: str, message: str) -> None:
    done = cli("describe", "--space", space, "--accelerator", name)
    assert done.code == 2
    assert message in done.err


def test_a_run_labels_its_figures(cli, space: Path, projections: None) -> None:
    done = cli("run", "--space", space, "--out", "found", "--set", ONE, "--set", ALL)
    assert done.code == 0, done.err
    heading = [line.split() for line in done.out.splitlines()[:3]]
    assert all(part in line for part, line in zip(("latency_s", "@nvidia-t4", "(analytic)"), heading, strict=True))
    front = json.loads(Path("found/front.json").read_text())
    assert front["measure_status"] == {LATENCY: "analytic"}
    assert all(member["measures"][LATENCY] > 0 for member in front["members"])
    report = Path("found/report.md").read_text()
    assert f"* `nvidia-t4` (roofline), **analytic**: `{LATENCY}`." in report
    assert f"`{LATENCY}` (analytic)" in report
    assert f"{LATENCY} (analytic)" in Path("found/costs.html").read_text()


def test_members_that_a_microcontroller_has_no_room_for_are_marked(cli, space: Path) -> None:
    text = find_card("cortex-m7-stm32f746", Path()).read_text(encoding="utf-8")
    Path("small.yaml").write_text(text.replace("name: cortex-m7-stm32f746", "name: small").replace("1048576", "400"))
    goals = "goals=[{name: accuracy, maximise: true}, {name: memory_bytes}, {name: latency_s, accelerator: small.yaml}]"
    goals = goals.replace("small.yaml", str(Path("small.yaml").absolute()))
    done = cli("run", "--space", space, "--out", "found", "--set", goals, "--set", ALL, "--json")
    assert done.code == 0, done.err
    needs = [member["measures"]["memory_bytes@small"] for member in json.loads(done.out)["members"]]
    fit = sum(bytes_ <= 400 for bytes_ in needs)
    rows = [line for line in cli("front", "found").out.splitlines() if line.split()[0].isdigit()]
    assert [("does not fit" in row) for row in rows] == [bytes_ > 400 for bytes_ in needs]
    report = markdown(View.of(load_result(Path("found"))))
    assert f"* {fit} of {len(needs)} members fit into its flash (400 B for `memory_bytes@small`" in report
    assert report.count("(does not fit)") >= len(needs) - fit


def test_short_names_mean_the_only_accelerator(cli, found: Path) -> None:
    document = json.loads(cli("front", found, "--json").out)
    whole, used = document["members"], document["formats"]
    assert sum(use["elements"] for use in used if use["role"] == "weight") == pytest.approx(1)
    assert f"weight: {used[0]['format']} {used[0]['elements']:.0%}" in cli("front", found).out
    times = sorted(member["measures"][LATENCY] for member in whole)
    for name in ("latency_s", LATENCY):
        some = json.loads(cli("front", found, "--json", "--where", f"{name}<={times[0]!r}").out)["members"]
        assert some == [member for member in whole if member["measures"][LATENCY] == times[0]]
        for word in ("best", "cheapest"):
            assert json.loads(cli("front", found, "--json", "--pick", f"{word}:{name}").out) in some
    half = json.loads(cli("front", found, "--json", "--where", "latency_s <= baseline * 1.0").out)["members"]
    assert half == whole


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--where", "latency<=1", "--where 'latency<=1': no measure 'latency'. Did you mean 'latency_s@nvidia-t4'?"),
        ("--where", "latency_s@b<=1", "no measure 'latency_s@b'"),
        ("--where", "latency_s<=fast", "limit '<=fast' is not understood"),
        ("--where", "<=1", "--where '<=1' is not understood"),
        ("--pick", "best:energy_j", "--pick 'best:energy_j': no measure 'energy_j'."),
        ("--plot", "costs.pdf", "costs.pdf: a picture ends in .html or .png."),
        ("--plot", "no/folder/costs.png", "--plot no/folder/costs.png: cannot be written (No such file or directory)"),
    ],
)
def test_what_front_does_not_understand(cli, found: Path, option: str, value: str, message: str) -> None:
    done = cli("front", found, option, value)
    assert done.code == 2
    assert message in done.err


def test_a_short_name_of_several_accelerators_lists_them(cli, space: Path) -> None:
    assert cli("run", "--space", space, "--out", "found", "--set", TWO).code == 0
    for option, value in (("--where", "latency_s<=1"), ("--pick", "cheapest:latency_s")):
        done = cli("front", "found", option, value)
        assert done.code == 2
        assert f"several accelerators; write one of {LATENCY}, latency_s@bitfusion-eyeriss45" in done.err
    assert cli("front", "found", "--pick", "cheapest:latency_s@bitfusion-eyeriss45").code == 0


def test_front_draws_where_the_costs_of_a_member_come_from(cli, found: Path) -> None:
    assert cli("front", found, "--pick", "cheapest:memory_bytes", "--plot", "small.html").code == 0
    key = json.loads(cli("front", found, "--pick", "cheapest:memory_bytes", "--json").out)["key"]
    page = Path("small.html").read_text()
    assert key[:8] in page
    assert f"{LATENCY} (analytic)" in page
    done = cli("front", found, "--plot", "knee.png", "--json")
    assert json.loads(done.out)["picks"]
    assert Path("knee.png").read_bytes().startswith(b"\x89PNG")
    (found / "costs.json").unlink()
    assert "only bits are drawn; mpsearch resume found writes it" in cli("front", found, "--plot", "bits.png").err
    assert cli("resume", found).code == 0
    assert "only bits" not in cli("front", found, "--plot", "again.png").err


def test_a_damaged_costs_file_is_one_message(cli, found: Path) -> None:
    (found / "costs.json").write_text("{")
    done = cli("front", found)
    assert done.code == 2
    assert "found/costs.json: not readable" in done.err
    (found / "costs.json").unlink()
    assert cli("resume", found).code == 0
    assert cli("front", found).code == 0
