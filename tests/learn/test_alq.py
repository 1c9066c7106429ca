"""Adaptive loss-aware quantization: the exam, the target that pruning reaches, and what the weights take in the end."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from mpsearch.core.errors import BadInput
from mpsearch.core.format import FP32, Format
from mpsearch.core.site import Role, Site
from mpsearch.learn.alq import Alq
from mpsearch.learn.phases import BASIS, COORDINATE, FLOAT, PRUNE, schedule
from mpsearch.problem.finetune import restored
from mpsearch.quant.bank import Bank
from mpsearch.quant.bases import BasesGrid, stored_bits
from mpsearch.spec.schema import Recipe
from mpsearch.testing.learners import LearnerExam, assigned, problem


@pytest.mark.parametrize(("method", "options"), [("alq", {"rate": 0.02})])
@pytest.mark.parametrize("formats", [("multibit1.5:g4", "int4")])
class TestBinary(LearnerExam):
    pass


def test_epochs_are_shared_out_as_published() -> None:
    phases = [phase for phase, _ in schedule(194)]
    assert phases == 4 * (20 * [BASIS] + 10 * [COORDINATE] + [PRUNE]) + 50 * [FLOAT] + 20 * [COORDINATE]
    rates = [rate for _, rate in schedule(194)]
    assert rates[:4] == pytest.approx([1, 0.8, 0.64, 0.512])
    assert rates[31] == 1, "a round starts anew"
    assert rates[124:127] == pytest.approx([1, 0.95, 0.95**2])


@given(st.integers(1, 300), st.integers(1, 6))
def test_every_schedule_prunes(epochs: int, rounds: int) -> None:
    phases = [phase for phase, _ in schedule(epochs, rounds)]
    assert len(phases) == epochs
    assert 1 <= phases.count(PRUNE) <= rounds
    assert epochs < 2 or phases[-1] != PRUNE


SITES = [Site("a", Role.WEIGHT, (8, 24)), Site("b", Role.WEIGHT, (4, 50))]


def placed(formats: tuple[str, str], **options: float) -> tuple[Alq, dict[int, Tensor]]:
    learner = Alq(**options)  # type: ignore[arg-type]
    weights = {i: torch.randn(s.shape, generator=torch.Generator().manual_seed(i)) for i, s in enumerate(SITES)}
    learner.place(SITES, [Format.parse(text) for text in formats], weights)
    learner.fit(lambda look: None)
    return learner, weights


def train(learner: Alq, weights: dict[int, Tensor], epochs: int, steps: int = 6) -> list[tuple[str, float]]:
    """Toward other weights; the phase and the average bits after each step."""
    seen = []
    wanted = [torch.randn(s.shape, generator=torch.Generator().manual_seed(9)) for s in SITES]
    for epoch in range(epochs):
        learner.advance(epoch, epochs)
        learner.training = True
        for _ in range(steps):
            sum((learner(i, weights[i]) - w).square().sum() for i, w in enumerate(wanted)).backward()  # type: ignore[union-attr]
            learner.stepped()
            held = sum(learner._layers[i].holds[0] for i in range(len(SITES)))
            seen.append((schedule(epochs)[epoch][0], held / sum(w.numel() for w in wanted)))
        learner.training = False
        learner.fit(lambda look: None)
    return seen


def test_width_falls_with_every_step_of_pruning_and_only_then() -> None:
    learner, weights = placed(("multibit0.8:g4", "multibit1.2:g5"))
    seen = train(learner, weights, 10)
    assert [phase for phase, _ in seen].count(PRUNE) == 2 * 6
    for (_, before), (phase, after) in pairwise(seen):
        assert after < before if phase == PRUNE else after == before
    assert seen[-1][1] <= (0.8 * 8 * 24 + 1.2 * 4 * 50) / (8 * 24 + 4 * 50)
    assert learner.settled


@pytest.mark.parametrize("formats", [("multibit0.8:g4", "multibit2:g16:a16"), ("multibit1.5:a16", "multibit0.3:g20")])
def test_finished_weights_are_stored_in_no_more_than_their_format(formats: tuple[str, str]) -> None:
    learner, weights = placed(formats)
    originals = {i: w.clone() for i, w in weights.items()}
    train(learner, weights, 5)
    for i, site in enumerate(SITES):
        grid, fmt = learner.grid(i), Format.parse(formats[i])
        assert isinstance(grid, BasesGrid)
        assert torch.equal(learner(i, weights[i]), weights[i])
        assert torch.equal(grid.round_trip(weights[i]), weights[i])
        stored = grid.pack(weights[i])
        assert torch.equal(grid.unpack(stored, site.shape), weights[i])
        bits = 8 * sum(t.numel() * t.element_size() for t in stored.values())
        planned = Bank(lambda _, i=i: originals[i], 0).grid(site, fmt)
        assert bits == grid.nbits(site.shape) <= planned.nbits(site.shape)
        sizes = grid.groups.sizes().tolist()
        by_formula = stored_bits(grid.counts.tolist(), sizes, grid.coordinate_bits, grid.most)
        assert 0 <= bits - by_formula < 2 * 8, "but for bytes filled up"
        assert grid.code_bits(site.shape) <= fmt.bits * weights[i].numel()


def test_bases_alone_are_trained_and_not_by_the_optimizer() -> None:
    """At a rate of nothing the weights stay on the grid that was fitted, whatever the optimizer does to the rest."""
    of, assignment = problem("multibit2", "fp32"), assigned("multibit2", "fp32")
    hard = {"optimizer": "adamw", "weight_decay": 0.5, "learning_rate": 0.1}
    trained = of.finetune(assignment, Recipe(epochs=3, method="alq", options={"rate": 1e-12}, **hard), 0)
    learner = restored(of.trainer, trained)
    assert isinstance(learner, Alq)
    for i, site in enumerate(of.trainer.program.sites):
        if not site.role.is_parameter:
            continue
        name, grid = site.name, learner.grid(i)
        assert isinstance(grid, BasesGrid)
        was = of.trainer.program.tensors[name]
        plain = Bank(lambda _, was=was: was, 0).grid(site, Format.parse("multibit2")).round_trip(was)
        torch.testing.assert_close(trained.tensors[name], plain, rtol=1e-4, atol=1e-5)
        assert torch.equal(grid.round_trip(trained.tensors[name]), trained.tensors[name])


def test_a_layer_that_nothing_reads_is_pruned_too() -> None:
    learner, weights = placed(("multibit0.8:g4", "multibit1.2:g5"))
    learner.advance(0, 1)
    learner.training = True
    learner(0, weights[0]).square().sum().backward()
    learner.stepped()
    learner.training = False
    learner.fit(lambda look: None)
    assert learner.settled


def test_what_has_no_bases_is_left_to_lsq() -> None:
    learner = Alq()
    weights = {0: torch.randn(8, 24), 1: torch.randn(4, 50)}
    learner.place(SITES, [Format.parse("int4"), FP32], weights)
    learner.fit(lambda look: None)
    assert len(learner.parameters()) == 1
    assert learner.grid(1) is None
    assert torch.equal(learner(1, weights[1]), weights[1])


@pytest.mark.parametrize("options", [{"rate": 0.0}, {"rounds": 0}, {"merged": 0.0}, {"merged": 2.0}, {"average": 0.0}])
def test_options_that_make_no_sense_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(BadInput, match=f"{next(iter(options))}={next(iter(options.values()))}"):
        Alq(**options)  # type: ignore[arg-type]
