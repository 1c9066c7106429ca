"""Who is beaten: by several members and limits, in several goals; and what is said of who was."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from mpsearch.core.assignment import Assignment
from mpsearch.core.evaluation import Evaluation
from mpsearch.core.goal import Goal
from mpsearch.engine.judge import Judge, Known, losses, strongest

ERROR, LOSS = Goal("error"), Goal("loss")
ACCURACY = Goal("accuracy", maximise=True)
N, BATCH = 600, 60


def judge_of(goals, claims, usual, alpha=0.05):
    return Judge(goals, claims, usual, dict.fromkeys(usual, 0.3), alpha)


def is_beaten(judge, scores):
    """Looked at after each batch but the last."""
    return any(judge.beats({g: x[:n] for g, x in scores.items()}) for n in range(BATCH, N, BATCH))


def test_a_member_of_the_front_is_seldom_beaten_by_any_of_many():
    """It is as good as each of eight members in one of two goals, and just meets the limit: all claims hold, barely."""
    rng = np.random.default_rng(0)
    beaten, tries = 0, 200
    for _ in range(tries):
        hard = rng.random(N) ** 3
        error = (rng.random(N) < hard).astype(float)
        loss = hard * rng.lognormal(0, 0.5, N)
        claims = [{"error": error.mean() - 0.01 * k, "loss": loss.mean()} for k in range(4)]
        claims += [{"error": error.mean(), "loss": loss.mean() - 0.01 * k} for k in range(4)]
        claims += [{"error": error.mean()}]
        order = rng.permutation(N)
        usual = {"error": hard[order], "loss": hard[order]}
        beaten += is_beaten(judge_of([ERROR, LOSS], claims, usual), {"error": error[order], "loss": loss[order]})
    assert beaten <= binom.ppf(0.999, tries, 0.05)


@pytest.mark.parametrize(
    ("claims", "expected"),
    [
        ([{"error": 0.2, "loss": 0.2}], True),
        ([{"error": 0.2, "loss": 0.5}], False),
        ([{"error": 0.2, "loss": 0.5}, {"error": 0.2, "loss": 0.2}], True),
        ([{"error": 0.2, "loss": 0.5}, {"error": 0.2}], True),
        ([{"error": 0.6}], False),
        ([{}], True),
        ([], False),
    ],
    ids=["both", "one of two", "any member", "limit", "limit met", "exact goals alone", "nothing to race against"],
)
def test_who_is_beaten(claims, expected):
    rng = np.random.default_rng(1)
    scores = {name: (rng.random(N) < 0.4).astype(float) for name in ("error", "loss")}
    usual = {name: np.full(N, 0.3) for name in scores}
    assert is_beaten(judge_of([ERROR, LOSS], claims, usual), scores) is expected


@pytest.mark.parametrize("bad", [np.nan, -0.5])
def test_scores_that_are_no_losses_are_never_beaten(bad):
    scores = {"error": np.ones(N)}
    scores["error"][3] = bad
    assert not is_beaten(judge_of([ERROR], [{"error": 0.1}], {"error": np.full(N, 0.2)}), scores)


means = st.integers(0, 4).map(float)
claim = st.dictionaries(st.sampled_from(["a", "b", "c"]), means)


@given(claims=st.lists(claim, max_size=8), found=st.fixed_dictionaries({"a": means, "b": means, "c": means}))
def test_the_strongest_claims_say_what_all_say(claims, found):
    def met(some):
        return all(any(found[name] < mean for name, mean in c.items()) for c in some)

    few = strongest(claims)
    assert met(few) == met(claims)
    assert len({tuple(sorted(c.items())) for c in few}) == len(few) <= len(claims)


def evaluation(seen, mean):
    return Evaluation(Assignment(), {"accuracy": mean, "bytes": 7.0}, {"accuracy": 0.1}, fidelity=seen / N, n=seen)


def test_an_estimate_does_not_depend_on_how_hard_the_batches_seen_are():
    rng = np.random.default_rng(2)
    hard = np.sort(rng.random(N))
    scores = 1 - (rng.random(N) < hard)
    estimates = []
    for begin in range(0, N, BATCH):
        order = np.roll(np.arange(N), -begin)
        judge = judge_of([ACCURACY], [], {"accuracy": hard[order]})
        seen = scores[order][:BATCH].astype(float)
        done = judge.estimated(evaluation(BATCH, seen.mean()), {"accuracy": seen})
        estimates.append(done.measures["accuracy"])
        assert done.measures["bytes"] == 7.0
        spread = (seen + hard[order][:BATCH]).std() / BATCH**0.5
        assert done.stderr["accuracy"] == pytest.approx(spread * (1 - BATCH / N) ** 0.5)
    assert np.mean(estimates) == pytest.approx(scores.mean())
    assert np.std(estimates) < 0.5 * np.std(scores.reshape(-1, BATCH).mean(axis=1))


def test_who_is_beaten_measures_worse():
    rng = np.random.default_rng(3)
    beaten = 0
    for _ in range(100):
        hard = rng.random(N) ** 2
        scores = (rng.random(N) > np.minimum(1, hard + 0.05)).astype(float)
        judge = judge_of([ACCURACY], [{"accuracy": hard.mean()}], {"accuracy": hard})
        for n in range(BATCH, N, BATCH):
            now = {"accuracy": scores[:n]}
            if judge.beats(now):
                beaten += 1
                done = judge.estimated(evaluation(n, scores[:n].mean()), now)
                assert losses(ACCURACY, np.array(done.measures["accuracy"])) > hard.mean()
                break
    assert beaten > 50


def test_what_is_known_are_means_over_all():
    rng = np.random.default_rng(4)
    rows = rng.random((5, N))
    known = Known()
    for i, row in enumerate(rows):
        known.add(str(i), row)
    assert known.usual == pytest.approx(rows.mean(axis=0))
    assert known.deviation == pytest.approx((rows - rows.mean(axis=0)).std())
    assert known.means == {str(i): pytest.approx(row.mean()) for i, row in enumerate(rows)}
