"""What the probe of a model tells about features and relative errors."""

from __future__ import annotations

from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from parts import Net, images, make_problem, make_spec, splits
from torch.nn import functional as F

from mpsearch.drivers.ompq import Ompq
from mpsearch.graph.features import Features, Rows
from mpsearch.problem.model import ModelProblem

ALL: dict[Rows, int] = {"sample": 1000, "token": 1000, "node": 1000}


@cache
def problem() -> ModelProblem:
    return make_problem(Net(), splits(images, 4, 3), make_spec(("int2", "int4", "fp32")))


def looked(limits: dict[Rows, int] = ALL) -> Features:
    sites = [site for choice in problem().space.choices for site in choice.sites]
    return problem().probe().features(sites, limits, 0, None)


def test_features_come_from_all_of_the_calibration_split_alone() -> None:
    (block,) = looked().blocks
    x = torch.cat([batch.args[0] for batch in problem().objective.batches("calibration")])
    assert len(x) == 7
    np.testing.assert_array_equal(block.matrices["first:in"], x.flatten(1))
    with torch.no_grad():
        np.testing.assert_allclose(block.matrices["first.weight"], F.relu(Net().first(x)).flatten(1), atol=1e-5)


def test_one_batch_is_enough_for_few_samples() -> None:
    (block,) = looked({"sample": 3, "token": 3, "node": 3}).blocks
    first = next(iter(problem().objective.batches("calibration"))).args[0].flatten(1)
    seen = torch.from_numpy(block.matrices["first:in"])
    assert len(seen) == 3
    assert all(any(torch.equal(row, other) for other in first) for row in seen)


def test_looking_changes_no_evaluation() -> None:
    assignment = problem().space.decode([0] * len(problem().space.choices))
    before = next(problem().evaluate([assignment])).measures
    looked()
    assert next(problem().evaluate([assignment])).measures == before


def test_relative_errors() -> None:
    probe = problem().probe()
    squared, relative = probe.squared_errors(), probe.relative_errors()
    weight = Net().first.weight.detach().double()
    np.testing.assert_allclose(relative["first.weight"], squared["first.weight"] / weight.square().sum().item())
    x = torch.cat([batch.args[0] for batch in problem().objective.batches("calibration")]).double()
    np.testing.assert_allclose(relative["first:in"], squared["first:in"] / x.square().sum().item(), rtol=1e-6)
    for errors in relative.values():
        assert 1 > errors[0] > errors[1] > errors[2] == 0


@pytest.mark.parametrize("version", ["ours", "published"])
def test_ompq_on_a_model(version: str) -> None:
    session: Any = SimpleNamespace(problem=problem(), space=problem().space, seed=0)
    driver = Ompq(version)
    found = driver.importance(session)
    assert all(value > 0 for value in found.values())
    assert np.mean(list(found.values())) == pytest.approx(1, abs=0.2)
    assert {"first.weight", "head.weight"} <= found.keys() == driver.harm(session).keys()
    assert driver.importance(session) == found
