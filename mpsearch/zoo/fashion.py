"""Fashion-MNIST (Xiao et al., arXiv 1708.07747): 28x28 grey images of clothes; a network of LeNet-5's size."""

from __future__ import annotations

import gzip
import struct
import zlib
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from mpsearch.core.errors import BadInput
from mpsearch.zoo.cache import trained
from mpsearch.zoo.files import data_file
from mpsearch.zoo.options import widened
from mpsearch.zoo.train import Recipe, fit_batches, jittered

_FOLDER = "cnn/fashion_mnist/"
_SIZE = 28
_MEAN, _STD = 0.286, 0.353
_CALIBRATION, _VALIDATION, _TEST, _HELD_OUT = 256, 1500, 2500, 5000
_RECIPE = Recipe(epochs=15, learning_rate=0.004, batch_size=64, weight_decay=0.05, smoothing=0.1, jitter=0.05)
_OF_ALL = replace(_RECIPE, epochs=4)


def lenet5(seed: int = 0, width: float = 1.0) -> nn.Module:
    """6 and 16 filters of 5x5, three linear layers, ReLU and largest of 2x2; 61,706 parameters. Trained on first use.

    Args:
        seed: of initialization and training.
        width: how many times as many filters and hidden features, rounded up.
    """
    images, labels = rows("train")
    recipe = _RECIPE if len(labels) < 10_000 else _OF_ALL

    def fit(model: nn.Module) -> None:
        fit_batches(model, lambda chosen: (jittered(images[chosen], recipe.jitter),), labels, recipe)

    return trained("fashion-lenet5", lambda: _untrained(width), fit, (recipe, len(labels)), seed)


def _untrained(width: float = 1.0) -> nn.Module:
    first, second, third, fourth = (widened(channels, width) for channels in (6, 16, 120, 84))
    stages = (nn.Conv2d(1, first, 5, padding=2), nn.Conv2d(first, second, 5))
    layers: list[nn.Module] = [part for conv in stages for part in (conv, nn.ReLU(), nn.MaxPool2d(2))]
    head = nn.Linear(25 * second, third), nn.ReLU(), nn.Linear(third, fourth), nn.ReLU(), nn.Linear(fourth, 10)
    return nn.Sequential(*layers, nn.Flatten(), *head)


@cache
def rows(split: str) -> tuple[Tensor, Tensor]:
    """Images [n, 1, 28, 28], mean 0 and deviation 1 over all, and labels [n], of a split.

    Where the files of the 60,000 training images are there, 55,000 of them train and 5,000 validate, and the 10,000
    test images test; else these, in a fixed random order, are split: 6,000 train, 1,500 validate, 2,500 test.
    Calibration takes the first 256 that train. Raises `BadInput` on missing and on damaged files.
    """
    whole = _are_there("train")
    pixels, labels = _read("train" if whole and split != "test" else "t10k")
    validation, test = (_HELD_OUT, 0) if whole else (_VALIDATION, _TEST)
    n, train = len(labels), len(labels) - validation - test
    ends = {
        "train": (0, train),
        "calibration": (0, min(_CALIBRATION, train)),
        "validation": (train, train + validation),
        "test": (0 if whole else n - test, n),
    }
    chosen = np.random.default_rng(0).permutation(n)[slice(*ends[split])]
    images = torch.from_numpy(pixels[chosen]).float().div_(255).sub_(_MEAN).div_(_STD)
    return images[:, None].contiguous(), torch.from_numpy(labels[chosen]).long()


def _are_there(part: str) -> bool:
    try:
        _path(f"{part}-images-idx3-ubyte.gz")
    except BadInput:
        return False
    return True


def _read(part: str) -> tuple[np.ndarray, np.ndarray]:
    """Pixels uint8 [n, 28, 28] and labels uint8 [n]."""
    pixels = _content(f"{part}-images-idx3-ubyte.gz", 3).reshape(-1, _SIZE, _SIZE)
    return pixels, _content(f"{part}-labels-idx1-ubyte.gz", 1)


def _path(name: str) -> Path:
    return data_file(_FOLDER + name, "Fashion-MNIST, github.com/zalandoresearch/fashion-mnist")


def _content(name: str, axes: int) -> np.ndarray:
    """Bytes of a file in the format of MNIST: two zero bytes, type 8, the number of axes; sizes; the bytes."""
    path = _path(name)
    try:
        content = gzip.decompress(path.read_bytes())
        *start, found = struct.unpack_from(">HBB", content)
        sizes = struct.unpack_from(f">{axes}I", content, 4)
    except (OSError, EOFError, zlib.error, struct.error) as error:
        raise BadInput(f"{path}: not a file of Fashion-MNIST ({error}); fetch it again.") from error
    pixels = np.frombuffer(content, np.uint8, offset=4 + 4 * axes)
    if (start, found) != ([0, 8], axes) or len(pixels) != np.prod(sizes) or sizes[1:] not in ((), (_SIZE, _SIZE)):
        raise BadInput(f"{path}: not a file of Fashion-MNIST (of {axes} axes); fetch it again.")
    return pixels
