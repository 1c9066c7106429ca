"""Files of Fashion-MNIST: which are used, what becomes of their rows, and what is refused."""

import gzip
import struct

import numpy as np
import pytest
import torch

from mpsearch.core.errors import BadInput
from mpsearch.zoo.fashion import lenet5, rows

SPLITS = ("train", "validation", "test", "calibration")
read = rows.__wrapped__  # keeps nothing


@pytest.fixture
def files(tmp_path, monkeypatch):
    """`files(part, n)` writes n images that differ in their first two pixels, labels 0 to 9 in turn."""
    monkeypatch.setenv("MPSEARCH_DATA", str(tmp_path))
    monkeypatch.setenv("MPSEARCH_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "cnn/fashion_mnist"
    folder.mkdir(parents=True)

    def write(part, n, first=0):
        pixels = np.zeros((n, 28, 28), np.uint8)
        pixels[:, 0, 0], pixels[:, 0, 1] = np.divmod(first + np.arange(n), 256)
        content = struct.pack(">HBB3I", 0, 8, 3, n, 28, 28) + pixels.tobytes()
        (folder / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(content, 1))
        content = struct.pack(">HBBI", 0, 8, 1, n) + (np.arange(n) % 10).astype(np.uint8).tobytes()
        (folder / f"{part}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(content, 1))
        return folder

    return write


def numbers(images):
    """Of the images, as `files` counts them."""
    pixels = (images[:, 0, 0, :2] * 0.353 + 0.286) * 255
    return (pixels[:, 0] * 256 + pixels[:, 1]).round().long()


@pytest.mark.parametrize("whole", [False, True])
def test_training_images_are_used_where_they_are(files, whole):
    files("t10k", 4200)
    if whole:
        files("train", 5300, first=10_000)
    found = {split: numbers(read(split)[0]) for split in SPLITS}
    assert [len(found[s]) for s in SPLITS] == ([300, 5000, 4200, 256] if whole else [200, 1500, 2500, 200])
    apart = torch.cat([found[s] for s in SPLITS[:3]])
    assert len(apart.unique()) == len(apart)
    assert torch.isin(found["calibration"], found["train"]).all()
    assert ((found["test"] < 10_000).all() and (found["train"] >= 10_000).all()) or not whole
    for split in SPLITS:
        assert torch.equal(read(split)[1], found[split] % 10)


def test_missing_and_damaged_files_are_named(files):
    with pytest.raises(BadInput, match=r"t10k-images.* is missing .*Fashion-MNIST"):
        read("test")
    folder = files("t10k", 4200)
    labels = folder / "t10k-labels-idx1-ubyte.gz"
    for content in (b"", b"no gzip", labels.read_bytes()[:-9], gzip.compress(b"\0\0"), gzip.compress(bytes(99))):
        labels.write_bytes(content)
        with pytest.raises(BadInput, match=r"t10k-labels.*not a file of Fashion-MNIST"):
            read("test")


def test_the_network_is_of_lenets_size(maker):
    maker("fashion_lenet5")
    assert sum(p.numel() for p in lenet5().parameters()) == 61_706
