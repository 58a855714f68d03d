"""Building segmentation-models-pytorch's networks over its encoders, and what to say where an encoder can't serve."""

import difflib
import warnings
from collections.abc import Callable

import timm
from segmentation_models_pytorch.encoders import encoders
from torch import nn

from medseg.errors import UserError


def build_over(encoder: str, key: str, what: str, build: Callable[[], nn.Module]) -> nn.Module:
    """The network that `build` makes over the encoder of that name.

    Raises `UserError` with the nearest names for an unknown encoder; where an encoder can't be used, one that names
    `key` (`model.encoder = 'x'`), `what` is built ("a U-Net") and the library's reason.
    """
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "`timm-` encoders are deprecated", DeprecationWarning)
            return build()
    except Exception as error:  # timm's networks that give no five feature maps fail with nearly anything
        if isinstance(error, KeyError) or "Unknown model" in str(error):
            raise UserError(_unknown(encoder)) from error
        raise UserError(f"params.yaml: {key}: '{encoder}' can't be the encoder of {what}: {error}") from error


def _unknown(encoder: str) -> str:
    known = [f"tu-{model}" for model in timm.list_models()] if encoder.startswith("tu-") else list(encoders)
    near = ", ".join(difflib.get_close_matches(encoder, known, n=5, cutoff=0.3)) or "resnet18"
    return (
        f"params.yaml: model.encoder = '{encoder}': no such encoder; near names: {near} (any timm network as tu-NAME; "
        "the full list is in segmentation-models-pytorch's documentation)"
    )
