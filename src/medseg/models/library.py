"""The other architectures of segmentation-models-pytorch, as the library builds them by default."""

import segmentation_models_pytorch as smp
from torch import nn

from medseg.models.encoders import build_over
from medseg.models.params import Library

DIVISOR = 32  # five halvings


def build(params: Library, channels: int, classes: int) -> nn.Module:
    """A network of the architecture `params.arch` with random weights."""

    def network() -> nn.Module:
        core: nn.Module = smp.create_model(
            params.arch,
            encoder_name=params.encoder,
            encoder_weights=None,
            in_channels=channels,
            classes=classes,
        )
        return core

    return build_over(params.encoder, f"model.arch = '{params.arch}'", f"'{params.arch}'", network)
