"""Adaptive average pooling as a product of matrices.

`nn.AdaptiveAvgPool2d` to several bins has no deterministic gradient on a GPU, and ONNX has no operator for it.
"""

import torch
from torch import Tensor, nn


def replace_pooling(network: nn.Module) -> None:
    """Replace every adaptive average pooling to more than one bin in `network` by `BinAverages`, in place."""
    for part in list(network.modules()):
        for name, child in part.named_children():
            if isinstance(child, nn.AdaptiveAvgPool2d) and child.output_size not in (1, (1, 1)):
                setattr(part, name, BinAverages(child))


class BinAverages(nn.Module):
    """`nn.AdaptiveAvgPool2d` to several bins, as a product with averaging matrices."""

    def __init__(self, pooling: nn.AdaptiveAvgPool2d) -> None:
        """With the bins of `pooling`."""
        super().__init__()
        bins: int | tuple[int | None, int | None] | None = pooling.output_size
        self.bins = bins if isinstance(bins, tuple) else (bins, bins)

    def forward(self, features: Tensor) -> Tensor:
        """Features (N, C, H, W) to averages (N, C, rows, columns)."""
        sides = zip(features.shape[-2:], self.bins, strict=True)
        down, right = (_bin_weights(side, bins, features.device).to(features.dtype) for side, bins in sides)
        averages: Tensor = down @ features @ right.T
        return averages


def _bin_weights(side: int, bins: int | None, device: torch.device) -> Tensor:
    """(bins, side): bin i averages from floor(i side / bins) up to ceil((i + 1) side / bins), as PyTorch pools."""
    if bins is None:  # as many as there are pixels
        return torch.eye(side, device=device)
    first = torch.arange(bins, device=device)[:, None] * side // bins
    end = (torch.arange(1, bins + 1, device=device)[:, None] * side + bins - 1) // bins
    place = torch.arange(side, device=device)[None]
    return ((place >= first) & (place < end)).float() / (end - first)
