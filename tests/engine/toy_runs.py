"""What the tests of the engine share: runs on the toy problem, and toys that go wrong."""

from dataclasses import replace

from mpsearch.core.evaluation import Failure
from mpsearch.engine.run import run
from mpsearch.testing.toy import Toy, toy_spec

QUIET = {"show_progress": False, "bare": True}


def build_with(**options):
    """A `build` whose toy also takes what YAML cannot hold."""
    return lambda spec, weights: Toy(**spec.objective.options, **options)


build = build_with()


class Changed(Toy):
    """A toy whose evaluations pass through `change`."""

    def __init__(self, change, **options):
        super().__init__(**options)
        self._change = change

    def evaluate(self, assignments, split="validation"):
        return map(self._change, super().evaluate(assignments, split))


def run_changed(change, folder, **spec):
    return run(toy_spec(**spec), folder, build=lambda spec, weights: Changed(change), **QUIET)


def failing(done):
    return replace(done, measures={}, failure=Failure("error", "no luck")) if done.assignment else done


def replace_fields(spec, **fields):
    return type(spec).model_validate(spec.model_dump(by_alias=True) | fields)


def with_goals(goals):
    return replace_fields(toy_spec("exhaustive", budget=82), goals=goals)
