"""Batches whose sequences differ in length: every value can be quantized all the same."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from parts import Data, make_problem, make_spec
from torch import Tensor, nn

from mpsearch.core.assignment import Assignment
from mpsearch.core.format import Format
from mpsearch.graph.export import ExportError
from mpsearch.graph.joined import joined
from mpsearch.problem import graphed
from mpsearch.problem.objective import Batch


class Reader(nn.Module):
    """Scores a sequence of tokens by attention among them."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 8)
        self.qkv = nn.Linear(8, 24)
        self.head = nn.Linear(8, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        q, k, v = self.qkv(x).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4)
        heads = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.head(torch.relu(x + heads.transpose(1, 2).flatten(2)).mean(dim=1))


def batch(seed: int, length: int) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(11, (5, length), generator=generator)
    return Batch((tokens,), torch.randint(3, (5,), generator=generator), 5)


LENGTHS = (4, 9, 6)
SPLITS = ("calibration", "validation", "test")
DATA: Data = {split: [batch(10 * i + n, n) for n in LENGTHS] for i, split in enumerate(SPLITS)}


def rules(fmt: str) -> list[dict[str, Any]]:
    """`fmt` for all values, floats for weights."""
    floats = {"match": {"role": ["weight", "embedding"]}, "formats": ["fp32"]}
    return [floats, {"match": "*", "formats": [fmt, "fp32"]}]


@pytest.mark.parametrize("by_hooks", [False, True], ids=["graph", "hooks"])
@pytest.mark.parametrize("fmt", ["int4", "esb4", "mx4", "rowscale1"])
def test_values_of_any_length_are_quantized(fmt: str, by_hooks: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise ExportError("Reader cannot be exported: this is a test.")

    if by_hooks:
        monkeypatch.setattr(graphed, "export", refuse)
    torch.manual_seed(0)
    problem = make_problem(Reader().eval(), DATA, make_spec(sites=rules(fmt)))
    values = [site.name for site in problem.sites if not site.role.is_parameter]
    assert len(values) > (1 if by_hooks else 4)
    (found,) = problem.evaluate([Assignment(dict.fromkeys(values, Format.parse(fmt)))])
    assert found.failure is None


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(1, 4)), min_size=1, max_size=3), st.sampled_from([1, 2, -1]))
def test_joining_keeps_the_numbers_of_each_channel(sizes: list[tuple[int, int]], axis: int) -> None:
    parts = [torch.rand(rows, 2, length).movedim(1, axis) for rows, length in sizes]
    whole = joined(parts, axis)
    assert whole.ndim == 3
    for channel in range(2):
        every = torch.cat([part.select(axis, channel).flatten() for part in parts])
        assert torch.equal(whole.select(axis, channel).flatten().sort().values, every.sort().values)
    assert joined(parts[:1], axis) is parts[0]


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(1, 4)), min_size=2, max_size=3))
def test_joining_what_has_no_channels_in_common_keeps_all_numbers(sizes: list[tuple[int, int]]) -> None:
    parts = [torch.rand(rows, length, length) for rows, length in sizes]
    every = torch.cat([part.flatten() for part in parts])
    assert torch.equal(joined(parts, 2).flatten().sort().values, every.sort().values)
