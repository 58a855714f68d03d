"""The section `model`, one class per kind of network. It imports no torch, so that records are quick to read."""

from typing import Annotated, Literal

from pydantic import Field

from medseg.params import Section

EncoderWeights = Literal["auto", "imagenet", "none"]
PerChannel = Annotated[list[float], Field(min_length=1, max_length=3)]


class Unet(Section):
    """segmentation-models-pytorch's U-Net over any of its encoders."""

    name: Literal["unet"]
    encoder: str = Field(min_length=1)
    encoder_weights: EncoderWeights
    decoder_channels: Annotated[list[Annotated[int, Field(ge=1, le=4096)]], Field(min_length=5, max_length=5)]
    input_mean: PerChannel  # of pixels scaled to 0..1
    input_std: PerChannel


ModelParams = Unet
