"""Every learner sits the exam."""

from __future__ import annotations

import pytest

from mpsearch.testing.learners import LearnerExam


@pytest.mark.parametrize(("method", "options"), [("lsq", {}), ("ste", {})])
@pytest.mark.parametrize("formats", [("int2", "int4"), ("multibit2", "fp32")])
class TestUniform(LearnerExam):
    pass


@pytest.mark.parametrize(
    ("method", "options", "formats"),
    [
        ("gates", {"penalty": 3.0, "gate_rate": 50.0}, ("int4", "int4")),
        ("gates", {"nesting": "range", "cost": "bops"}, ("int8", "int3")),
    ],
)
class TestGates(LearnerExam):
    beside = ("int2", "int3")


@pytest.mark.parametrize(
    ("method", "options"), [("rq", {"noise": 0.1, "last_temperature": 0.05}), ("srq", {}), ("sq", {})]
)
@pytest.mark.parametrize("formats", [("int1", "int4")])
class TestRelaxed(LearnerExam):
    pass


@pytest.mark.parametrize(("method", "options"), [("prune", {})])
@pytest.mark.parametrize("formats", [("pruned4:s70", "int4")])
class TestPruned(LearnerExam):
    pass


@pytest.mark.parametrize(("method", "options"), [("pq", {})])
@pytest.mark.parametrize("formats", [("pq0.75:d4", "int4")])
class TestProduct(LearnerExam):
    pass
