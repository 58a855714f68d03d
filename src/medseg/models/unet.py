"""U-Net (Ronneberger et al., MICCAI 2015) from segmentation-models-pytorch, over any of its encoders."""

import difflib
import warnings

import segmentation_models_pytorch as smp
import timm
from segmentation_models_pytorch.encoders import encoders
from torch import nn

from medseg.errors import UserError
from medseg.models.params import Unet

DIVISOR = 32  # five halvings


def build(params: Unet, channels: int, classes: int) -> nn.Module:
    """A U-Net with random weights.

    Raises `UserError` with the nearest names for an unknown encoder, or with the reason where an encoder can't be
    used.
    """
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "`timm-` encoders are deprecated", DeprecationWarning)
            network: nn.Module = smp.Unet(
                encoder_name=params.encoder,
                encoder_weights=None,
                decoder_channels=params.decoder_channels,
                in_channels=channels,
                classes=classes,
            )
    except Exception as error:  # timm's networks that give no five feature maps fail with nearly anything
        raise UserError(f"params.yaml: model.encoder = '{params.encoder}': {_reason(params.encoder, error)}") from error
    return network


def _reason(name: str, error: Exception) -> str:
    is_unknown = isinstance(error, KeyError) or "Unknown model" in str(error)
    if not is_unknown:
        return f"can't be the encoder of a U-Net: {error}"
    known = [f"tu-{model}" for model in timm.list_models()] if name.startswith("tu-") else list(encoders)
    near = ", ".join(difflib.get_close_matches(name, known, n=5, cutoff=0.3)) or "resnet18"
    return (
        f"no such encoder; near names: {near} (any timm network as tu-NAME; the full list is in "
        "segmentation-models-pytorch's documentation)"
    )
