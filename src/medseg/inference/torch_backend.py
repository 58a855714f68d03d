"""Running a network with PyTorch: loading it, choosing the device, pixels to probabilities."""

from pathlib import Path

import numpy as np
import torch
from torch import nn

from medseg.core.errors import UserError
from medseg.core.params import read_yaml
from medseg.data.image_io import Pixels
from medseg.data.task import Task
from medseg.inference.postprocess import Probabilities
from medseg.inference.settings import SegmenterDescription
from medseg.inference.sliding_window import MAX_PIXELS_CPU, Forward, forward_in_chunks
from medseg.models.checkpoint import load_bundle
from medseg.models.model_yaml import DESCRIPTION
from medseg.models.network import Network


def load_segmenter(folder: Path) -> tuple[Network, SegmenterDescription]:
    """Load the network of a folder such as `models/segmenter`, in evaluation mode, and its description.

    Raises `UserError` where a file is missing or does not fit, or the folder holds a network without the settings of
    prediction (`models/network`).
    """
    path = folder / DESCRIPTION
    if "chosen" not in read_yaml(path):
        raise UserError(
            f"{path}: describes a network alone, without threshold and what else val chooses; "
            "give the folder that the stage evaluate writes, models/segmenter"
        )
    return load_bundle(folder, SegmenterDescription)


def network_forward(network: nn.Module, task: Task, device: torch.device) -> Forward:
    """Make of `network`, moved to `device` and set to evaluation mode, a function from pixels to probabilities.

    The function takes (N, H, W, C) uint8 and returns (N, K, H, W) float32 in 0..1, as `task.probabilities` gives them.
    On the CPU the network gets at most `MAX_PIXELS_CPU` at a time.
    """
    network = network.to(device).eval()

    def forward(pixels: Pixels) -> Probabilities:
        batch = torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2).to(device)
        with torch.inference_mode():
            probabilities: Probabilities = task.probabilities(network(batch)).float().cpu().numpy()
        return probabilities

    return forward if device.type != "cpu" else lambda pixels: forward_in_chunks(forward, pixels, MAX_PIXELS_CPU)


def choose_device(accelerator: str, key: str = "params.yaml: machine.accelerator =") -> torch.device:
    """The device for `auto` (a GPU where there is one), `cpu` or `gpu`.

    Raises `UserError`, which begins with `key`, where `gpu` is asked for and none can be used.
    """
    has_gpu = torch.cuda.is_available()
    if accelerator == "gpu" and not has_gpu:
        raise UserError(f"{key} gpu: no GPU can be used here; set it to auto or cpu")
    return torch.device("cuda" if has_gpu and accelerator != "cpu" else "cpu")
