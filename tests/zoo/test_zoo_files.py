"""Data files: found, fetched or asked for. The network is a file:// address here."""

import codecs
import hashlib
import pickle
import struct

import numpy as np
import pytest
import scipy.sparse

from mpsearch.core.errors import BadInput
from mpsearch.zoo import planetoid
from mpsearch.zoo.files import data_file
from mpsearch.zoo.llama import read_llama2c
from mpsearch.zoo.stories import Tokenizer


@pytest.fixture
def world(tmp_path, monkeypatch):
    monkeypatch.setenv("MPSEARCH_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("MPSEARCH_CACHE", str(tmp_path / "cache"))
    return tmp_path


def source(world, content=b"content"):
    (world / "source").write_bytes(content)
    return (world / "source").as_uri(), hashlib.sha256(b"content").hexdigest()


def test_a_file_under_the_data_folder_is_used_as_it_is(world):
    (world / "data/a").mkdir(parents=True)
    (world / "data/a/b").write_bytes(b"mine")
    assert data_file("a/b", "a thing", *source(world)).read_bytes() == b"mine"


def test_a_missing_file_is_fetched_once(world):
    url, sha256 = source(world)
    first = data_file("a/b", "a thing", url, sha256)
    assert first.read_bytes() == b"content"
    (world / "source").unlink()
    assert data_file("a/b", "a thing", url, sha256) == first


def test_a_download_that_is_not_the_expected_file_is_refused(world):
    with pytest.raises(BadInput, match=r"(?s)'a/b'.*sha256 differs.*put it at .*data/a/b"):
        data_file("a/b", "a thing", *source(world, b"other"))
    assert not (world / "cache/data/a/b").exists()


def test_the_error_says_what_to_fetch_and_where_to_put_it(world, monkeypatch):
    with pytest.raises(BadInput, match=r"a/b.*a thing.*looked at .*data/a/b.*put it at"):
        data_file("a/b", "a thing")
    with pytest.raises(BadInput, match=r"failed.*Fetch it from file:"):
        data_file("a/b", "a thing", (world / "nothing").as_uri(), "0")
    monkeypatch.delenv("MPSEARCH_DATA")
    with pytest.raises(BadInput, match=r"MPSEARCH_DATA is not set.*\$MPSEARCH_DATA/a/b"):
        data_file("a/b", "a thing")


def test_a_file_that_cannot_be_kept_is_an_error(world, monkeypatch):
    (world / "cache").write_text("in the way")
    with pytest.raises(BadInput, match="could not be written"):
        data_file("a/b", "a thing", *source(world))


class Evil:
    def __reduce__(self):
        return (print, ("code ran",))


def test_a_pickle_that_would_run_code_is_refused(tmp_path, capsys):
    (tmp_path / "evil").write_bytes(pickle.dumps(Evil(), protocol=2))
    with pytest.raises(BadInput, match="print"):
        planetoid.unpickle(tmp_path / "evil")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("content", [b"", b"not a pickle", b"\x80\x02]"])
def test_what_is_no_pickle_is_bad_input(tmp_path, content):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(BadInput, match="not a raw Planetoid file"):
        planetoid.unpickle(tmp_path / "file")


def test_arrays_and_sparse_matrices_are_read_under_their_old_names(tmp_path, monkeypatch):
    monkeypatch.setitem(planetoid._ALLOWED, ("_codecs", "encode"), codecs.encode)  # how Python 3 writes bytes
    for value in (np.arange(3.0), scipy.sparse.csr_matrix(np.diag([1.0, 2.0]))):
        content = pickle.dumps(value, protocol=2)
        for new, old in ((b"numpy._core", b"numpy.core"), (b"scipy.sparse._csr", b"scipy.sparse.csr")):
            content = content.replace(new, old)
        (tmp_path / "file").write_bytes(content)
        assert np.array_equal(planetoid.unpickle(tmp_path / "file").sum(0), value.sum(0))


@pytest.mark.parametrize("content", [b"", struct.pack("<7i", 8, 8, 1, 2, 1, 4, 4), struct.pack("<7i", *[0] * 7)])
def test_what_is_no_llama2c_file_is_bad_input(tmp_path, content):
    (tmp_path / "model.bin").write_bytes(content)
    with pytest.raises(BadInput, match=r"not a llama2\.c model"):
        read_llama2c(tmp_path / "model.bin")


def test_a_cut_tokenizer_is_bad_input(tmp_path):
    (tmp_path / "tok.bin").write_bytes(struct.pack("<ifi", 5, 0.0, 1) + b"a" + b"\x00")
    with pytest.raises(BadInput, match="inside a token"):
        Tokenizer(tmp_path / "tok.bin")
