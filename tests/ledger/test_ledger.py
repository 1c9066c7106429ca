"""The ledger: what is appended is read back; torn, tampered, shared and full files."""

import errno
import fcntl
import json
import os
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mpsearch.core.assignment import Assignment
from mpsearch.core.errors import BadInput, OutOfResources
from mpsearch.core.evaluation import Evaluation, Failure
from mpsearch.core.format import Format
from mpsearch.ledger import ledger as ledger_module
from mpsearch.ledger.ledger import Ledger, equal, read

SPEC = "ab" * 32
finite = st.floats(allow_nan=False, allow_infinity=False)
words = st.text(max_size=8)
measures = st.dictionaries(words, st.one_of(finite, st.integers(-(2**60), 2**60)), max_size=3)

evaluations = st.builds(
    Evaluation,
    st.dictionaries(words, st.sampled_from([2, 4, 8]).map(lambda b: Format("int", b)), max_size=3).map(Assignment),
    measures=measures,
    stderr=measures,
    split=st.sampled_from(["validation", "test"]),
    fidelity=st.sampled_from([0.25, 1.0]),
    n=st.integers(0, 10**6),
    variant=st.sampled_from(["base", "half"]),
    recipe=st.one_of(st.none(), words),
    asked_by=words,
    seconds=st.floats(0, 1e6),
    failure=st.one_of(st.none(), st.builds(Failure, st.sampled_from(["error", "nan"]), st.text(max_size=30))),
)
runs = st.lists(evaluations, max_size=6, unique_by=lambda e: e.identity)
on_files = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)


def example(bits, site="a", **more):
    return Evaluation(Assignment({site: Format("int", bits)}), measures={"accuracy": bits / 10}, **more)


def write(path, found, spec=SPEC, versions=None):
    path.unlink(missing_ok=True)
    with Ledger(path, spec, versions or {"numpy": "2"}) as ledger:
        for evaluation in found:
            ledger.append(evaluation)
    return path


@on_files
@given(runs)
def test_what_is_appended_is_read_back(tmp_path, found):
    path = write(tmp_path / "ledger.jsonl", found)
    assert read(path) == tuple(found)
    with Ledger(path, SPEC, {}) as ledger:
        assert ledger.evaluations == tuple(found)
        assert all(ledger.get(e.identity) == e for e in found)
        assert ledger.get(example(3, "other").identity) is None


@on_files
@given(runs, st.data())
def test_a_torn_last_line_is_cut_wherever_it_is_torn(tmp_path, found, data):
    path = write(tmp_path / "ledger.jsonl", found)
    content = path.read_bytes()
    cut = data.draw(st.integers(0, len(content)))
    path.write_bytes(content[:cut])
    whole = max(0, content[:cut].count(b"\n") - 1)
    assert read(path) == tuple(found[:whole])
    assert path.read_bytes() == content[:cut]  # a reader changes nothing
    with Ledger(path, SPEC, {"numpy": "2"}) as ledger:
        assert ledger.evaluations == tuple(found[:whole])
        for evaluation in found[whole:]:
            ledger.append(evaluation)
    assert equal(path, write(tmp_path / "whole.jsonl", found))


def test_lines_have_the_documented_fields(tmp_path):
    failed = Evaluation(Assignment({}), failure=Failure("error", "bang"), asked_by="random")
    path = write(tmp_path / "ledger.jsonl", [example(4, n=7, stderr={"accuracy": 0.1}), failed])
    header, first, second = map(json.loads, path.read_text().splitlines())
    assert header == {"schema": "mpsearch.ledger/1", "spec_sha256": SPEC, "versions": {"numpy": "2"}}
    assert list(first) == [
        *("seq", "key", "assignment", "variant", "recipe", "split", "fidelity", "n"),
        *("measures", "stderr", "failure", "asked_by", "seconds", "time", "crc32"),
    ]
    assert first["seq"] == 1
    assert first["assignment"] == {"a": "int4"}
    assert first["key"] == Assignment({"a": Format("int", 4)}).key
    assert second["failure"] == {"kind": "error", "message": "bang"}
    assert second["assignment"] == second["measures"] == {}
    text = path.read_bytes().splitlines()[1]
    body, _, _ = text.rpartition(b', "crc32"')
    assert zlib.crc32(body + b"}") == first["crc32"]


