"""PSPNet (Zhao et al., CVPR 2017, arXiv:1612.01105) from segmentation-models-pytorch, over any of its encoders."""

import segmentation_models_pytorch as smp
from torch import nn

from medseg.models.encoders import build_over
from medseg.models.params import Pspnet

DIVISOR = 8  # three halvings


def build(params: Pspnet, channels: int, classes: int) -> nn.Module:
    """A PSPNet with random weights."""

    def network() -> nn.Module:
        core: nn.Module = smp.PSPNet(
            encoder_name=params.encoder,
            encoder_weights=None,
            encoder_depth=3,
            psp_out_channels=params.psp_channels,
            psp_dropout=params.dropout,
            in_channels=channels,
            classes=classes,
        )
        return core

    return build_over(params.encoder, f"model.encoder = '{params.encoder}'", "a PSPNet", network)
