"""EfficientNet-Lite0, a network for phones: depthwise separable convolutions and ReLU6, no squeeze and excitation.

Tan and Le, "EfficientNet" (2019, arXiv 1905.11946); the Lite variant is TensorFlow's. Parameters are named as in the
weight files of the PyTorch ports, and convolutions are padded as TensorFlow does: the odd pixel after the image.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

_STAGES = (  # kernel, stride, expansion, inputs, outputs, blocks
    (3, 1, 1, 32, 16, 1),
    (3, 2, 6, 16, 24, 2),
    (5, 2, 6, 24, 40, 2),
    (3, 2, 6, 40, 80, 3),
    (5, 1, 6, 80, 112, 3),
    (5, 2, 6, 112, 192, 4),
    (3, 1, 6, 192, 320, 1),
)


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


class SameConv2d(nn.Conv2d):
    """Without a bias; ceil(size / stride) outputs, where a size is even or the stride 1."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__(inputs, outputs, kernel, stride, 0 if stride > 1 else kernel // 2, groups=groups, bias=False)
        total = kernel - stride
        self.edges = (total // 2, total - total // 2) * 2 if stride > 1 else None

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if self.edges is None else F.pad(x, self.edges))


class InvertedResidual(nn.Module):
    """1x1 convolution to more channels, one filter for each channel, 1x1 convolution to fewer, without a ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = inputs * expansion
        self.expands, self.skips = expansion > 1, stride == 1 and inputs == outputs
        if self.expands:
            self._expand_conv, self._bn0 = SameConv2d(inputs, wide, 1), _norm(wide)
        self._depthwise_conv, self._bn1 = SameConv2d(wide, wide, kernel, stride, groups=wide), _norm(wide)
        self._project_conv, self._bn2 = SameConv2d(wide, outputs, 1), _norm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu6(self._bn0(self._expand_conv(x))) if self.expands else x
        y = self._bn2(self._project_conv(F.relu6(self._bn1(self._depthwise_conv(y)))))
        return y + x if self.skips else y


class EfficientNetLite0(nn.Module):
    """Colour images [n, 3, 224, 224], scaled to [-1, 1], to 1,000 logits; 4.6 million weights.

    Any height and width that are multiples of 32 do.
    """

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem, self._bn0 = SameConv2d(3, 32, 3, 2), _norm(32)
        self._blocks = nn.ModuleList(
            InvertedResidual(outputs if i else inputs, outputs, kernel, 1 if i else stride, expansion)
            for kernel, stride, expansion, inputs, outputs, blocks in _STAGES
            for i in range(blocks)
        )
        self._conv_head, self._bn1 = SameConv2d(320, 1280, 1), _norm(1280)
        self._fc = nn.Linear(1280, 1000)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu6(self._bn0(self._conv_stem(x)))
        for block in self._blocks:
            x = block(x)
        return self._fc(F.relu6(self._bn1(self._conv_head(x))).mean((2, 3)))
