"""What people look at: plots, the report and MLflow. All of it follows from the ledger and can be made again."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from pathlib import Path

from mpsearch.core.errors import OutOfResources
from mpsearch.engine import plots, plots_costs, report
from mpsearch.engine.result import RunResult
from mpsearch.engine.tracking import Tracker
from mpsearch.spec.schema import Spec

log = logging.getLogger("mpsearch.run")


class Projections:
    """Follows one sitting of a run. Raises `OutOfResources` at once where required tracking does not answer."""

    def __init__(self, folder: Path, spec: Spec) -> None:
        self._tracker = Tracker(folder, spec, say=_say)

    def update(self, result: Callable[[], RunResult]) -> None:
        """After every evaluation; cheap, because `result` is asked for only now and then."""
        self._tracker.update(result)

    def finish(self, result: RunResult) -> None:
        """At the end of the sitting. Raises `OutOfResources` on a full disk, and where required tracking fails."""
        try:
            plots.write(result)
            plots_costs.write(result)
            report.write(result)
        except OSError as error:
            raise OutOfResources(
                f"{result.folder}: cannot write ({error.strerror}); make room, then resume."
            ) from error
        summary = self._tracker.finish(result)
        if summary is not None:
            log.info(summary.message)


def _say(message: str) -> None:
    log.warning(message)
    print(f"mpsearch: {message}", file=sys.stderr)
