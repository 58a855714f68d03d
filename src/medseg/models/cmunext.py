"""CMUNeXt: a light U-shaped network of large depthwise kernels and skip fusion.

Tang, Ding, Wang, Ning, Zhou: CMUNeXt, An Efficient Medical Image Segmentation Network Based on Large Kernel and Skip
Fusion, ISBI 2024, arXiv:2308.01239. Details that the paper leaves open follow the authors' code
(FengheTan9/CMUNeXt): the stem, the step to the next level's maps after a level's blocks, and the convolution after
up-scaling are each a 3x3 convolution with batch normalisation and ReLU; within the blocks the GELU stands before the
normalisation; all convolutions have a bias. Weights start as torch sets them.
"""

from collections import OrderedDict
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

DIVISOR = 16  # four halvings
EXPANSION = 4  # of the maps between two pointwise convolutions


class Cmunext(nn.Module):
    """The network.

    Takes (N, channels, H, W) with H and W divisible by `DIVISOR`, gives (N, classes, H, W) logits. In training, batch
    normalisation needs more than one pixel of a map at the lowest level: more than one sample of 16x16.
    """

    def __init__(self, channels: int, classes: int, widths: list[int], depths: list[int], kernels: list[int]) -> None:
        """For each of five levels, finest first: its maps, its number of blocks, the odd side of their kernels."""
        super().__init__()
        sources = [widths[0], *widths[:-1]]
        self.stem = _conv(channels, widths[0])
        self.encoder = nn.ModuleList(_level(*level) for level in zip(sources, widths, depths, kernels, strict=True))
        steps = [(below, maps) for maps, below in pairwise(widths)][::-1]
        self.upsampling = nn.ModuleList(_upsampling(below, maps) for below, maps in steps)
        self.fusion = nn.ModuleList(skip_fusion(maps) for _, maps in steps)
        self.head = nn.Conv2d(widths[0], classes, 1)

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits (N, classes, H, W)."""
        first, *deeper = self.encoder
        features = first(self.stem(pixels))
        skips = []
        for level in deeper:
            skips.append(features)
            features = level(functional.max_pool2d(features, 2))
        for upsample, fuse in zip(self.upsampling, self.fusion, strict=True):
            features = fuse(torch.cat([skips.pop(), upsample(features)], dim=1))
        return cast(Tensor, self.head(features))


class Residual(nn.Module):
    """A residual connection around a branch."""

    def __init__(self, branch: nn.Module) -> None:
        """`branch` must keep the shape."""
        super().__init__()
        self.branch = branch

    def forward(self, features: Tensor) -> Tensor:
        """(N, C, H, W) to the same shape."""
        return features + cast(Tensor, self.branch(features))


def cmunext_block(maps: int, kernel: int) -> nn.Sequential:
    """A depthwise `kernel` x `kernel` convolution with a residual connection, then an inverted bottleneck."""
    return nn.Sequential(
        OrderedDict(depthwise=Residual(_activated(maps, maps, kernel, groups=maps)), pointwise=_bottleneck(maps, maps))
    )


def skip_fusion(maps: int) -> nn.Sequential:
    """Fuses `maps` maps of the encoder with as many of the decoder, concatenated in this order, into `maps`.

    A 3x3 convolution in two groups works on each half alone, then an inverted bottleneck mixes them.
    """
    return nn.Sequential(
        OrderedDict(grouped=_activated(2 * maps, 2 * maps, 3, groups=2), pointwise=_bottleneck(2 * maps, maps))
    )


def _level(source: int, target: int, depth: int, kernel: int) -> nn.Sequential:
    blocks = nn.Sequential(*(cmunext_block(source, kernel) for _ in range(depth)))
    return nn.Sequential(OrderedDict(blocks=blocks, widen=_conv(source, target)))


def _upsampling(source: int, target: int) -> nn.Sequential:
    # torch's bilinear gradient is not deterministic on a GPU, but where deterministic algorithms are asked for,
    # `interpolate` itself takes another way that is.
    upscale = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)
    return nn.Sequential(OrderedDict(upscale=upscale, conv=_conv(source, target)))


def _bottleneck(source: int, target: int) -> nn.Sequential:
    wide = EXPANSION * target
    return nn.Sequential(OrderedDict(expand=_activated(source, wide), contract=_activated(wide, target)))


def _activated(source: int, target: int, kernel: int = 1, groups: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(source, target, kernel, padding=kernel // 2, groups=groups)
    return nn.Sequential(OrderedDict(conv=conv, activation=nn.GELU(), norm=nn.BatchNorm2d(target)))


def _conv(source: int, target: int) -> nn.Sequential:
    conv = nn.Conv2d(source, target, 3, padding=1)
    return nn.Sequential(OrderedDict(conv=conv, norm=nn.BatchNorm2d(target), activation=nn.ReLU()))
