"""A trained network as a function from pixels to probabilities, and the device on which it runs."""

import numpy as np
import torch
from torch import nn

from medseg.errors import UserError
from medseg.imaging import Pixels
from medseg.postprocess import Probabilities
from medseg.tiling import Forward


def network_forward(network: nn.Module, device: torch.device) -> Forward:
    """`network`, moved to `device` and set to evaluation, as a function for `tiling`.

    It takes (N, H, W, C) uint8 and gives (N, K, H, W) float32 in 0..1: from one logit per pixel K = 1, the probability
    of foreground; from several their softmax, background first.
    """
    network = network.to(device).eval()

    def forward(pixels: Pixels) -> Probabilities:
        batch = torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2).to(device)
        with torch.inference_mode():
            logits = network(batch)
            shares = logits.sigmoid() if logits.shape[1] == 1 else logits.softmax(dim=1)
            probabilities: Probabilities = shares.float().cpu().numpy()
        return probabilities

    return forward


def choose_device(accelerator: str) -> torch.device:
    """The device that `machine.accelerator` means here: `auto` is a GPU where there is one.

    Raises `UserError` where a GPU is asked for and none can be used.
    """
    has_gpu = torch.cuda.is_available()
    if accelerator == "gpu" and not has_gpu:
        raise UserError("params.yaml: machine.accelerator = gpu: no GPU can be used here; set it to auto or cpu")
    return torch.device("cuda" if has_gpu and accelerator != "cpu" else "cpu")
