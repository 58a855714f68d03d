"""A trained network as a function from pixels to probabilities, and the device on which it runs."""

from pathlib import Path

import numpy as np
import torch
from torch import nn

from medseg.core.errors import UserError
from medseg.core.params import read_yaml
from medseg.data.image_io import Pixels
from medseg.inference.postprocess import Probabilities
from medseg.inference.settings import SegmenterDescription
from medseg.inference.sliding_window import CPU_PIXELS, Forward, in_parts
from medseg.models.checkpoint import load_bundle
from medseg.models.model_yaml import DESCRIPTION
from medseg.models.network import Network


def load_segmenter(folder: Path) -> tuple[Network, SegmenterDescription]:
    """The network of a segmenter's folder, in evaluation mode, and how masks are made of what it says.

    Raises `UserError` where a part is missing or unfit, or the folder holds a network alone.
    """
    path = folder / DESCRIPTION
    if "chosen" not in read_yaml(path):
        raise UserError(
            f"{path}: describes a network alone, without threshold and what else val chooses; "
            "give the folder that the stage evaluate writes, models/segmenter"
        )
    return load_bundle(folder, SegmenterDescription)


def network_forward(network: nn.Module, device: torch.device) -> Forward:
    """`network`, moved to `device` and set to evaluation, as a function for `tiling`.

    It takes (N, H, W, C) uint8 and gives (N, K, H, W) float32 in 0..1: from one logit per pixel K = 1, the probability
    of foreground; from several their softmax, background first. A processor is given `CPU_PIXELS` at a time.
    """
    network = network.to(device).eval()

    def forward(pixels: Pixels) -> Probabilities:
        batch = torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2).to(device)
        with torch.inference_mode():
            logits = network(batch)
            shares = logits.sigmoid() if logits.shape[1] == 1 else logits.softmax(dim=1)
            probabilities: Probabilities = shares.float().cpu().numpy()
        return probabilities

    return forward if device.type != "cpu" else lambda pixels: in_parts(forward, pixels, CPU_PIXELS)


def choose_device(accelerator: str, key: str = "params.yaml: machine.accelerator =") -> torch.device:
    """The device that `auto`, `cpu` or `gpu` means here: `auto` is a GPU where there is one.

    Raises `UserError`, led by the `key` or flag that asked for it, where a GPU is asked for and none can be used.
    """
    has_gpu = torch.cuda.is_available()
    if accelerator == "gpu" and not has_gpu:
        raise UserError(f"{key} gpu: no GPU can be used here; set it to auto or cpu")
    return torch.device("cuda" if has_gpu and accelerator != "cpu" else "cpu")
