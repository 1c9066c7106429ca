# ruff: noqa: E501 - one case, one line
"""Loading space files: what is right round-trips, what is wrong is named with its place, all at once."""

from __future__ import annotations

import json
from pathlib import Path
from textwrap import dedent

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpsearch.core.errors import BadInput
from mpsearch.core.goal import Goal, Limit
from mpsearch.core.site import Role, Site
from mpsearch.spec.load import load_saved, load_spec, save_spec
from mpsearch.spec.schema import DEFAULT_BUDGET, Spec, json_schema
from mpsearch.spec.source import Override, dump, read_text
from mpsearch.spec.texts import parse_time_s

OBJECTIVE = """
class Mine:
    def __init__(self, hidden=16, data="digits"):
        if hidden < 1:
            raise ValueError(f"hidden must be positive, got {hidden!r}")
    def model(self): ...
    def batches(self, split): ...
    def metric(self, outputs, targets): ...
"""
SPACE = """\
schema: mpsearch.space/1
name: mine
objective:
  use: objective.py
  options: {hidden: 8}
sites:
  - match: "*.weight"
    formats: [fp32]
goals:
  - {name: accuracy, maximise: true, limit: ">= baseline - 0.01"}
  - {name: memory_bytes}
driver:
  budget: 20
"""


@pytest.fixture
def space(tmp_path: Path) -> Path:
    (tmp_path / "objective.py").write_text(OBJECTIVE)
    path = tmp_path / "space.yaml"
    path.write_text(SPACE)
    return path


def errors_of(space: Path, text: str | None = None, overrides: tuple[str | Override, ...] = ()) -> list[str]:
    if text is not None:
        space.write_text(text)
    with pytest.raises(BadInput) as caught:
        load_spec(space, overrides)
    return [error.replace(str(space.parent) + "/", "") for error in caught.value.errors]


def test_a_good_file(space: Path) -> None:
    spec = load_spec(space)
    assert spec.goals[0].goal() == Goal("accuracy", True, Limit.parse(">= baseline - 0.01"))
    assert (spec.driver.use, spec.driver.budget, spec.driver.time_s) == ("auto", 20, None)
    assert spec.resolved is not None
    assert spec.resolved.objective_file == str(space.parent / "objective.py")
    assert spec.resolved.objective_class == "Mine"


def test_defaults(space: Path) -> None:
    space.write_text(SPACE.replace("driver:\n  budget: 20\n", ""))
    spec = load_spec(space)
    assert spec.driver.budget == DEFAULT_BUDGET
    assert spec.quantization.bias_correction == "sequential"
    assert spec.engine.device == "cpu"


