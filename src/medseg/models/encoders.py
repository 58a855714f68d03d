"""Networks of segmentation-models-pytorch over its encoders, with messages for encoders that do not fit."""

import difflib
import warnings
from typing import Any

import segmentation_models_pytorch as smp
import timm
import torch
from segmentation_models_pytorch.encoders import encoders
from segmentation_models_pytorch.encoders.timm_universal import TimmUniversalEncoder
from torch import Tensor, nn

from medseg.core.errors import UserError
from medseg.models.params import Encoded, Library
from medseg.models.pooling import replace_pooling

TRIAL_SIDE = 128  # pixels; every architecture takes it


def build_encoded(arch: str, params: Encoded, channels: int, classes: int, **options: Any) -> nn.Module:
    """Return the library's architecture `arch` over `params.encoder`, with random weights.

    Weights on which no logit depends, such as those of encoder stages after the last one used, get no gradient: on
    several devices training would wait for it. They are found by one forward pass. Raises `UserError` with similar
    names for an unknown encoder, or with the reason where the encoder does not fit the architecture.
    """
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "`timm-` encoders are deprecated", DeprecationWarning)
            network: nn.Module = smp.create_model(
                arch, params.encoder, encoder_weights=None, in_channels=channels, classes=classes, **options
            )
        replace_pooling(network)
        _freeze_unused(network, channels, classes)
    except Exception as error:  # encoders without five feature maps raise nearly anything
        raise UserError(f"params.yaml: {_reason(arch, params, error)}") from error
    return network


def _freeze_unused(network: nn.Module, channels: int, classes: int) -> None:
    weights = list(network.parameters())
    network.eval()  # neither batch normalisation nor the rng of dropout changes
    with torch.enable_grad():
        logits = _tried(network, channels, classes)
        gradients = torch.autograd.grad(logits.sum(), weights, allow_unused=True)
    network.train()
    for weight, gradient in zip(weights, gradients, strict=True):
        weight.requires_grad_(gradient is not None)


def _tried(network: nn.Module, channels: int, classes: int) -> Tensor:
    """Return the logits of an empty image; of the encoder's published side where it takes no other."""
    try:
        return _logits(network, channels, classes, TRIAL_SIDE)
    except (RuntimeError, AssertionError):
        side = _published_side(network.get_submodule("encoder"))
        if side is None:
            raise
        return _logits(network, channels, classes, side)


def _logits(network: nn.Module, channels: int, classes: int, side: int) -> Tensor:
    logits: Tensor = network(torch.zeros(1, channels, side, side))
    if logits.shape != (1, classes, side, side):
        height, width = logits.shape[-2:]
        raise ValueError(f"images of {side} x {side} pixels give logits of {height} x {width}")
    return logits


def _published_side(encoder: nn.Module) -> int | None:
    """Return the input side that timm publishes for the encoder, pixels; None for the library's own encoders."""
    published = timm.get_pretrained_cfg(encoder.name) if isinstance(encoder, TimmUniversalEncoder) else None
    return None if published is None else int(published.input_size[-1])


def _reason(arch: str, params: Encoded, error: Exception) -> str:
    named = f"model.encoder = '{params.encoder}'"
    if "Wrong encoder name" in str(error) or "Unknown model" in str(error):
        return f"{named}: no such encoder; {_near(params.encoder)}"
    chosen = f"model.arch = '{arch}', " if isinstance(params, Library) else ""
    return f"{chosen}{named}: does not fit '{arch}': {error}"


def _near(name: str) -> str:
    known = [f"tu-{model}" for model in timm.list_models()] if name.startswith("tu-") else list(encoders)
    near = ", ".join(difflib.get_close_matches(name, known, n=5, cutoff=0.3)) or "resnet18"
    return (
        f"similar names: {near} (any timm network as tu-NAME; the full list is in segmentation-models-pytorch's "
        "documentation)"
    )
