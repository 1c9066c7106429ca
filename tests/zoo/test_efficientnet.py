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
from mpsearch.zoo.efficientnet import EfficientNetLite0, SameConv2d


@pytest.fixture(scope="module")
def network():
    """With random weights."""
    torch.manual_seed(0)
    return EfficientNetLite0().eval()


@pytest.fixture(scope="module")
def sites(network):
    example = Example((torch.zeros(2, 3, 32, 32),), {})
    lowered = export(network, [example])
    fold_batch_norm(lowered)
    measure(lowered, example.leaves())
    return {found.site.name: found.site for found in discover(lowered).found}


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


def test_every_layer_and_shortcut_is_a_site(network, sites):
    kinds = torch.nn.Conv2d | torch.nn.Linear
    convolutions = {f"{name}.weight" for name, module in network.named_modules() if isinstance(module, kinds)}
    assert len(convolutions) == 50  # 16 blocks of three, the first without expansion; stem, head, classifier
    weights = {name: site for name, site in sites.items() if site.role is Role.WEIGHT}
    assert set(weights) == convolutions
    assert all(site.shape == network.get_parameter(name).shape for name, site in weights.items())
    inputs = {name.replace(".weight", ":in") for name in convolutions}
    shortcuts = {f"_blocks.{i}._project_conv:out" for i in (2, 4, 6, 7, 9, 10, 12, 13, 14)}
    values = {name: site for name, site in sites.items() if site.role is Role.ACTIVATION}
    assert {name for name in values if name.endswith(":in")} == inputs
    assert shortcuts <= set(values)
    assert values["_blocks.3._depthwise_conv:in"].shape == (2, 144, 8, 8)  # before padding


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
