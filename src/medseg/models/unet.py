"""U-Net (Ronneberger et al., MICCAI 2015) from segmentation-models-pytorch, over any of its encoders."""

import difflib
import warnings

import segmentation_models_pytorch as smp
from segmentation_models_pytorch.encoders import encoders
from torch import nn

from medseg.errors import UserError
from medseg.models.params import Unet

DIVISOR = 32  # five halvings


def build(params: Unet, channels: int, classes: int) -> nn.Module:
    """A U-Net with random weights. Raises `UserError` with the nearest names for an unknown encoder."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "`timm-` encoders are deprecated", DeprecationWarning)
            return smp.Unet(
                encoder_name=params.encoder,
                encoder_weights=None,
                decoder_channels=params.decoder_channels,
                in_channels=channels,
                classes=classes,
            )
    except (KeyError, RuntimeError, ValueError) as error:
        near = ", ".join(difflib.get_close_matches(params.encoder, encoders, n=5, cutoff=0.3)) or "resnet18"
        raise UserError(
            f"params.yaml: model.encoder = '{params.encoder}': no such encoder; near names: {near} "
            "(any timm network as tu-NAME; the full list is in segmentation-models-pytorch's documentation)"
        ) from error
