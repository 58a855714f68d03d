"""The section `model`, one class per kind of network. Imports no torch, so records are quick to read."""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from medseg.core.params import Section

EncoderWeights = Literal["auto", "imagenet", "none"]
Means = Annotated[list[Annotated[float, Field(ge=-100, le=100)]], Field(min_length=1, max_length=3)]
Deviations = Annotated[list[Annotated[float, Field(ge=1e-3, le=100)]], Field(min_length=1, max_length=3)]
Width = Annotated[int, Field(ge=1, le=4096)]  # feature maps
Dropout = Annotated[float, Field(ge=0, lt=1)]  # probability
FirstWidth = Annotated[int, Field(ge=1, le=256)]  # feature maps of the first level, where deeper ones have multiples
FiveWidths = Annotated[list[Width], Field(min_length=5, max_length=5)]


class Network(Section):
    """Base of all networks: how the input is normalised."""

    input_mean: Means  # of pixels scaled to 0..1, for each channel, or one for all
    input_std: Deviations


class Encoded(Network):
    """A network of segmentation-models-pytorch, over any of its encoders."""

    # A plain name: timm would take `hf-hub:` and `local-dir:` for places to read a model from.
    encoder: str = Field(pattern=r"^[A-Za-z0-9_.-]+$")
    encoder_weights: EncoderWeights


class Unet(Encoded):
    """segmentation-models-pytorch's U-Net."""

    name: Literal["unet"]
    decoder_channels: FiveWidths


class Pspnet(Encoded):
    """segmentation-models-pytorch's PSPNet."""

    name: Literal["pspnet"]
    psp_channels: Width  # after pyramid pooling
    dropout: Dropout


class Library(Encoded):
    """Any other architecture of segmentation-models-pytorch, as the library builds it by default."""

    name: Literal["library"]
    arch: Literal[
        "unetplusplus", "manet", "linknet", "fpn", "pan", "deeplabv3", "deeplabv3plus", "upernet", "segformer"
    ]


class UnetPlain(Network):
    """Ronneberger's U-Net with batch normalisation."""

    name: Literal["unet_plain"]
    init_features: FirstWidth  # of the first level; each level below has twice as many


class Segnet(Network):
    """SegNet: unpooling by the encoder's max-pooling indices."""

    name: Literal["segnet"]
    init_features: FirstWidth  # of the first level; the deeper ones have 2, 4, 8 and 8 times as many


class ImprovedUnet(Network):
    """Isensee's U-Net of BraTS 2017 in two dimensions."""

    name: Literal["improved_unet"]
    init_features: FirstWidth  # of the first level; each level below has twice as many
    dropout: Dropout  # in the context modules


class Cmunext(Network):
    """CMUNeXt: large-kernel depthwise convolutions and skip fusion."""

    name: Literal["cmunext"]
    widths: FiveWidths
    depths: Annotated[list[Annotated[int, Field(ge=1, le=32)]], Field(min_length=5, max_length=5)]  # blocks a level
    kernels: Annotated[list[Annotated[int, Field(ge=1, le=31)]], Field(min_length=5, max_length=5)]  # odd, pixels

    @field_validator("kernels")
    @classmethod
    def _have_a_centre(cls, kernels: list[int]) -> list[int]:
        if even := [kernel for kernel in kernels if kernel % 2 == 0]:
            raise ValueError(f"{even[0]} is even: a kernel's side must be odd, so that it has a centre")
        return kernels


ModelParams = Annotated[
    Unet | Pspnet | Library | UnetPlain | Segnet | ImprovedUnet | Cmunext, Field(discriminator="name")
]