def test_every_error_at_once_each_with_its_place(space: Path) -> None:
    found = errors_of(
        space,
        dedent("""\
        name: bad name
        objective: {use: objective.py, options: {hiden: 3}}
        sites:
          - match: {role: fature}
            formats: [int2, intt]
          - match: "*"
            formats: [imt4]
        goals:
          - {name: accuracy, maximize: true}
          - {name: memory_bytes, limit: "below 5"}
        driver: {use: optnua, budget: 0}
        sead: 3
        seed: "three"
        """),
    )
    starts = [
        "space.yaml:1:1: name: string should match pattern",
        "space.yaml:2:42: objective.options.hiden: objective 'objective.py' has no option 'hiden'. Did you mean 'hidden'?",
        "space.yaml:4:13: sites[0].match.role[0]: 'fature' is not allowed. Did you mean 'feature'?",
        "space.yaml:5:21: sites[0].formats[1]: 'intt' is neither a format (a scheme and bits, as int4) nor a scheme",
        "space.yaml:7:15: sites[1].formats[0]: format 'imt4': unknown scheme 'imt'. Did you mean 'int'?",
        "space.yaml:9:22: goals[0].maximize: unknown key 'maximize'. Did you mean 'maximise'?",
        "space.yaml:10:26: goals[1].limit: limit 'below 5' is not understood",
        "space.yaml:11:10: driver.use: unknown driver 'optnua'. Did you mean 'optuna'?",
        "space.yaml:11:23: driver.budget: must be above 0, got 0.",
        "space.yaml:12:1: sead: unknown key 'sead'. Did you mean 'seed'?",
        "space.yaml:13:1: seed: should be a valid integer, got 'three'.",
    ]
    assert len(found) == len(starts), found
    for got, start in zip(found, starts, strict=True):
        assert got.startswith(start), (got, start)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("driver:\n", "driver:\n  use: optnua\n", "space.yaml:13:3: driver.use: unknown driver 'optnua'. Did you mean 'optuna'?"),
        ("budget: 20", "budget: -1", "space.yaml:13:3: driver.budget: must be above 0, got -1."),
        ("budget: 20", "time: soon", "driver.time: 'soon' is not a time above zero; write for example 90s, 10m or 1.5h."),
        ("budget: 20", "{budget: 5, time: 10m}", "driver: a run ends by 'budget' or by 'time', not both"),
        ("budget: 20", "budget: 20\n  time: 10m", "a run ends by 'budget' or by 'time', not both"),
        ("budget: 20", "options: {sampler: tpe}", "driver 'auto' takes no options; name one in driver.use"),
        ("driver:", "finetune: {method: lsqq, epochs: 0}\ndriver:", "finetune.method: unknown learner 'lsqq'. Did you mean 'lsq'?"),
        ("driver:", "finetune: {options: {stages: 3}}\ndriver:", "learner 'lsq' has no option 'stages'"),
        ("name: mine\n", "", "space.yaml:1:1: name: is required and missing: letters, digits, dot, dash and underscore"),
        ("name: mine", "name: mine\nname: other", "key 'name' is written twice; it is also on line 2; keep one."),
        ("hidden: 8", "hidden: 0", "space.yaml:5:13: objective.options.hidden: objective 'objective.py': hidden must be positive, got 0"),
        ("use: objective.py", "use: objectiv.py", "objectiv.py is not there. Did you mean 'objective.py'?"),
        ("use: objective.py", "use: objective.py:Mne", "defines no objective 'Mne'. Did you mean 'Mine'?"),
        ("use: objective.py", "use: nowhere", "unknown objective 'nowhere'."),
        ("[fp32]", "[]", "sites[0].formats: tuple should have at least 1 item"),
        ("[fp32]", "[fp32, fp32]", "fp32 is listed twice; once is enough."),
        ("[fp32]", "fp32", "sites[0].formats: must be a list, got 'fp32'."),
        ("[fp32]", "al", "sites[0].formats[0]: 'al' is neither a format (a scheme and bits, as int4) nor a scheme, whose name stands for all that it offers. Did you mean 'all'?"),
        ("[fp32]", "[int4, bf]", "sites[0].formats[1]: 'bf' offers no format for any role; write formats out"),
        ("maximise: true", "maximise: 1", "goals[0].maximise: should be a valid boolean, got 1."),
        ("- {name: memory_bytes}", "- {name: accuracy}", "accuracy is listed twice; once is enough."),
        ("budget: 20", "budget: 2024-01-01", "driver.budget: should be a valid integer, got '2024-01-01'."),
        ("budget: 20", "budget: .nan", "driver.budget: .nan is not a finite number."),
        ("hidden: 8", "hidden: !!binary aGk=", "YAML tag tag:yaml.org,2002:binary is not allowed"),
        ("hidden: 8", "3: 8", "key '3' is not text; put it in quotes."),
        ("hidden: 8", "hidden: &x [*x]", "an alias that contains itself is not allowed."),
        ("name: mine", "name: mine\ntie: [{group: [q]}]", "tie[0].group: tuple should have at least 2 items"),
        ("name: mine", "name: mine\ntie: [{}]", "tie[0]: a tie needs either 'group' or 'match', and not both."),
        ("name: mine", "name: mine\nstart: [{'*': imt4}]", "start[0].*: format 'imt4': unknown scheme 'imt'."),
        ("name: mine", "name: mine\nuntie: [residul]", "untie[0]: 'residul' is not allowed. Did you mean 'residual'?"),
    ],
)  # fmt: skip
def test_one_error(space: Path, old: str, new: str, message: str) -> None:
    assert old in SPACE
    found = errors_of(space, SPACE.replace(old, new, 1))
    assert any(message in error for error in found), found
    assert all(error.startswith("space.yaml:") for error in found)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"# nothing\n", "is empty"),
        (b"a: [1, 2\nb: 3", "space.yaml:2:2: not YAML"),
        (b"a: \tb: c: d", "not YAML"),
        (b"- 1\n- 2", "holds a list; a space file is a mapping"),
        (b"just words", "holds a text; a space file is a mapping"),
        (b"\xff\xfe\x00", "not a text file"),
        (b"a: 1\n---\nb: 2\n", "not YAML"),
        (b"a: " + b"[" * 5000, "not YAML"),
        (b"a: \x00", "not YAML"),
    ],
)
def test_files_that_are_not_a_space(space: Path, content: bytes, message: str) -> None:
    space.write_bytes(content)
    assert message in errors_of(space)[0]


