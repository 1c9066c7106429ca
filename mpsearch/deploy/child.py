"""A child process that times ONNX models: `python -m mpsearch.deploy.child FOLDER`.

It reads JOB.json in the folder, prints the number of rounds done, and writes ANSWER.json once, at the end. Started by
`mpsearch.deploy.timing`: a kernel that crashes ends this process and nobody else's. It imports no torch, so that it is
ready in half a second.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

_SLOT_S = 0.02
"""How long a model runs in a round at least; shorter ones run several times."""


def main(folder: Path) -> None:
    """Run every model in turn, round after round."""
    job = json.loads((folder / "JOB.json").read_text())
    deadline = time.perf_counter() + job["seconds"]
    sessions = _sessions(folder, job)
    clock = time.thread_time if job["threads"] == 1 else time.perf_counter
    repeats = []
    for session, feed in sessions:
        session.run(None, feed)
        began = clock()
        session.run(None, feed)
        took = clock() - began
        repeats.append(max(1, min(50, round(_SLOT_S / took))))
    times: list[list[float]] = [[] for _ in sessions]
    walls: list[list[float]] = [[] for _ in sessions]
    rounds = 0
    while rounds < job["least_rounds"] or (rounds < job["most_rounds"] and time.perf_counter() < deadline):
        rounds += 1
        for number, (session, feed) in enumerate(sessions):
            if repeats[number] > 1:
                session.run(None, feed)  # its weights are in the caches again, which matters to a short run
            best = best_wall = float("inf")
            for _ in range(repeats[number]):
                began, wall = clock(), time.perf_counter()
                session.run(None, feed)
                best = min(best, clock() - began)
                best_wall = min(best_wall, time.perf_counter() - wall)
            times[number].append(best)
            walls[number].append(best_wall)
        print(rounds, flush=True)
    (folder / "ANSWER.json").write_text(json.dumps({"times_s": times, "walls_s": walls}))


def _sessions(folder: Path, job: dict[str, Any]) -> list[tuple[Any, dict[str, Any]]]:
    import numpy as np
    import onnxruntime

    # one arena for all sessions: as many as there are would not fit into memory
    arena, kind = onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, onnxruntime.OrtMemType.DEFAULT
    onnxruntime.create_and_register_allocator(onnxruntime.OrtMemoryInfo("Cpu", arena, 0, kind), None)
    feeds: dict[str, dict[str, Any]] = {}
    sessions = []
    for number, model in enumerate(job["models"]):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = job["threads"]
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        options.optimized_model_filepath = str(folder / f"{number}.optimised.onnx")
        options.add_session_config_entry("session.use_env_allocators", "1")
        session = onnxruntime.InferenceSession(
            model["path"], options, ["CPUExecutionProvider"], disabled_optimizers=job["disabled_optimizers"]
        )
        if model["inputs"] not in feeds:
            with np.load(model["inputs"]) as given:
                feeds[model["inputs"]] = {name: given[name] for name in given.files}
        sessions.append((session, feeds[model["inputs"]]))
    return sessions


if __name__ == "__main__":
    main(Path(sys.argv[1]))
