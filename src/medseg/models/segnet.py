"""SegNet (Badrinarayanan, Kendall and Cipolla, arXiv:1511.00561): unpooling by the encoder's max-pooling indices."""

from itertools import pairwise

import torch
from torch import Tensor, nn

DEPTHS = (2, 2, 3, 3, 3)  # convolutions per stage, VGG16's
FACTORS = (1, 2, 4, 8, 8)  # maps per stage, as multiples of the first's
DIVISOR = 2 ** len(DEPTHS)


class Segnet(nn.Module):
    """The network of the paper's section 3, with `init_features` maps in the first stage (the paper has 64).

    The encoder is VGG16's 13 convolutions; each of its five stages ends with 2x2 max-pooling, which keeps where the
    maxima were. The decoder mirrors it: each stage first puts its input back at those places, with zeros elsewhere,
    and its convolutions then fill the gaps. Batch normalisation and ReLU follow every convolution but the decoder's
    last, which gives the logits.

    It departs from the paper so: the encoder starts from random weights, not from VGG16's; convolutions before batch
    normalisation have no bias; the softmax belongs to the loss.
    """

    def __init__(self, channels: int, classes: int, init_features: int) -> None:
        """Build it for `channels` in and `classes` out, initialised as He et al. (arXiv:1502.01852) say."""
        super().__init__()
        widths = [init_features * factor for factor in FACTORS]
        encoding = zip([channels, *widths[:-1]], widths, DEPTHS, strict=True)
        decoding = zip(widths[:-1], widths[1:], DEPTHS[1:], strict=True)
        self.encoder = nn.ModuleList(_convolutions([before] + [width] * depth) for before, width, depth in encoding)
        self.decoder = nn.ModuleList([_convolutions([init_features] * DEPTHS[0])])  # the head is its last convolution
        self.decoder.extend(_convolutions([width] * depth + [after]) for after, width, depth in decoding)
        self.head = nn.Conv2d(init_features, classes, 3, padding=1)
        self.pooling = nn.MaxPool2d(2, return_indices=True)
        self.apply(_initialise)

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits (N, classes, H, W) of normalised float pixels (N, C, H, W); H and W divide by `DIVISOR`."""
        maps = pixels
        kept = []  # indices of the maxima, from the input's resolution down
        for stage in self.encoder:
            maps, indices = self.pooling(stage(maps))
            kept.append(indices)
        for stage, indices in zip(reversed(self.decoder), reversed(kept), strict=True):
            maps = stage(unpool(maps, indices))
        logits: Tensor = self.head(maps)
        return logits


def unpool(values: Tensor, indices: Tensor) -> Tensor:
    """Put `values` (N, C, h, w) back where `nn.MaxPool2d(2, return_indices=True)` found them, zeros elsewhere.

    `indices` are those that the pooling gave, of the same shape; the result is (N, C, 2h, 2w) and equals that of
    `nn.MaxUnpool2d(2)`, which PyTorch counts among the operations without a deterministic kernel. Here each pixel of
    a window is compared with the index, so nothing is scattered and no order of writing matters.
    """
    width = 2 * values.shape[-1]
    steps = torch.arange(2, device=indices.device)
    row, column = (place[..., :, None, :, None] for place in (indices // width % 2, indices % 2))
    is_maximum = (row == steps[:, None, None]) & (column == steps)  # (N, C, h, 2, w, 2)
    spread = torch.where(is_maximum, values[..., :, None, :, None], 0.0)
    return spread.flatten(-2).flatten(-3, -2)


def _convolutions(widths: list[int]) -> nn.Sequential:
    """3x3 convolutions through these numbers of maps, each with batch normalisation and ReLU."""
    layers = nn.Sequential()
    for number, (before, after) in enumerate(pairwise(widths), start=1):
        layers.add_module(f"conv{number}", nn.Conv2d(before, after, 3, padding=1, bias=False))
        layers.add_module(f"norm{number}", nn.BatchNorm2d(after))
        layers.add_module(f"relu{number}", nn.ReLU())
    return layers


def _initialise(module: nn.Module) -> None:
    """Weights from a Gaussian of standard deviation sqrt(2 / (kernel area x input maps)); biases start at 0."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