@pytest.mark.parametrize(
    ("flag", "read", "value"),
    [
        ("seed=3", lambda s: s.seed, 3),
        ("driver.budget=7", lambda s: s.driver.budget, 7),
        ("goals[1].limit=<= 10", lambda s: s.goals[1].limit, "<= 10"),
        ("engine.threads=1", lambda s: s.engine.threads, 1),
        ("objective.options.hidden=4", lambda s: s.objective.options, {"hidden": 4}),
        ("sites[0].formats=[fp32]", lambda s: s.sites[0].formats, ("fp32",)),
        ("sites[0].formats=all", lambda s: s.sites[0].formats, ("all",)),
        ("tracking={enabled: false}", lambda s: s.tracking.enabled, False),
    ],
)
def test_overrides(space: Path, flag: str, read, value) -> None:
    assert read(load_spec(space, [flag])) == value


def test_the_later_override_wins_and_mends_the_file(space: Path) -> None:
    space.write_text(SPACE.replace("budget: 20", "budget: zero"))
    assert load_spec(space, ["driver.budget=1", "driver.budget=2"]).driver.budget == 2


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        (
            "driver.use=optnua",
            "--set driver.use=optnua: driver.use: unknown driver 'optnua'. Did you mean 'optuna'?",
        ),
        ("drivr.budget=3", "--set drivr.budget=3: drivr: unknown key 'drivr'. Did you mean 'driver'?"),
        ("driver.budget", "--set driver.budget: not of the form a.b[0].c=VALUE"),
        ("driver..budget=3", "--set driver..budget=3: not of the form"),
        ("goals[7].limit=<= 3", "--set goals[7].limit=<= 3: goals is a list of 2, it has no item [7]."),
        ("name.first=3", "--set name.first=3: name is a text and has no key 'first'."),
        ("seed=[1", "--set seed=[1: not YAML"),
        ("driver.budget=0", "--set driver.budget=0: driver.budget: must be above 0, got 0."),
    ],
)
def test_errors_of_overrides_name_the_flag(space: Path, flag: str, message: str) -> None:
    found = errors_of(space, None, (flag,))
    assert any(error.startswith(message) for error in found), found


def test_a_limit_from_below_needs_no_quotes(space: Path) -> None:
    assert load_spec(space, ["goals[0].limit=>= baseline - 0.1"]).goals[0].limit == ">= baseline - 0.1"


