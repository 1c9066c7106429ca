"""A profile as the card of an accelerator: one YAML file that goals can name."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mpsearch.cost.accelerators.load import load_accelerator
from mpsearch.deploy.features import INTEGER_RESULTS
from mpsearch.deploy.profile import Profile
from mpsearch.spec.source import dump


def write_card(profile: Profile, path: Path) -> None:
    """Write the card of `profile` to `path`, in one step: who interrupts it finds a whole card or none."""
    with TemporaryDirectory(dir=path.parent, prefix=f".{path.stem}-") as folder:
        beside = Path(folder) / path.name
        beside.write_text(card_text(profile, path.stem), encoding="utf-8")
        load_accelerator(beside)
        beside.replace(path)


def card_text(profile: Profile, name: str) -> str:
    """The card as YAML."""
    data = _card(profile, name)
    table = data.pop("table")
    head = dump({**data, "table": {**table, "rows": []}})
    rows = "".join(f"  - {row}\n" for row in _rows(profile))
    return f"# Measured by mpsearch profile. Do not edit: measure again.\n{head.replace('  rows: []', '  rows:')}{rows}"


def _card(profile: Profile, name: str) -> dict[str, Any]:
    times, features, made = profile.times, profile.features, profile.machine
    runtime = f"onnxruntime {made.packages.get('onnxruntime', '')}".strip()
    source = f"Measured with {runtime} on {made.cpu}, {_threads(profile)}, batch of {features.workload.samples}."
    conversions: dict[str, dict[str, float]] = {"quantize_s": {}, "dequantize_s": {}}
    for (what, kind), each_s in zip(features.conversions, times.switch_s, strict=True):
        if each_s:
            conversions[f"{what}_s"][kind] = _number(each_s)
    calibration: dict[str, Any] = {"intercept_s": _number(times.fixed_s), "slope": 1.0}
    if profile.is_good:
        calibration |= {"n_anchors": 2, "heldout_mape": _number(profile.quality.mape)}
    return {
        "schema": "mpsearch.accelerator/1",
        "name": name,
        "kind": "lut_table",
        "status": "calibrated" if profile.is_good else "analytic",
        "note": _note(profile),
        "src": {
            "table": f"{source} Fitted to {profile.runs} whole models, a third of the mixed ones held out.",
            "measurement": source,
            "machine": "As the operating system names it.",
            "calibration": "What the table leaves over of whole models; error on held-out ones.",
        },
        "measurement": {
            "workload_sha256": features.workload.digest,
            "samples": features.workload.samples,
            "threads": profile.threads,
            "load_average": round(max(profile.loads), 2),
            "runs": profile.runs,
        },
        "machine": made.model_dump(mode="json", exclude_none=True),
        "calibration": calibration,
        "table": {
            "integer_results": [str(kind) for kind in INTEGER_RESULTS],
            "conversions": {key: rows for key, rows in conversions.items() if rows},
        },
    }


def _rows(profile: Profile) -> Iterator[str]:
    times, features = profile.times, profile.features
    for name, wide_s, narrow_s in zip(features.names, times.wide_s, times.narrow_s, strict=True):
        yield _row(name, "fp32", wide_s)
        if name in features.capable:
            yield _row(name, "int8", narrow_s)


def _row(name: str, width: str, seconds: float) -> str:
    return f"{{operation: {json.dumps(name)}, w: {width}, a: {width}, seconds: {_number(seconds)}}}"


def _note(profile: Profile) -> str:
    good, samples = profile.quality, profile.features.workload.samples
    verdict = "" if profile.is_good else " Too much for a calibrated card: measure again on an idle machine."
    return (
        f"A batch of {samples} takes {profile.float_s * 1e3:.4g} ms in float and {profile.integer_s * 1e3:.4g} ms in "
        f"8 bits. Integers of 2 to 7 bits run as int8. {good.n} mixed models that were held out and differ from all "
        f"others in at least {profile.apart} layers: mean error {good.mape:.1%}, largest {good.worst:.1%}, bias "
        f"{good.bias:+.1%}, rank correlation {good.spearman:.3f}.{verdict}"
    )


def _threads(profile: Profile) -> str:
    return "one thread" if profile.threads == 1 else f"{profile.threads} threads"


def _number(value: float) -> float:
    """Six digits: a measurement has no more."""
    return float(f"{value:.6g}")
