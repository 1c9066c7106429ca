"""Image classifiers by name: five trained on 8x8 digits in seconds, one on clothes, three with weights in files."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from mpsearch.zoo import digits, fashion
from mpsearch.zoo.cache import trained
from mpsearch.zoo.efficientnet import EfficientNetLite0
from mpsearch.zoo.files import data_file
from mpsearch.zoo.options import widened
from mpsearch.zoo.resnet import ResNet10, ResNet20
from mpsearch.zoo.rows import RowReader
from mpsearch.zoo.train import Recipe, fit_batches, jittered
from mpsearch.zoo.vit import ViT

Rows = tuple[Tensor, Tensor]
"""Images [n, channels, height, width] and their labels [n]."""


@dataclass(frozen=True)
class Entry:
    """`model()` gives the trained network in evaluation mode, `rows(split)` its data.

    `wide(width)` gives the network with `width` times as many channels, trained as well; None where it is to be had in
    one width only.
    """

    model: Callable[[], nn.Module]
    rows: Callable[[str], Rows]
    wide: Callable[[float], nn.Module] | None = None


def _perceptron(width: float = 1.0) -> nn.Module:
    """64-32-32-10, the hidden layers `width` times as wide."""
    n = widened(32, width)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, n), nn.ReLU(), nn.Linear(n, n), nn.ReLU(), nn.Linear(n, 10))


def _digits_rows(split: str) -> Rows:
    data = digits.images()
    return data.inputs[data.rows[split]], data.labels[data.rows[split]]


def _on_digits(name: str, build: Callable[..., nn.Module], recipe: Recipe, widens: bool = False) -> Entry:
    def fit(model: nn.Module) -> None:
        inputs, labels = _digits_rows("train")

        def sample(rows: Tensor) -> tuple[Tensor]:
            return (jittered(inputs[rows], recipe.jitter) if recipe.jitter else inputs[rows],)

        fit_batches(model, sample, labels, recipe)

    def model(*width: float) -> nn.Module:
        return trained(f"digits-{name}", lambda: build(*width), fit, recipe)

    return Entry(model, _digits_rows, model if widens else None)


_RESNET10 = "cnn/digits_resnet10/"


def _resnet10() -> nn.Module:
    return _with_weights(
        ResNet10(), data_file(_RESNET10 + "digits_resnet10.safetensors", "a ResNet on digits of 16x16 pixels")
    )


@cache
def _resnet10_rows(split: str) -> Rows:
    """Calibration takes 128 fixed training images, validation the 256 that the file calls calibration."""
    with np.load(data_file(_RESNET10 + "splits.npz", "digits of 16x16 pixels, normalised")) as file:
        part = {"calibration": "train", "validation": "calibration"}.get(split, split)
        inputs, labels = torch.from_numpy(file[f"{part}_x"]), torch.from_numpy(file[f"{part}_y"])
    if split == "calibration":
        rows = torch.from_numpy(np.random.default_rng(0).permutation(len(labels))[:128])
        inputs, labels = inputs[rows], labels[rows]
    return inputs, labels


_CIFAR = "cnn/cifar10/"
_MEAN, _STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])


def _resnet20() -> nn.Module:
    what = "akamaster's ResNet-20, tuned for 2 epochs on JPEG images"
    return _with_weights(ResNet20(), data_file(_CIFAR + "resnet20_jpegft.safetensors", what))


@cache
def _cifar_rows(split: str) -> Rows:
    """2,000 training images, the first 250 of them, the first 5,000 of the (shuffled) test images, the last 5,000."""
    name = "train" if split in ("train", "calibration") else "test"
    ends = {"train": (0, 2000), "calibration": (0, 250), "validation": (0, 5000), "test": (5000, 10000)}
    rows = slice(*ends[split])
    with np.load(data_file(f"{_CIFAR}cifar10_jpeg_{name}.npz", "CIFAR-10 as JPEG bytes, offsets and labels")) as file:
        content, offsets, labels = file["jpeg"].tobytes(), file["offsets"], file["labels"]
    chosen = range(len(labels))[rows]
    pixels = torch.stack([_decoded(content[offsets[i] : offsets[i + 1]]) for i in chosen])
    return pixels.sub_(_MEAN).div_(_STD).permute(0, 3, 1, 2).contiguous(), torch.from_numpy(labels[rows]).long()


_IMAGENET = {"calibration": slice(0, 50), "validation": slice(50, 500), "test": slice(500, 1000)}


def _efficientnet() -> nn.Module:
    path = "cnn/efficientnet_lite0/efficientnet_lite0.safetensors"
    return _with_weights(EfficientNetLite0(), data_file(path, "EfficientNet-Lite0 trained on ImageNet"))


@cache
def _imagenet_rows(split: str) -> Rows:
    """1,000 images, one of each class, in a fixed random order: 50 to calibrate, 450 to validate, 500 to test.

    There is no other sample: the splits are disjoint, but all three are small, and most images are probably of the
    training set, so that accuracy is well above that on the validation set of ImageNet.
    """
    path = data_file("cnn/imagenet_sample/imagenet_sample_224_q90.npz", "1,000 images of ImageNet, JPEG bytes")
    with np.load(path) as file:
        content, offsets, labels = file["jpeg"].tobytes(), file["offsets"], file["labels"]
    chosen = np.random.default_rng(0).permutation(len(labels))[_IMAGENET[split]]
    pixels = torch.stack([_decoded(content[offsets[i] : offsets[i + 1]]) for i in chosen])
    images = pixels.mul_(255).sub_(127).div_(128).permute(0, 3, 1, 2).contiguous()
    return images, torch.from_numpy(labels[chosen]).long()


def _decoded(jpeg: bytes) -> Tensor:
    """An image [height, width, 3] in [0, 1]."""
    from PIL import Image

    with Image.open(io.BytesIO(jpeg)) as image:
        return torch.from_numpy(np.array(image.convert("RGB"))).float().div_(255)


def _with_weights(model: nn.Module, path: Path) -> nn.Module:
    model.load_state_dict(load_file(path))
    return model.eval()


_READING = Recipe(epochs=60, learning_rate=0.01, batch_size=32, weight_decay=0.05, jitter=0.05)
CLASSIFIERS: dict[str, Entry] = {
    "mlp": _on_digits("mlp", _perceptron, Recipe(epochs=60, learning_rate=0.01, batch_size=32), widens=True),
    "cnn": _on_digits(
        "cnn", ResNet10, Recipe(epochs=20, learning_rate=0.01, batch_size=32, weight_decay=0.05), widens=True
    ),
    "vit": _on_digits(
        "vit",
        ViT,
        Recipe(epochs=60, learning_rate=0.005, batch_size=32, weight_decay=0.1, smoothing=0.1, jitter=0.08),
    ),
    "lstm": _on_digits("lstm", lambda: RowReader(nn.LSTM), _READING),
    "gru": _on_digits("gru", lambda: RowReader(nn.GRU), _READING),
    "fashion_lenet5": Entry(fashion.lenet5, fashion.rows, lambda width: fashion.lenet5(width=width)),
    "digits_resnet10": Entry(_resnet10, _resnet10_rows),
    "cifar_resnet20": Entry(_resnet20, _cifar_rows),
    "imagenet_efficientnet_lite0": Entry(_efficientnet, _imagenet_rows),
}
