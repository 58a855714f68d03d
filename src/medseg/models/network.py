"""`build_model`, and `Network`, which normalises pixels, pads them to what the architecture needs, and crops logits."""

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional

from medseg.core.errors import UserError
from medseg.models import cmunext, improved_unet, library, pspnet, segnet, unet, unet_plain
from medseg.models.params import (
    Cmunext,
    ImprovedUnet,
    Library,
    ModelParams,
    Pspnet,
    Segnet,
    Unet,
    UnetPlain,
)

GREATEST_VALUE = 255  # of 8-bit pixels


@runtime_checkable
class HasHeads(Protocol):
    """A network with several outputs to train on (deep supervision)."""

    head_count: int

    def heads(self, pixels: Tensor) -> list[Tensor]:
        """Return all outputs as logits of the input's height and width: that of `forward`, then the coarser ones."""


class Network(nn.Module):
    """A network from raw pixels to logits.

    Takes (N, C, H, W) pixels from 0 to 255 of any dtype and any size and gives (N, classes, H, W) logits. The input is
    scaled to 0..1, normalised by mean and standard deviation per channel, and padded at the bottom and right by
    repeating the edge until its sides divide by `divisor` and measure at least `smallest`; the logits are cropped back.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, core: nn.Module, divisor: int, mean: list[float], std: list[float], smallest: int = 1) -> None:
        """Wrap `core`, whose input sides must divide by `divisor`; one mean and std for all channels or one each."""
        super().__init__()
        self.core = core
        self.divisor = divisor
        self.smallest = smallest
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits (N, classes, H, W) of pixels (N, C, H, W), 0..255."""
        return _cropped(self.core(self._padded(pixels)), pixels)

    @property
    def head_count(self) -> int:
        """Number of outputs of `heads`."""
        return self.core.head_count if isinstance(self.core, HasHeads) else 1

    def heads(self, pixels: Tensor) -> list[Tensor]:
        """Return the logits of all outputs, each of the shape of `forward`'s, which comes first."""
        if not isinstance(self.core, HasHeads):
            return [self(pixels)]
        return [_cropped(logits, pixels) for logits in self.core.heads(self._padded(pixels))]

    def normalised(self, pixels: Tensor) -> Tensor:
        """Normalise pixels (N, C, H, W), 0..255, as the core takes them; any size."""
        return (pixels.float() / GREATEST_VALUE - self.mean) / self.std

    def _padded(self, pixels: Tensor) -> Tensor:
        sides = (max(side, self.smallest) for side in pixels.shape[-2:])
        height, width = (-(-side // self.divisor) * self.divisor for side in sides)
        padding = (0, width - pixels.shape[-1], 0, height - pixels.shape[-2])
        return functional.pad(self.normalised(pixels), padding, mode="replicate")


def build_model(params: ModelParams, channels: int, classes: int) -> Network:
    """Build the network that `params` describes with random weights, for `channels` in and `classes` out.

    Raises `UserError` for an encoder that does not exist, or for a mean or standard deviation per channel that does
    not fit the channels.
    """
    mean, std = (_per_channel(params, key, channels) for key in ("input_mean", "input_std"))
    core, divisor, smallest = _build_core(params, channels, classes)
    return Network(core, divisor, mean, std, smallest)


def _build_core(params: ModelParams, channels: int, classes: int) -> tuple[nn.Module, int, int]:
    """Return the core, the divisor of its input sides, and their minimum."""
    match params:
        case Unet():
            return unet.build(params, channels, classes), unet.DIVISOR, 1
        case Pspnet():
            return pspnet.build(params, channels, classes), pspnet.DIVISOR, 1
        case Library():
            return library.build(params, channels, classes), library.DIVISOR, library.smallest(params)
        case UnetPlain():
            return unet_plain.UnetPlain(channels, classes, params.init_features), unet_plain.DIVISOR, 1
        case Segnet():
            return segnet.Segnet(channels, classes, params.init_features), segnet.DIVISOR, 1
        case ImprovedUnet():
            core = improved_unet.ImprovedUnet(channels, classes, params.init_features, params.dropout)
            return core, improved_unet.DIVISOR, improved_unet.SMALLEST
        case Cmunext():
            return cmunext.Cmunext(channels, classes, params.widths, params.depths, params.kernels), cmunext.DIVISOR, 1


def _cropped(logits: Tensor, pixels: Tensor) -> Tensor:
    return logits[..., : pixels.shape[-2], : pixels.shape[-1]]


def _per_channel(params: ModelParams, key: str, channels: int) -> list[float]:
    values: list[float] = getattr(params, key)
    if len(values) not in (1, channels):
        raise UserError(
            f"params.yaml: model.{key} holds {len(values)} values, prepare.channels is {channels}: give 1 or {channels}"
        )
    return values