def spoil_value(text):
    return text.replace(b'"accuracy": 0.4', b'"accuracy": 0.9')


def forge_checksum(change):
    """Apply `change` to the record and give it a checksum that fits."""

    def spoil(text):
        record = json.loads(text)
        record.pop("crc32")
        change(record)
        return json.dumps(record | {"crc32": zlib.crc32(json.dumps(record).encode())}).encode()

    return spoil


SPOILS = {
    "value": (spoil_value, "checksum"),
    "not json": (lambda text: text[: len(text) // 2], "not JSON"),
    "not an object": (lambda text: b"[1, 2]", "not a JSON object"),
    "missing field": (lambda text: b'{"seq": 2}', "fields are seq"),
    "blank": (lambda text: b"", "not JSON"),
    "another order": (forge_checksum(lambda r: r.update(seq=7)), "seq is 7, expected 2"),
    "another assignment": (forge_checksum(lambda r: r.update(assignment={"a": "int2"})), "not the digest"),
    "malformed format": (forge_checksum(lambda r: r.update(assignment={"a": "4"})), "not of the form"),
}


@pytest.mark.parametrize("last", [False, True], ids=["earlier", "last"])
@pytest.mark.parametrize("name", SPOILS)
def test_a_bad_line_is_refused_with_its_number_and_the_file_untouched(tmp_path, name, last):
    spoil, reason = SPOILS[name]
    path = write(tmp_path / "ledger.jsonl", [example(2), example(4), *([] if last else [example(8)])])
    lines = path.read_bytes().split(b"\n")
    lines[2] = spoil(lines[2])
    path.write_bytes(b"\n".join(lines))
    before = path.read_bytes()
    for use in (lambda: Ledger(path, SPEC, {}), lambda: read(path)):
        with pytest.raises(BadInput, match="line 3") as error:
            use()
        assert reason in str(error.value)
        assert error.value.exit_code == 2
    assert path.read_bytes() == before


@pytest.mark.parametrize("header", [b"{}", b"nonsense", b'{"schema": "mpsearch.ledger/9", "spec_sha256": "x"}'])
def test_a_bad_header_is_line_1(tmp_path, header):
    path = tmp_path / "ledger.jsonl"
    path.write_bytes(header + b"\n")
    with pytest.raises(BadInput, match="line 1"):
        Ledger(path, SPEC, {})
    assert path.read_bytes() == header + b"\n"


def test_a_removed_line_is_noticed(tmp_path):
    path = write(tmp_path / "ledger.jsonl", [example(2), example(4), example(8)])
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:2] + lines[3:]))
    with pytest.raises(BadInput, match="line 3: seq is 3, expected 2"):
        read(path)


def test_the_ledger_of_another_spec_is_refused(tmp_path):
    path = write(tmp_path / "ledger.jsonl", [example(2)])
    before = path.read_bytes()
    with pytest.raises(BadInput, match=r"spec\.yaml was changed"):
        Ledger(path, "cd" * 32, {})
    assert path.read_bytes() == before
    Ledger(path, SPEC, {}).close()  # and it was unlocked again


def test_equal_ignores_only_what_may_differ(tmp_path):
    one = write(tmp_path / "one", [example(2, seconds=1.0), example(4)])
    same = write(tmp_path / "same", [example(2, seconds=2.0), example(4)], versions={"numpy": "3"})
    assert equal(one, same)
    others = {
        "order": [example(4), example(2)],
        "shorter": [example(2)],
        "measure": [example(2), Evaluation(example(4).assignment, measures={"accuracy": 0.41})],
        "asked_by": [example(2), example(4, asked_by="random")],
    }
    for name, found in others.items():
        assert not equal(one, write(tmp_path / name, found)), name
    assert not equal(one, write(tmp_path / "spec", [example(2), example(4)], spec="cd" * 32))