def test_an_override_of_the_command_line_names_its_own_flag(space: Path) -> None:
    found = errors_of(space, None, (Override(("driver", "budget"), 0, "--budget 0"),))
    assert found == ["--budget 0: driver.budget: must be above 0, got 0."]


def test_the_saved_spec_is_loaded_back_exactly(space: Path, tmp_path: Path) -> None:
    spec = load_spec(space, ["objective.options.data=1e-3", "start=[{'*': fp32}]", "tie=[{group: [q, k]}]"])
    assert spec.objective.options["data"] == 0.001
    assert spec.resolved is not None
    facts = spec.resolved.model_copy(update={"fingerprint": "abc", "versions": {"torch": "2"}})
    saved = save_spec(spec, tmp_path, facts)
    assert load_saved(tmp_path) == saved
    assert saved.resolved == facts
    assert saved.sha256 == spec.sha256


def test_the_digest_sees_the_objective_and_the_seed_but_not_tracking(space: Path) -> None:
    spec = load_spec(space)
    assert load_spec(space, ["tracking.enabled=false"]).sha256 == spec.sha256
    assert load_spec(space, ["seed=1"]).sha256 != spec.sha256
    (space.parent / "objective.py").write_text(OBJECTIVE + "\n# changed\n")
    assert load_spec(space).sha256 != spec.sha256


def test_a_folder_without_a_spec_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="not a run folder"):
        load_saved(tmp_path)


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
TRICKY = st.sampled_from(["1e-3", "2024-01-01", "yes", "null", "<<", "=", "0x1f", "1_000", "~", "!x", "a: b", "1:30"])


@given(st.dictionaries(st.text() | TRICKY, PLAIN | TRICKY, max_size=4))
def test_plain_data_survives_yaml(data: dict[str, object]) -> None:
    source = read_text(dump(data), "x")
    assert not source.errors
    assert source.data == data


@given(st.integers(1, 10**6), st.sampled_from("smh"))
def test_times(number: int, unit: str) -> None:
    assert parse_time_s(f"{number}{unit}") == number * {"s": 1, "m": 60, "h": 3600}[unit]


@pytest.mark.parametrize(
    ("match", "name", "role", "fits"),
    [
        ("*.weight", "a.weight", Role.WEIGHT, True),
        ("*.weight", "a:in", Role.ACTIVATION, False),
        ({"role": "feature"}, "x", Role.FEATURE, True),
        ({"role": ["feature", "message"]}, "x", Role.MESSAGE, True),
        ({"role": "feature", "name": "b*"}, "x", Role.FEATURE, False),
    ],
)
def test_match(space: Path, match: object, name: str, role: Role, fits: bool) -> None:
    rule = load_spec(space, [Override(("sites", 0, "match"), match, "--set")]).sites[0]
    assert rule.match.accepts(Site(name, role, (2, 2))) is fits


def test_the_json_schema_knows_every_key_and_is_json() -> None:
    schema = json.loads(json.dumps(json_schema()))
    keys = {field.alias or name for name, field in Spec.model_fields.items()} - {"resolved"}
    assert set(schema["properties"]) == keys
    assert schema["additionalProperties"] is False
    assert {"type": "string"} in schema["$defs"]["SiteRule"]["properties"]["match"]["anyOf"]


def test_an_objective_that_breaks_when_made_is_no_fault_of_the_file(tmp_path):
    (tmp_path / "objective.py").write_text(
        "class Broken:\n"
        "    def __init__(self):\n        raise RuntimeError('no licence')\n"
        "    def model(self): ...\n    def batches(self, split): ...\n    def metric(self, outputs, targets): ...\n"
    )
    (tmp_path / "space.yaml").write_text(
        "name: broken\nobjective: {use: objective.py}\nsites: [{match: '*', formats: [int8]}]\ngoals: [{name: accuracy}]\n"
    )
    assert load_spec(tmp_path / "space.yaml").name == "broken"  # it is reported, with exit code 3, when it is built
