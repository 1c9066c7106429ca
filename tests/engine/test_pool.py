"""Workers: the ledger of a run without them, whatever becomes of them."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from toy_runs import QUIET

from mpsearch.core.assignment import Assignment
from mpsearch.core.errors import BadInput
from mpsearch.engine import pool as pool_module
from mpsearch.engine.folder import Folder
from mpsearch.engine.pool import PoolOptions, RayPool, connected
from mpsearch.engine.run import run
from mpsearch.ledger.ledger import equal, read
from mpsearch.spec.schema import Spec
from mpsearch.testing.toy import Toy, toy_spec

TWO = PoolOptions(2)
LIMIT_S = 3.0


@pytest.fixture(scope="module", autouse=True)
def one_ray() -> Iterator[None]:
    """Started once for all tests of this file."""
    joined, started = connected(PoolOptions(4))
    joined.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    assert started
    yield
    joined.shutdown()


def toy_with(watch: Callable[[Assignment, str], None]) -> Callable[[Spec, Path | None], Toy]:
    return lambda spec, weights: Toy(**spec.objective.options, watch=watch)


def build_toy(spec: Spec, weights: Path | None) -> Toy:
    return Toy(**spec.objective.options)


@pytest.fixture(scope="module")
def serial(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("serial") / "run"
    run(toy_spec("random", budget=40), folder, build=build_toy, **QUIET)
    return folder


def test_the_ledger_is_that_of_one_process_though_workers_are_killed(tmp_path: Path, serial: Path) -> None:
    flags = tmp_path / "flags"
    flags.mkdir()
    here = os.getpid()

    def watch(assignment: Assignment, split: str) -> None:
        """Kills its worker at every thirteenth assignment, but each only once."""
        time.sleep(0.002 * (int(assignment.key, 16) % 5))
        flag = flags / f"{assignment.key}-{split}"
        if int(assignment.key, 16) % 13 == 0 and os.getpid() != here and not flag.exists():
            flag.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    folder = tmp_path / "run"
    run(toy_spec("random", budget=40), folder, build=toy_with(watch), pool=TWO, **QUIET)
    assert len(list(flags.iterdir())) >= 2
    assert equal(folder / "ledger.jsonl", serial / "ledger.jsonl")


def test_what_kills_or_hangs_every_worker_is_a_recorded_failure(tmp_path: Path, serial: Path) -> None:
    asked = [e for e in read(serial / "ledger.jsonl") if e.asked_by == "random" and e.split == "validation"]
    deadly, endless, here = asked[3].key, asked[20].key, os.getpid()

    def watch(assignment: Assignment, split: str) -> None:
        if os.getpid() != here and assignment.key == deadly:
            os._exit(1)
        if os.getpid() != here and assignment.key == endless:
            time.sleep(10 * LIMIT_S)

    folder = tmp_path / "run"
    options = PoolOptions(2, timeout_s=LIMIT_S / 8, retries=1)  # eight are given at once
    result = run(toy_spec("random", budget=40), folder, build=toy_with(watch), pool=options, **QUIET)
    failed = {e.key: e.failure for e in result.evaluations if e.failure is not None}
    assert set(failed) == {deadly, endless}
    assert failed[endless].kind == "timeout"
    assert "lost 2 times" in failed[deadly].message
    assert [e.key for e in result.evaluations] == [
        e.key for e in read(serial / "ledger.jsonl") if e.split == "validation"
    ]


def test_a_worker_that_cannot_build_the_model_ends_the_run_before_the_search(tmp_path: Path) -> None:
    def missing(spec: Spec, weights: Path | None) -> Toy:
        if os.getpid() != here:
            raise BadInput("no data: set MPSEARCH_DATA.")
        return build_toy(spec, weights)

    def other(spec: Spec, weights: Path | None) -> Toy:
        toy = build_toy(spec, weights)
        if os.getpid() != here:
            toy.fingerprint = "another"
        return toy

    here = os.getpid()
    for build, said in ((missing, "cannot build the model: no data"), (other, "has other float weights than the run")):
        folder = tmp_path / said[:5]
        with pytest.raises(BadInput, match=rf"pool: the worker on .* {said}"):
            run(toy_spec("random", budget=40), folder, build=build, pool=PoolOptions(1), **QUIET)
        assert not (folder / "ledger.jsonl").exists()


def test_workers_serve_every_variant(tmp_path: Path) -> None:
    spec = toy_spec("random", budget=30, variants={"option": "layers", "values": [4, 3]})
    for name, pool in {"serial": None, "pool": PoolOptions(2)}.items():
        run(spec, tmp_path / name, build=build_toy, pool=pool, **QUIET)
    assert equal(tmp_path / "serial" / "ledger.jsonl", tmp_path / "pool" / "ledger.jsonl")


def test_answers_to_a_question_that_was_given_up_are_dropped(tmp_path: Path) -> None:
    spec = toy_spec("random")
    toy = build_toy(spec, None)
    workers = RayPool(TWO, spec, {"base": toy}, Folder(tmp_path), build_toy)
    try:
        assignments = [toy.space.decode([i, j, 0, 0]) for i in range(3) for j in range(3)]
        first = workers.evaluate(assignments)
        assert next(first).assignment == assignments[0]
        first.close()  # type: ignore[attr-defined]
        back = list(workers.evaluate(assignments[::-1], "test"))
        assert [e.assignment for e in back] == assignments[::-1]
        assert {e.split for e in back} == {"test"}
        assert workers.forwards >= 9
    finally:
        workers.close()
    assert connected(TWO)[1] is False, "it ends Ray only where it started it"


def test_a_cluster_needs_a_token(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pool_module.Path, "home", lambda: tmp_path)
    with pytest.raises(BadInput, match=r"no token for the cluster at 10\.0\.0\.1:6379; set RAY_AUTH_TOKEN"):
        connected(PoolOptions(1, address="10.0.0.1:6379"))


def test_racing_is_refused(tmp_path: Path) -> None:
    spec = toy_spec("random", budget=10, toy={"batches": 4}, racing={"enabled": True})
    with pytest.raises(BadInput, match="racing compares one evaluation after another"):
        run(spec, tmp_path / "run", build=build_toy, pool=TWO, **QUIET)
