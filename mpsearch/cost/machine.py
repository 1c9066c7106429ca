"""What this machine is, as far as the time of a kernel depends on it: read without loading anything heavy."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from pydantic import Field

from mpsearch.spec.card import Whole
from mpsearch.spec.schema import Part
from mpsearch.spec.texts import Text

PACKAGES = ("onnxruntime", "torch")
_FLAGS = (
    "avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_tile", "amx_int8", "amx_bf16",
    "asimd", "asimddp", "i8mm", "bf16", "sve",
)  # fmt: skip
"""Instructions that kernels are chosen by."""
_CPUINFO = Path("/proc/cpuinfo")
_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")


class Machine(Part):
    """A processor and the versions of what runs on it."""

    cpu: Text
    flags: tuple[Text, ...] = Field(description="Those of its instructions that kernels are chosen by.")
    l2_bytes: Whole | None = None
    l3_bytes: Whole | None = None
    packages: dict[Text, Text] = Field(description="Versions of onnxruntime and torch.")

    def differences(self, here: Machine) -> list[str]:
        """What is not as it is `here`, one phrase each: what was measured on, and what is found."""
        found = []
        if self.cpu != here.cpu:
            found.append(f"it was measured on {self.cpu}, this is {here.cpu}")
        for flag in sorted({*self.flags} ^ {*here.flags}):
            found.append(
                f"instructions {flag} were {'there and are not' if flag in self.flags else 'not there and are'}"
            )
        for level, held, holds in (("L2", self.l2_bytes, here.l2_bytes), ("L3", self.l3_bytes, here.l3_bytes)):
            if held != holds:
                found.append(f"the {level} cache held {_kib(held)} and holds {_kib(holds)}")
        for name in sorted({*self.packages} | {*here.packages}):
            mine, theirs = (one.get(name, "not installed") for one in (self.packages, here.packages))
            if mine != theirs:
                found.append(f"{name} was {mine} and is {theirs}")
        return found


def this_machine() -> Machine:
    """The machine that this process runs on."""
    name, flags = _processor()
    return Machine(
        cpu=name,
        flags=tuple(flag for flag in _FLAGS if flag in flags),
        l2_bytes=_cache_bytes(2),
        l3_bytes=_cache_bytes(3),
        packages={package: found for package in PACKAGES if (found := _version(package)) is not None},
    )


def _processor() -> tuple[str, frozenset[str]]:
    """Name and instructions of the first core."""
    try:
        lines = [line.partition(":") for line in _CPUINFO.read_text(encoding="utf-8").splitlines()]
    except OSError:
        lines = []
    facts: dict[str, str] = {}
    for key, _, value in lines:
        facts.setdefault(key.strip(), value.strip())
    name = facts.get("model name")
    if name:
        numbers = [facts[key] for key in ("cpu family", "model", "stepping") if key in facts]
        name += f" ({'/'.join(numbers)})" if numbers else ""  # virtual machines leave the name vague
    elif "CPU part" in facts:
        name = f"ARM {facts.get('CPU implementer', '?')} {facts['CPU part']}"
    flags = facts.get("flags") or facts.get("Features") or ""
    return name or platform.processor() or platform.machine() or "unknown", frozenset(flags.split())


def _cache_bytes(level: int) -> int | None:
    """Of the data cache of the first core."""
    for index in sorted(_CACHES.glob("index*")):
        try:
            is_wanted = int((index / "level").read_text()) == level
            if is_wanted and (index / "type").read_text().strip() != "Instruction":
                return int((index / "size").read_text().strip().removesuffix("K")) * 1024
        except (OSError, ValueError):
            continue
    return None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _kib(size: int | None) -> str:
    return "an unknown size" if size is None else f"{size // 1024} KiB"
