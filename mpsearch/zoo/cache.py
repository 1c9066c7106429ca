"""Weights that are trained once and kept: `MPSEARCH_CACHE`, else `~/.cache/mpsearch`.

The file name carries a digest of everything that decides the weights (recipe, layers, torch version), so a
change of any of them trains anew and an old file is never mistaken for a new one.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

_IN_MEMORY: dict[str, dict[str, Tensor]] = {}  # spares a second training where the folder cannot be written


def folder() -> Path:
    """Where the zoo keeps what it trained or downloaded. Not necessarily there, nor writable."""
    return Path(os.environ.get("MPSEARCH_CACHE") or Path.home() / ".cache" / "mpsearch")


def trained(
    name: str, build: Callable[[], nn.Module], fit: Callable[[nn.Module], None], recipe: object, seed: int = 0
) -> nn.Module:
    """A fresh model in evaluation mode with the weights that `fit` gives, trained now or read back.

    Args:
        name: first part of the file name.
        build: makes the untrained network.
        fit: trains it in place. Runs on one thread, torch's generator at `seed`; both restored afterwards.
        recipe: everything else that decides the weights; its `repr` goes into the file name.
        seed: of initialization and training.
    """
    with seeded(seed):
        model = build()
        facts = "\n".join((repr(recipe), str(model), str(seed), torch.__version__))
        file = f"{name}-{hashlib.sha256(facts.encode()).hexdigest()[:16]}.safetensors"
        path = folder() / "zoo" / file
        weights = _IN_MEMORY.get(str(path)) or _read(path)
        if weights is None or not _fits(model, weights):
            fit(model)
            weights = {key: value.detach().clone() for key, value in model.state_dict().items()}
            write_atomically(path, save(weights))
        _IN_MEMORY[str(path)] = weights
    model.load_state_dict(weights)
    return model.eval()


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """One thread and torch's generator at `seed`, so that training repeats on a machine of any size."""
    threads = torch.get_num_threads()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(threads)


def write_atomically(path: Path, content: bytes) -> bool:
    """Write a file that other processes see whole or not at all. False where the folder cannot be written."""
    part = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(content)
        part.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            part.unlink()
        return False
    return True


def _read(path: Path) -> dict[str, Tensor] | None:
    try:
        return load_file(path)
    except (OSError, SafetensorError):  # absent, unreadable or damaged: train again
        return None


def _fits(model: nn.Module, weights: dict[str, Tensor]) -> bool:
    return {k: v.shape for k, v in model.state_dict().items()} == {k: v.shape for k, v in weights.items()}
