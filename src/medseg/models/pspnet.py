"""PSPNet (Zhao et al., CVPR 2017, arXiv:1612.01105) from segmentation-models-pytorch, over any of its encoders."""

from torch import nn

from medseg.models.encoders import build_encoded
from medseg.models.params import Pspnet

DIVISOR = 8
ENCODER_DEPTH = 3  # halvings: like the paper's dilated ResNet, features of an eighth of the image's sides are pooled


def build(params: Pspnet, channels: int, classes: int) -> nn.Module:
    """A PSPNet with random weights, which pools the third level of the encoder to 1, 2, 3 and 6 bins a side (figure 3).

    It departs from the paper in ending the encoder there, where the paper has two more stages, dilated, and in having
    no auxiliary loss. Takes (N, channels, H, W) with H and W divisible by `DIVISOR`, gives (N, classes, H, W) logits.
    Raises `UserError` with the nearest names for an unknown encoder, or with the reason where an encoder can't be used.
    """
    return build_encoded(
        "pspnet",
        params,
        channels,
        classes,
        encoder_depth=ENCODER_DEPTH,
        psp_out_channels=params.psp_channels,
        psp_dropout=params.dropout,
    )
