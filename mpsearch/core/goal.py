"""A goal: a measure to maximise or minimise, with an optional limit. The only sign flip in the house."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from mpsearch.core.errors import BadInput

_LIMIT = re.compile(
    r"\s*(?P<sense><=|>=)\s*(?:(?P<number>[-+]?\d[\d_.]*(?:e[-+]?\d+)?)|baseline(?:\s*(?P<op>[-+*])\s*(?P<by>\d[\d_.]*(?:e[-+]?\d+)?))?)\s*"
)
_LOG_SCALE = ("_bytes", "_s", "_j", "_bits", "bops", "bops_baskin")


@dataclass(frozen=True)
class Limit:
    """`(<= | >=) number` or `(<= | >=) baseline (+ | - | *) number`; baseline is the float model's measure."""

    sense: str
    number: float
    op: str | None = None

    @classmethod
    def parse(cls, text: str) -> Limit:
        """Raises `BadInput` on any other text."""
        match = _LIMIT.fullmatch(str(text))
        try:
            if match is None:
                raise ValueError
            if match["number"] is not None:
                return cls(match["sense"], float(match["number"]))
            return cls(match["sense"], float(match["by"] or 0.0), match["op"] or "+")
        except ValueError:
            allowed = "'<= 200000', '>= 0.9', '>= baseline - 0.01', '<= baseline * 0.125'"
            raise BadInput(f"limit {text!r} is not understood; write for example {allowed}.") from None

    def bound(self, baseline: float) -> float:
        """The number to compare with, given the float model's measure."""
        if self.op is None:
            return self.number
        return (
            baseline * self.number if self.op == "*" else baseline + (self.number if self.op == "+" else -self.number)
        )

    def excess(self, value: float, baseline: float) -> float:
        """How far `value` is on the wrong side, in the measure's unit; 0 where the limit holds, met up to rounding."""
        bound = self.bound(baseline)
        over = value - bound if self.sense == "<=" else bound - value
        return over if over > 1e-12 * max(1.0, abs(bound)) else 0.0

    def __str__(self) -> str:
        number = repr(self.number).removesuffix(".0")
        return f"{self.sense} {number}" if self.op is None else f"{self.sense} baseline {self.op} {number}"


@dataclass(frozen=True)
class Goal:
    """One axis of the front.

    Args:
        name: of a measure, for example `accuracy`, `memory_bytes` or `latency_s@nvidia-t4`.
        maximise: whether more is better.
        limit: members of the front must meet it.
    """

    name: str
    maximise: bool = False
    limit: Limit | None = None

    def loss(self, measures: Mapping[str, float]) -> float:
        """The number to minimise. Raises `ValueError` where the measure is missing, NaN or infinite."""
        value = measures.get(self.name, math.nan)
        if not math.isfinite(value):
            raise ValueError(f"goal {self.name!r} needs a finite number, got {value!r}.")
        return -value if self.maximise else value

    def excess(self, measures: Mapping[str, float], baseline: Mapping[str, float]) -> float:
        """How far the limit is missed, in the measure's unit; 0 where it holds or there is none."""
        if self.limit is None:
            return 0.0
        return self.limit.excess(measures[self.name], baseline.get(self.name, math.nan))

    @property
    def on_log_scale(self) -> bool:
        """Bytes, seconds, joules and bits are compared by ratio, everything else by difference."""
        return not self.maximise and self.name.partition("@")[0].endswith(_LOG_SCALE)
