"""A section `model` for every kind of network."""

from typing import Any

import tiny
import torch
from torch import Tensor, nn

from medseg.models.network import Network

NORMALISED: dict[str, Any] = {"input_mean": [0.5], "input_std": [0.5]}
ENCODED: dict[str, Any] = NORMALISED | {"encoder": tiny.SMALL_ENCODER, "encoder_weights": "none"}
SECTIONS: dict[str, dict[str, Any]] = {
    "unet": tiny.unet().model_dump(),
    "pspnet": ENCODED | {"name": "pspnet", "psp_channels": 64, "dropout": 0.1},
    "unet_plain": NORMALISED | {"name": "unet_plain", "init_features": 4},
    "segnet": NORMALISED | {"name": "segnet", "init_features": 8},
    "improved_unet": NORMALISED | {"name": "improved_unet", "init_features": 4, "dropout": 0.1},
    "cmunext": NORMALISED
    | {"name": "cmunext", "widths": [4, 8, 8, 16, 16], "depths": [1, 1, 1, 1, 1], "kernels": [3, 3, 7, 7, 7]},
} | {
    arch: ENCODED | {"name": "library", "arch": arch}
    for arch in ("unetplusplus", "deeplabv3plus", "fpn", "segformer", "upernet")
}


def settled(network: Network) -> Network:
    """In evaluation mode, its running means and deviations being those of four images: new ones see nothing."""
    for part in network.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.momentum = 1.0
    network.train()(images(4, 1, 64, 64, seed=9))
    return network.eval()


def images(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
