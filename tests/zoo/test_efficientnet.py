"""EfficientNet-Lite0: its size, its padding, and what of it can be quantized."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from mpsearch.core.site import Role
from mpsearch.graph.export import Example, export
from mpsearch.graph.fold import fold_batch_norm
from mpsearch.graph.measure import measure
from mpsearch.graph.sites import discover
from mpsearch.zoo.efficientnet import EfficientNetLite0, InvertedResidual, SameConv2d


@pytest.fixture(scope="module")
def network():
    """With random weights."""
    torch.manual_seed(0)
    return EfficientNetLite0().eval()


@settings(max_examples=30, deadline=None)
@given(st.sampled_from([(3, 1), (3, 2), (5, 1), (5, 2), (1, 1)]), st.integers(3, 12), st.integers(3, 12))
def test_padding_is_that_of_tensorflow(sizes, half_height, half_width):
    """In all max((ceil(n / s) - 1) * s + k - n, 0), the odd one after: tf.nn, "Notes on padding"."""
    (kernel, stride), (height, width) = sizes, (2 * half_height, 2 * half_width)
    x, layer = torch.randn(1, 2, height, width), SameConv2d(2, 3, kernel, stride)
    totals = [max((-(-n // stride) - 1) * stride + kernel - n, 0) for n in (width, height)]
    padded = F.pad(x, [edge for total in totals for edge in (total // 2, total - total // 2)])
    expected = F.conv2d(padded, layer.weight, stride=stride)
    assert expected.shape[2:] == (-(-height // stride), -(-width // stride))
    torch.testing.assert_close(layer(x), expected)


def test_size_is_the_published_one(network):
    """4.65 million parameters, as tf_efficientnet_lite0 in timm's table of results on ImageNet."""
    assert round(sum(p.numel() for p in network.parameters()) / 1e6, 2) == 4.65
    assert network(torch.zeros(2, 3, 64, 32)).shape == (2, 1000)


def test_it_has_fifty_layers(network):
    """16 blocks of three, the first without expansion; stem, head, classifier."""
    kinds = torch.nn.Conv2d | torch.nn.Linear
    assert sum(isinstance(module, kinds) for module in network.modules()) == 50
    assert [i for i, block in enumerate(network._blocks) if block.skips] == [2, 4, 6, 7, 9, 10, 12, 13, 14]


def test_every_layer_and_shortcut_of_a_block_is_a_site():
    blocks = torch.nn.Sequential(InvertedResidual(4, 6, 5, 2, 6), InvertedResidual(6, 6, 3, 1, 6)).eval()
    example = Example((torch.zeros(2, 4, 8, 8),), {})
    lowered = export(blocks, [example])
    fold_batch_norm(lowered)
    measure(lowered, example.leaves())
    found = discover(lowered)
    sites = {f.site.name: f.site for f in found.found}
    layers = [f"{i}._{kind}_conv" for i in (0, 1) for kind in ("expand", "depthwise", "project")]
    assert {name for name, site in sites.items() if site.role is Role.WEIGHT} == {f"{n}.weight" for n in layers}
    assert {name for name in sites if name.endswith(":in")} == {f"{n}:in" for n in layers}
    assert ("residual", ("1._project_conv:out", "1._expand_conv:in")) in found.ties
    assert sites["0._depthwise_conv:in"].shape == (2, 24, 8, 8)  # before padding


@pytest.mark.slow
def test_the_published_weights_are_right_on_875_of_1000_images(maker):
    objective = maker("imagenet_efficientnet_lite0")()
    model, right = objective.model(), 0
    for split, n in {"calibration": 50, "validation": 450, "test": 500}.items():
        batches = list(objective.batches(split))
        assert sum(batch.n for batch in batches) == n
        with torch.no_grad():
            right += sum(int((model(*batch.args).argmax(1) == batch.target).sum()) for batch in batches)
    assert abs(right - 875) <= 1  # decoders of JPEG may differ in a pixel
