"""Binary bases in training against brute force, least squares and the differences of the model they descend."""

from __future__ import annotations

import pytest

from mpsearch.testing.learners import LearnerExam


@pytest.mark.parametrize(("method", "options"), [("alq", {"rate": 0.02})])
@pytest.mark.parametrize("formats", [("multibit1.5:g4", "int4"), ("multibit2", "fp32")])
class TestBinary(LearnerExam):
    pass
