"""`build_model`, and the one place where pixels are normalised, padded to what a network needs, and cropped back."""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from medseg.errors import UserError
from medseg.models import unet
from medseg.models.params import ModelParams

GREATEST_VALUE = 255  # of 8-bit pixels


class Network(nn.Module):
    """A network between raw pixels and logits.

    Takes (N, C, H, W) pixels from 0 to 255 of any dtype and any size and gives (N, classes, H, W) logits. The input is
    scaled to 0..1, normalised by mean and standard deviation per channel, and padded at the bottom and right by
    repeating the edge until its sides divide by `divisor`; the logits are cropped back.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, core: nn.Module, divisor: int, mean: list[float], std: list[float]) -> None:
        """Wrap `core`, whose input sides must divide by `divisor`; one mean and std for all channels or one each."""
        super().__init__()
        self.core = core
        self.divisor = divisor
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits (N, classes, H, W) of pixels (N, C, H, W), 0..255."""
        height, width = pixels.shape[-2:]
        normalised = (pixels.float() / GREATEST_VALUE - self.mean) / self.std
        padding = (0, -width % self.divisor, 0, -height % self.divisor)
        logits = self.core(functional.pad(normalised, padding, mode="replicate"))
        return cast(Tensor, logits[..., :height, :width])


def build_model(params: ModelParams, channels: int, classes: int) -> Network:
    """Build the network that `params` describes with random weights, for `channels` in and `classes` out.

    Raises `UserError` for an encoder that does not exist, or for a mean or standard deviation per channel that does
    not fit the channels.
    """
    mean, std = (_per_channel(params, key, channels) for key in ("input_mean", "input_std"))
    if min(std) <= 0:
        raise UserError(f"params.yaml: model.input_std = {params.input_std}: must be greater than 0")
    return Network(unet.build(params, channels, classes), unet.DIVISOR, mean, std)


def _per_channel(params: ModelParams, key: str, channels: int) -> list[float]:
    values: list[float] = getattr(params, key)
    if len(values) not in (1, channels):
        raise UserError(
            f"params.yaml: model.{key} holds {len(values)} values, prepare.channels is {channels}: give 1 or {channels}"
        )
    return values
