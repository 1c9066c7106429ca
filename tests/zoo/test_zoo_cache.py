"""Weights trained once: kept, repeated, and never needed to be kept."""

import threading

import pytest
import torch
from torch import nn

from mpsearch.zoo import cache


@pytest.fixture
def calls(tmp_path, monkeypatch):
    monkeypatch.setenv("MPSEARCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "_IN_MEMORY", {})
    return []


def get(calls, recipe="a", width=3, seed=0):
    def fit(model):
        calls.append(recipe)
        with torch.no_grad():
            model.weight.add_(torch.rand_like(model.weight))

    return cache.trained("net", lambda: nn.Linear(width, 2), fit, recipe, seed)


def files(tmp_path):
    return sorted((tmp_path / "cache" / "zoo").iterdir())


def test_trains_once_and_reads_back_the_same(calls, tmp_path):
    first = get(calls)
    cache._IN_MEMORY.clear()
    second = get(calls)
    assert calls == ["a"]
    assert first is not second
    assert torch.equal(first.weight, second.weight)
    assert not first.training
    assert [file.suffix for file in files(tmp_path)] == [".safetensors"]


@pytest.mark.parametrize("change", [{"recipe": "b"}, {"width": 4}, {"seed": 1}])
def test_another_recipe_network_or_seed_is_another_file(calls, tmp_path, change):
    get(calls)
    get(calls, **change)
    assert len(calls) == len(files(tmp_path)) == 2


def test_training_again_gives_the_same_weights_and_leaves_torch_as_it_was(calls, tmp_path):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    threads = torch.get_num_threads()
    first = get(calls)
    assert torch.equal(torch.rand(3), expected)
    assert torch.get_num_threads() == threads
    files(tmp_path)[0].unlink()
    cache._IN_MEMORY.clear()
    assert torch.equal(get(calls).weight, first.weight)
    assert calls == ["a", "a"]


@pytest.mark.parametrize("damage", [b"", b"not safetensors", None])
def test_a_damaged_file_is_trained_anew_and_replaced(calls, tmp_path, damage):
    first = get(calls)
    (file,) = files(tmp_path)
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2] if damage is None else damage)
    cache._IN_MEMORY.clear()
    assert torch.equal(get(calls).weight, first.weight)
    assert file.read_bytes() == whole


def test_works_where_the_folder_cannot_be_made(calls, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("MPSEARCH_CACHE", str(tmp_path / "file" / "cache"))
    assert torch.equal(get(calls).weight, get(calls).weight)
    assert calls == ["a"], "one training a process is enough"


def test_writers_at_the_same_time_leave_one_whole_file(tmp_path):
    target, content = tmp_path / "deep" / "file", b"x" * 1_000_000
    threads = [threading.Thread(target=cache.write_atomically, args=(target, content)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert target.read_bytes() == content
    assert [path.name for path in target.parent.iterdir()] == ["file"]
