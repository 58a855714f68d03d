"""Isensee's U-Net of BraTS 2017 in two dimensions: context modules, localisation modules, deep supervision.

Isensee, Kickingereder, Wick, Bendszus, Maier-Hein: Brain Tumor Segmentation and Radiomics Survival Prediction,
arXiv:1802.10508, "Network architecture" and figure 1. Where the paper leaves a detail open, the authors' code for the
challenge (MIC-DKFZ/BraTS2017) decides: instance normalisation with a scale and a shift per map and a leaky ReLU follow
each convolution of the decoder and each context module's sum; a localisation module's first convolution keeps the
number of concatenated maps; dropout acts on single values, not on whole maps; weights start from He's normal
distribution with the gain of a ReLU, biases from 0.

Departures: two dimensions instead of three. The first level's context module is like the others (in the code it alone
goes without normalisation). The code's further 1x1 convolution below the deepest concatenation is left out, and the
segmentation layers follow the whole localisation module, not its first convolution: both as in the paper's figure.
Convolutions have a bias in the segmentation layers alone: elsewhere the following normalisation removes it.
"""

from collections import OrderedDict
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

LEVELS = 5
DIVISOR = 2 ** (LEVELS - 1)
SMALLEST = 2 * DIVISOR  # instance normalisation needs more than one pixel at the lowest level
SLOPE = 0.01  # of the leaky ReLU for negative values


class ImprovedUnet(nn.Module):
    """The network; its output is the sum of three segmentation layers.

    Takes (N, channels, H, W) with H and W divisible by `DIVISOR` and at least `SMALLEST`, gives (N, classes, H, W)
    logits. Up-scaling repeats pixels, in the decoder and of the logits, as in the paper; its gradient is deterministic
    on a GPU, too.
    """

    head_count = 3

    def __init__(self, channels: int, classes: int, init_features: int, dropout: float) -> None:
        """Level l = 0..4 has `init_features` * 2^l maps; `dropout` is a probability, that of the paper is 0.3."""
        super().__init__()
        maps = [init_features * 2**level for level in range(LEVELS)]
        self.context = nn.ModuleList(
            _context_level(source, target, stride, dropout)
            for source, target, stride in zip([channels, *maps[:-1]], maps, [1, 2, 2, 2, 2], strict=True)
        )
        self.upsampling = nn.ModuleList(_upsampling(maps[level + 1]) for level in (3, 2, 1, 0))
        self.localisation = nn.ModuleList(localisation_module(maps[level]) for level in (3, 2, 1))
        self.final = _normalised_conv(2 * maps[0], 2 * maps[0], 3)
        self.segmentation = nn.ModuleList(nn.Conv2d(source, classes, 1) for source in (maps[2], maps[1], 2 * maps[0]))
        self.apply(_initialise)

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits (N, classes, H, W): the segmentation layers, each up-scaled to the next finer one and added to it."""
        return _summed(self._segmentations(pixels))

    def heads(self, pixels: Tensor) -> list[Tensor]:
        """What `forward` gives, then the logits of the layers at 1/2 and 1/4 of the size, up-scaled to (H, W)."""
        parts = self._segmentations(pixels)
        quarter, half, _ = parts
        return [_summed(parts), _upscaled(half, 2), _upscaled(quarter, 4)]

    def _segmentations(self, pixels: Tensor) -> list[Tensor]:
        """Each segmentation layer's logits at its own size, coarsest first."""
        features, skips = pixels, []
        for level in self.context:
            features = level(features)
            skips.append(features)
        skips.pop()
        recombined = []
        for upsample, recombine in zip(self.upsampling, [*self.localisation, self.final], strict=True):
            features = recombine(torch.cat([skips.pop(), upsample(features)], dim=1))
            recombined.append(features)
        return [layer(source) for layer, source in zip(self.segmentation, recombined[1:], strict=True)]


class ContextModule(nn.Module):
    """A pre-activation residual block: two 3x3 convolutions with dropout between them, plus the input."""

    def __init__(self, maps: int, dropout: float) -> None:
        """For `maps` maps in and out."""
        super().__init__()
        self.branch = nn.Sequential(
            OrderedDict(
                norm1=_norm(maps),
                activation1=nn.LeakyReLU(SLOPE),
                conv1=_conv(maps, maps, 3),
                dropout=nn.Dropout(dropout),
                norm2=_norm(maps),
                activation2=nn.LeakyReLU(SLOPE),
                conv2=_conv(maps, maps, 3),
            )
        )

    def forward(self, features: Tensor) -> Tensor:
        """(N, maps, H, W) to the same."""
        return features + cast(Tensor, self.branch(features))


def localisation_module(maps: int) -> nn.Sequential:
    """A 3x3 convolution that mixes 2 * `maps` concatenated maps, then a 1x1 convolution that halves them to `maps`."""
    return nn.Sequential(
        OrderedDict(mix=_normalised_conv(2 * maps, 2 * maps, 3), halve=_normalised_conv(2 * maps, maps, 1))
    )


def _context_level(source: int, target: int, stride: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        OrderedDict(
            conv=_conv(source, target, 3, stride),
            context=ContextModule(target, dropout),
            norm=_norm(target),
            activation=nn.LeakyReLU(SLOPE),
        )
    )


def _upsampling(maps: int) -> nn.Sequential:
    """To twice the height and width, with half of `maps` maps."""
    return nn.Sequential(OrderedDict(upscale=nn.Upsample(scale_factor=2), halve=_normalised_conv(maps, maps // 2, 3)))


def _normalised_conv(source: int, target: int, kernel: int) -> nn.Sequential:
    return nn.Sequential(
        OrderedDict(conv=_conv(source, target, kernel), norm=_norm(target), activation=nn.LeakyReLU(SLOPE))
    )


def _conv(source: int, target: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(source, target, kernel, stride, padding=kernel // 2, bias=False)


def _norm(maps: int) -> nn.InstanceNorm2d:
    return nn.InstanceNorm2d(maps, affine=True)


def _summed(segmentations: list[Tensor]) -> Tensor:
    total, *finer = segmentations
    for logits in finer:
        total = _upscaled(total, 2) + logits
    return total


def _upscaled(logits: Tensor, factor: int) -> Tensor:
    return functional.interpolate(logits, scale_factor=factor, mode="nearest")


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
