"""U-Net (Ronneberger et al., MICCAI 2015) from segmentation-models-pytorch, over any of its encoders."""

from torch import nn

from medseg.models.encoders import build_encoded
from medseg.models.params import Unet

DIVISOR = 32  # five halvings


def build(params: Unet, channels: int, classes: int) -> nn.Module:
    """A U-Net with random weights.

    Takes (N, channels, H, W) with H and W divisible by `DIVISOR`, gives (N, classes, H, W) logits. Raises `UserError`
    with the nearest names for an unknown encoder, or with the reason where an encoder can't be used.
    """
    return build_encoded("unet", params, channels, classes, decoder_channels=params.decoder_channels)
