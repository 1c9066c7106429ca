"""Every driver that comes with the project sits the exam; Optuna with each of its samplers."""

from mpsearch.drivers.optuna import SAMPLERS
from mpsearch.spec import registry
from mpsearch.testing.drivers import DriverExam


class TestRandom(DriverExam):
    driver = "random"
    complete = True


class TestExhaustive(DriverExam):
    driver = "exhaustive"
    complete = True


class TestAbs(DriverExam):
    driver = "abs"
    complete = True


class TestAlq(DriverExam):
    driver = "alq"
    options = {"epochs": 4, "averages": [8, 6, 4, 3, 2.5]}
    toy = {"scheme": "multibit"}
    exhausts = True
    trains = True


class TestDropBits(DriverExam):
    driver = "dropbits"
    options = {"epochs": 4, "most": 10.0, "trainings": 8}
    exhausts = True
    goals = (2, 3)
    trains = True


class TestFrontier(DriverExam):
    driver = "frontier"
    complete = True


class TestFrontierInBatches(DriverExam):
    driver = "frontier"
    options = {"batch": 7, "explore": 0.5}


class TestNsga2(DriverExam):
    driver = "optuna"


class TestNsga3(DriverExam):
    driver = "optuna"
    options = {"sampler": "nsga3"}


class TestTpe(DriverExam):
    driver = "optuna"
    options = {"sampler": "tpe"}


class TestTpeInBatches(DriverExam):
    driver = "optuna"
    options = {"sampler": "tpe", "batch": 7}


class TestGp(DriverExam):
    driver = "optuna"
    options = {"sampler": "gp"}
    budget = 12  # it thinks for half a second before each answer


class TestQmc(DriverExam):
    driver = "optuna"
    options = {"sampler": "qmc"}


class TestOptunaRandom(DriverExam):
    driver = "optuna"
    options = {"sampler": "random", "batch": 3}


class TestHessian(DriverExam):
    driver = "hessian"
    exhausts = True
    goals = (2, 3)


class TestFisher(DriverExam):
    driver = "fisher"
    options = {"weighting": "diag"}
    exhausts = True
    goals = (2, 3)


class TestSensitivity(DriverExam):
    driver = "sensitivity"
    exhausts = True
    goals = (2, 3)


class TestSensitivityGreedy(DriverExam):
    driver = "sensitivity"
    options = {"path": "greedy"}
    exhausts = True


class TestOmpq(DriverExam):
    driver = "ompq"
    exhausts = True
    goals = (2, 3)


class TestOmpqAsPublished(DriverExam):
    driver = "ompq"
    options = {"version": "published"}
    exhausts = True
    goals = (2, 3)


def test_everything_registered_sat_the_exam():
    sat = {(exam.driver, exam.options.get("sampler")) for exam in DriverExam.__subclasses__()}
    assert {driver for driver, _ in sat} >= set(registry.BUILT_IN["drivers"])
    assert {sampler for _, sampler in sat} >= set(SAMPLERS) - {"nsga2"}  # nsga2 is the default
