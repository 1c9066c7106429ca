"""Child processes that time models: what crashes or hangs there is told, and all else is measured."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from deployed import Residual, everywhere, exported, problem, randn

from mpsearch.core.errors import BadInput
from mpsearch.deploy import timing
from mpsearch.deploy.timing import Bench, Failed, Timed, require_onnxruntime, save_inputs


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path]]:
    folder = tmp_path_factory.mktemp("models")
    batch = randn(4, 3, 8, 8)
    made = problem(Residual(), batch)
    inputs = save_inputs(folder / "inputs.npz", {"x": batch.numpy()})
    found = {}
    for name, model in {"float": exported(made), "int8": exported(made, everywhere(made))}.items():
        path = folder / f"{name}.onnx"
        path.write_bytes(model.proto.SerializeToString())
        found[name] = path, inputs
    return found


def test_models_are_timed_in_turn(files, tmp_path: Path) -> None:
    told = []
    found = Bench(tmp_path).measure(files, 0.0, tell=told.append)
    assert told == [1, 2, 3]
    for result in found.values():
        assert isinstance(result, Timed)
        assert len(result.rounds_s) == 3
        assert 0 < result.best_s <= result.median_s < 1
        assert result.best_s <= 1.5 * result.wall_s
        assert result.spread >= 0
    assert found["float"].kernels.integer == frozenset()
    assert found["int8"].kernels.count["QLinearConv"] == 5


def test_a_longer_measurement_has_more_rounds_up_to_the_most(files, tmp_path: Path) -> None:
    found = Bench(tmp_path).measure(files, 30.0, most_rounds=5)
    assert len(found["float"].rounds_s) == 5


def test_several_threads_are_timed_by_the_clock_on_the_wall(files, tmp_path: Path) -> None:
    found = Bench(tmp_path, threads=2).measure({"float": files["float"]}, 0.0)
    result = found["float"]
    assert isinstance(result, Timed)
    assert result.best_s == pytest.approx(result.wall_s, rel=0.01)


def test_what_crashes_is_found_among_the_others(files, tmp_path: Path) -> None:
    bad = tmp_path / "bad.onnx"
    bad.write_bytes(b"no model at all")
    found = Bench(tmp_path / "jobs").measure({**files, "bad": (bad, files["float"][1])}, 0.0)
    assert isinstance(found["bad"], Failed)
    assert "bad.onnx" in found["bad"].reason or "Protobuf" in found["bad"].reason
    assert all(isinstance(found[name], Timed) for name in files)


def test_what_dies_without_a_word_is_told_by_its_code(files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    killer = tmp_path / "python"
    killer.write_text("#!/bin/sh\nkill -SEGV $$\n")
    killer.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(killer))
    found = Bench(tmp_path / "jobs").measure(files, 0.0)
    assert [result.reason for result in found.values()] == ["its process ended with -11"] * 2


def test_what_hangs_is_ended(files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sleeper = tmp_path / "python"
    sleeper.write_text("#!/bin/sh\nexec sleep 60\n")
    sleeper.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(sleeper))
    monkeypatch.setattr(timing, "_START_S", 0.3)
    found = Bench(tmp_path / "jobs").measure({"float": files["float"]}, 0.0)
    assert found["float"] == Failed("it took over 0 s")


def test_an_interrupt_leaves_no_child_behind(files, tmp_path: Path) -> None:
    def interrupt(rounds: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Bench(tmp_path).measure(files, 60.0, tell=interrupt)
    assert not list(tmp_path.rglob("ANSWER.json"))


def test_no_models_take_no_time(tmp_path: Path) -> None:
    assert Bench(tmp_path).measure({}, 60.0) == {}


def test_a_missing_runtime_is_answered_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(
        BadInput, match=r"needs the package 'onnxruntime'; install it with: pip install 'mpsearch\[onnx\]'"
    ):
        require_onnxruntime()


def test_inputs_are_kept_by_name(tmp_path: Path) -> None:
    path = save_inputs(tmp_path / "x.npz", {"a.b": np.arange(3)})
    with np.load(path) as given:
        assert given["a.b"].tolist() == [0, 1, 2]
