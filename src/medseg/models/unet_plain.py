"""The U-Net of Ronneberger, Fischer and Brox (MICCAI 2015, arXiv:1505.04597), with batch normalisation."""

import math
from collections import OrderedDict
from itertools import pairwise

import torch
from torch import Tensor, nn

LEVELS = 5  # resolutions: that of the input and four halvings
DIVISOR = 2 ** (LEVELS - 1)


class UnetPlain(nn.Module):
    """The network of the paper's figure 1, with `init_features` maps at the first level (the paper has 64).

    A contracting and an expanding path over five resolutions. Each step of a path is two 3x3 convolutions with ReLU;
    going down, 2x2 max-pooling halves the resolution and the maps double; going up, a 2x2 transposed convolution
    does the reverse, and its result is joined with the maps of the contracting path at that level.

    It departs from the paper so: convolutions are padded with zeros, hence the output is as large as the input and
    no maps are cropped, where the paper's lose the border and tile large images with overlap; batch normalisation
    follows every 3x3 convolution, which therefore has no bias; there is no dropout at the end of the contracting
    path; `classes` may be 1.
    """

    def __init__(self, channels: int, classes: int, init_features: int) -> None:
        """Build it for `channels` in and `classes` out, initialised by the paper's rule (`_initialise`)."""
        super().__init__()
        widths = [init_features * 2**level for level in range(LEVELS)]
        inputs = [channels, *widths[:-1]]
        pairs = list(pairwise(widths))  # a level and the one below
        self.contracting = nn.ModuleList(_double(before, width) for before, width in zip(inputs, widths, strict=True))
        self.pooling = nn.MaxPool2d(2)
        self.upsampling = nn.ModuleList(nn.ConvTranspose2d(below, width, 2, stride=2) for width, below in pairs)
        self.expanding = nn.ModuleList(_double(2 * width, width) for width, _ in pairs)
        self.head = nn.Conv2d(init_features, classes, 1)
        self.apply(_initialise)

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits (N, classes, H, W) of normalised float pixels (N, C, H, W); H and W divide by `DIVISOR`.

        In training mode batch normalisation refuses a single value per map, as one image of 16x16 leaves at the
        lowest level.
        """
        maps = self.contracting[0](pixels)
        kept = []  # of the contracting path, from the input's resolution down
        for block in self.contracting[1:]:
            kept.append(maps)
            maps = block(self.pooling(maps))
        for level in reversed(range(LEVELS - 1)):
            raised = self.upsampling[level](maps)
            maps = self.expanding[level](torch.cat([kept[level], raised], dim=1))
        logits: Tensor = self.head(maps)
        return logits


def _double(before: int, width: int) -> nn.Sequential:
    """Two 3x3 convolutions from `before` to `width` maps, each with batch normalisation and ReLU."""
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(before, width, 3, padding=1, bias=False),
            norm1=nn.BatchNorm2d(width),
            relu1=nn.ReLU(),
            conv2=nn.Conv2d(width, width, 3, padding=1, bias=False),
            norm2=nn.BatchNorm2d(width),
            relu2=nn.ReLU(),
        )
    )


def _initialise(module: nn.Module) -> None:
    """Draw the weights from a Gaussian of standard deviation sqrt(2 / N) (section 3); biases start at 0.

    N is the number of values that one neuron receives: kernel area x input maps for a convolution. A transposed
    convolution with stride = kernel reaches each of its outputs by one place of the kernel, so N is its input maps.
    """
    match module:
        case nn.ConvTranspose2d():
            incoming = module.in_channels
        case nn.Conv2d():
            incoming = module.in_channels * math.prod(module.kernel_size)
        case _:
            return
    nn.init.normal_(module.weight, std=math.sqrt(2 / incoming))
    if module.bias is not None:
        nn.init.zeros_(module.bias)