def test_an_identity_is_recorded_once(tmp_path):
    with Ledger(tmp_path / "ledger.jsonl", SPEC, {}) as ledger:
        ledger.append(example(2))
        ledger.append(example(2, split="test"))
        with pytest.raises(ValueError, match="already"):
            ledger.append(example(2))
        with pytest.raises(ValueError, match="JSON"):
            ledger.append(Evaluation(Assignment({}), measures={"accuracy": float("nan")}))
    assert len(read(tmp_path / "ledger.jsonl")) == 2


def test_a_second_writer_is_refused_while_the_first_lives(tmp_path):
    path = tmp_path / "ledger.jsonl"
    code = (
        f"import sys, pathlib; from mpsearch.ledger.ledger import Ledger; "
        f"ledger = Ledger(pathlib.Path({str(path)!r}), {SPEC!r}, {{}}); print('open', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "open\n"
        with pytest.raises(BadInput, match="another process is writing"):
            Ledger(path, SPEC, {})
        assert read(path) == ()  # readers may look
        other.kill()
    Ledger(path, SPEC, {}).close()  # the kernel freed the lock


def test_a_file_system_without_locks_is_a_matter_of_resources(tmp_path, monkeypatch):
    def refuse(fd, how):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(OutOfResources, match="cannot lock"):
        Ledger(tmp_path / "ledger.jsonl", SPEC, {})


class FullDisk:
    """Stands in for `os` in the ledger: takes `room` more bytes, then says that the disk is full."""

    def __init__(self, room):
        self.room = room

    def __getattr__(self, name):
        return getattr(os, name)

    def write(self, fd, text):
        if self.room == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = os.write(fd, bytes(text)[: self.room])
        self.room -= written
        return written


@pytest.mark.parametrize("room", [0, 1, 50, 150])
def test_a_full_disk_loses_nothing_and_the_run_goes_on_when_there_is_room(tmp_path, monkeypatch, room):
    path = write(tmp_path / "ledger.jsonl", [example(2)])
    before = path.read_bytes()
    with Ledger(path, SPEC, {}) as ledger:
        with monkeypatch.context() as patch:
            patch.setattr(ledger_module, "os", FullDisk(room))
            with pytest.raises(OutOfResources, match="No space left") as error:
                ledger.append(example(4))
        assert error.value.exit_code == 5
        assert path.read_bytes() == before
        ledger.append(example(4))
    assert read(path) == (example(2), example(4))


def test_a_disk_that_fails_to_sync_is_reported(tmp_path, monkeypatch):
    def fail(fd):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    path = write(tmp_path / "ledger.jsonl", [example(2)])
    with Ledger(path, SPEC, {}) as ledger, monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(OutOfResources, match="Input/output"):
            ledger.append(example(4))
    assert read(path) == (example(2),)


def test_a_real_file_size_limit(tmp_path):
    """The kernel refuses bytes beyond RLIMIT_FSIZE as a full disk does: after it took a part of the line."""
    path = tmp_path / "ledger.jsonl"
    code = f"""
import pathlib, resource, signal, sys
sys.path[:0] = {sys.path!r}
from test_ledger import SPEC, example
from mpsearch.core.errors import OutOfResources
from mpsearch.ledger.ledger import Ledger
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))
with Ledger(pathlib.Path({str(path)!r}), SPEC, {{}}) as ledger:
    try:
        for i in range(100):
            ledger.append(example(2, f"site{{i}}"))
    except OutOfResources as error:
        print(len(ledger), error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parent
    )
    count = int(done.stdout.split()[0])
    assert "File too large" in done.stdout
    assert 5 < count < 100
    assert path.read_bytes().endswith(b"\n")
    assert len(read(path)) == count


def test_folders_that_cannot_be_written(tmp_path):
    with pytest.raises(OutOfResources, match="cannot open"):
        Ledger(tmp_path / "missing" / "ledger.jsonl", SPEC, {})
    with pytest.raises(BadInput, match="cannot read"):
        read(tmp_path / "missing.jsonl")
