"""Every learner sits the exam."""

from __future__ import annotations

import pytest

from mpsearch.testing.learners import LearnerExam


@pytest.mark.parametrize(("method", "options"), [("lsq", {}), ("ste", {})])
@pytest.mark.parametrize("formats", [("int2", "int4"), ("multibit2", "fp32")])
class TestUniform(LearnerExam):
    pass


@pytest.mark.parametrize(("method", "options"), [("gates", {"penalty": 0.3}), ("gates", {"nesting": "range"})])
@pytest.mark.parametrize("formats", [("int4", "int4"), ("int8", "int3")])
class TestGates(LearnerExam):
    beside = ("int2", "int3")
