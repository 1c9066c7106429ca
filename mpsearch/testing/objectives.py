"""The exam for objectives. A check takes what makes the objective anew and fails by AssertionError.

@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_mine(check):
    if reason := unavailable(MyObjective):
        pytest.skip(reason)
    check(MyObjective)
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from itertools import combinations, islice
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

from mpsearch.core.errors import BadInput
from mpsearch.problem.objective import Batch, Objective, Scores, Split

Make = Callable[[], Objective]
SPLITS: tuple[Split, ...] = ("calibration", "validation", "test")
SCORED = 2
"""Batches that are run through the model where a check needs outputs."""


def unavailable(make: Make) -> str | None:
    """Why the objective cannot be used here (data or packages that are missing), or None."""
    try:
        objective = make()
        objective.model()
        for split in SPLITS:
            next(iter(objective.batches(split)))
    except BadInput as missing:
        return str(missing)
    return None


def builds(make: Make) -> None:
    """The model is a module in evaluation mode, and the same one (by its weights) when made again."""
    first, second = make().model(), make().model()
    assert isinstance(first, nn.Module)
    assert not first.training, "model() must return it in evaluation mode"
    assert first is not second, "two objectives must not share one module"
    _same(first.state_dict(), second.state_dict(), "weights")
    assert all(bool(value.isfinite().all()) for value in first.state_dict().values())


def batches_repeat(make: Make) -> None:
    """Every split gives the same batches in the same order, of tensors only, with at least 2 samples each."""
    one, other = make(), make()
    for split in SPLITS:
        first, second, third = list(one.batches(split)), list(one.batches(split)), list(other.batches(split))
        assert first, f"{split} has no batches"
        assert len(first) == len(second) == len(third), f"{split}: the number of batches changes"
        for again in (second, third):
            for a, b in zip(first, again, strict=True):
                _same((a.args, dict(a.kwargs), a.target, a.n), (b.args, dict(b.kwargs), b.target, b.n), split)
        for batch in first:
            assert batch.n >= 2, f"{split}: a batch of {batch.n}"
            leaves = pytree.tree_leaves((batch.args, dict(batch.kwargs)))
            assert leaves, f"{split}: a batch without inputs"
            assert all(isinstance(leaf, Tensor | int | float | None) for leaf in leaves), (
                "inputs must be tensors, in nests"
            )


def splits_are_disjoint(make: Make) -> None:
    """No sample of one split stands in another."""
    found = {split: {key for batch in make().batches(split) for key in samples(batch)} for split in SPLITS}
    for one, other in combinations(SPLITS, 2):
        common = found[one] & found[other]
        assert not common, f"{one} and {other} share {len(common)} samples"


def scores_repeat(make: Make) -> None:
    """Two objectives made apart score the float model alike; a score is finite, a number or one per sample."""
    first, second = _scores(make()), _scores(make())
    assert first, "metric() measured nothing"
    _same(dict(first), dict(second), "scores")
    for name, score in first.items():
        assert not isinstance(score, Tensor) or score.ndim == 1, f"{name} must have one dimension, has {score.ndim}"
        assert math.isfinite(score.double().mean().item() if isinstance(score, Tensor) else score), (
            f"{name} is not finite"
        )


def scoring_leaves_weights(make: Make) -> None:
    """Neither making batches nor running the model nor scoring changes a weight or a buffer."""
    objective = make()
    model = objective.model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    _scores(objective, model)
    _same(before, model.state_dict(), "weights")


def loss_trains(make: Make) -> None:
    """The loss, if there is one, is a finite scalar whose gradient reaches the weights."""
    objective = make()
    model, batch = objective.model(), next(iter(objective.batches("calibration")))
    try:
        loss = objective.loss(model(*batch.args, **batch.kwargs), batch)
    except NotImplementedError:
        return
    assert loss.ndim == 0
    assert bool(loss.isfinite())
    loss.backward()
    assert any(p.grad is not None and bool(p.grad.any()) for p in model.parameters()), "no gradient reaches the weights"


def training_repeats(make: Make) -> None:
    """An epoch, if there is training data, is the same when asked for again, and has no validation or test sample."""
    one, other = make(), make()
    try:
        first, second = list(one.training_batches(0)), list(other.training_batches(0))
    except NotImplementedError:
        return
    assert first, "an epoch without batches"
    assert len(first) == len(second), "the number of batches changes"
    for a, b in zip(first, second, strict=True):
        _same((a.args, dict(a.kwargs), a.target, a.n), (b.args, dict(b.kwargs), b.target, b.n), "training_batches(0)")
    trained = {key for batch in first for key in samples(batch)}
    for split in SPLITS[1:]:
        common = trained & {key for batch in one.batches(split) for key in samples(batch)}
        assert not common, f"training and {split} share {len(common)} samples"


CHECKS: tuple[Callable[[Make], None], ...] = (
    builds,
    batches_repeat,
    splits_are_disjoint,
    scores_repeat,
    scoring_leaves_weights,
    loss_trains,
    training_repeats,
)


def samples(batch: Batch) -> Iterator[str]:
    """A digest per sample. Inputs whose first axis counts samples are digested row by row.

    Other inputs (a graph whose nodes are scored) are digested whole, together with each sample's target.
    """
    inputs = [leaf for leaf in pytree.tree_leaves((batch.args, dict(batch.kwargs))) if isinstance(leaf, Tensor)]
    if all(leaf.ndim and len(leaf) == batch.n for leaf in inputs):
        rows, common = inputs, []
    else:
        targets = [leaf for leaf in pytree.tree_leaves(batch.target) if isinstance(leaf, Tensor)]
        rows, common = [leaf for leaf in targets if leaf.ndim and len(leaf) == batch.n], inputs
    start = hashlib.sha256()
    for leaf in common:
        start.update(leaf.contiguous().numpy().tobytes())
    for row in range(batch.n):
        digest = start.copy()
        for leaf in rows:
            digest.update(leaf[row].contiguous().numpy().tobytes())
        yield digest.hexdigest()


def _scores(objective: Objective, model: nn.Module | None = None) -> Scores:
    """Of the first `SCORED` validation batches."""
    model = model or objective.model()
    batches = list(islice(objective.batches("validation"), SCORED))
    with torch.no_grad():
        outputs = [model(*batch.args, **batch.kwargs) for batch in batches]
    return objective.metric(outputs, [batch.target for batch in batches])


def _same(one: Any, other: Any, what: str) -> None:
    """Equal nests of equal leaves, bit for bit."""
    first, shape = pytree.tree_flatten(dict(one) if isinstance(one, dict) else one)
    second, other_shape = pytree.tree_flatten(dict(other) if isinstance(other, dict) else other)
    assert shape == other_shape, f"{what}: the structure changes"
    for a, b in zip(first, second, strict=True):
        same = torch.equal(a, b) if isinstance(a, Tensor) and isinstance(b, Tensor) else a == b
        assert same, f"{what}: a value changes between two calls"
