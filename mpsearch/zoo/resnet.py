"""Residual networks for small images: 10 layers for digits, 20 for CIFAR-10.

He et al., "Deep residual learning for image recognition" (2016). Parameters are named as in the weight files.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from mpsearch.zoo.options import widened


def conv3x3(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)


class ProjectionBlock(nn.Module):
    """Two 3x3 convolutions; where the shape changes the shortcut is a 1x1 convolution."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv3x3(inputs, outputs, stride), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = conv3x3(outputs, outputs), nn.BatchNorm2d(outputs)
        self.projects = stride != 1 or inputs != outputs
        if self.projects:
            self.short, self.bns = nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(out + (self.bns(self.short(x)) if self.projects else x))


class ResNet10(nn.Module):
    """Grey images [n, 1, h, w] to 10 logits; 16, 32, 64 channels, 77,072 convolution and linear weights.

    `width` times as many channels each, rounded up, where that is given.
    """

    def __init__(self, width: float = 1.0) -> None:
        super().__init__()
        first, second, third = (widened(channels, width) for channels in (16, 32, 64))
        self.stem, self.bn = conv3x3(1, first), nn.BatchNorm2d(first)
        self.b1, self.b2, self.b3 = (
            ProjectionBlock(first, first, 1),
            ProjectionBlock(first, second, 2),
            ProjectionBlock(second, third, 2),
        )
        self.fc = nn.Linear(third, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn(self.stem(x)))
        return self.fc(self.b3(self.b2(self.b1(x))).mean((2, 3)))


class PaddingBlock(nn.Module):
    """Two 3x3 convolutions; where the shape changes the shortcut drops pixels and adds empty channels."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv3x3(inputs, outputs, stride), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = conv3x3(outputs, outputs), nn.BatchNorm2d(outputs)
        self.stride, self.padding = stride, (outputs - inputs) // 2

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.padding:
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.padding, self.padding))
        return F.relu(out + x)


class ResNet20(nn.Module):
    """Colour images [n, 3, 32, 32] to 10 logits, as in github.com/akamaster/pytorch_resnet_cifar10."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv3x3(3, 16), nn.BatchNorm2d(16)
        self.layer1 = nn.Sequential(*(PaddingBlock(16, 16, 1) for _ in range(3)))
        self.layer2 = nn.Sequential(PaddingBlock(16, 32, 2), PaddingBlock(32, 32, 1), PaddingBlock(32, 32, 1))
        self.layer3 = nn.Sequential(PaddingBlock(32, 64, 2), PaddingBlock(64, 64, 1), PaddingBlock(64, 64, 1))
        self.linear = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        return self.linear(self.layer3(self.layer2(self.layer1(x))).mean((2, 3)))
