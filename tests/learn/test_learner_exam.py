"""Every learner sits the exam."""

from __future__ import annotations

import pytest

from mpsearch.testing.learners import LearnerExam


@pytest.mark.parametrize(("method", "options"), [("lsq", {}), ("ste", {})])
@pytest.mark.parametrize("formats", [("int2", "int4"), ("multibit2", "fp32")])
class TestUniform(LearnerExam):
    pass


@pytest.mark.parametrize(("method", "options"), [("rq", {}), ("srq", {}), ("sq", {})])
@pytest.mark.parametrize("formats", [("int1", "int4")])
class TestRelaxed(LearnerExam):
    pass
