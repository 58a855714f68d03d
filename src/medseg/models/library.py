"""The other architectures of segmentation-models-pytorch, with the library's own widths, over any of its encoders.

U-Net++ (arXiv:1807.10165), MA-Net (doi:10.1109/ACCESS.2020.3025372), LinkNet (arXiv:1707.03718), FPN
(Kirillov et al., http://presentations.cocodataset.org/COCO17-Stuff-FAIR.pdf), PAN (arXiv:1805.10180), DeepLabV3
(arXiv:1706.05587) and V3+ (arXiv:1802.02611), UPerNet (arXiv:1807.10221), SegFormer (arXiv:2105.15203).
"""

from torch import nn

from medseg.models.encoders import build_encoded
from medseg.models.params import Library

DIVISOR = 32  # five halvings


def build(params: Library, channels: int, classes: int) -> nn.Module:
    """A network of the architecture `params.arch` with random weights.

    Takes (N, channels, H, W) with H and W divisible by `DIVISOR` and at least `smallest(params)`, gives
    (N, classes, H, W) logits. In training, batches of DeepLab and PAN need two images: they normalise one value per
    image. Raises `UserError` with the nearest names for an unknown encoder, or with the reason where an encoder
    does not fit the architecture, such as one without dilation.
    """
    return build_encoded(params.arch, params, channels, classes)


def smallest(params: Library) -> int:
    """Return the smallest side of an image, pixels: PAN halves its features, of stride 16, three more times."""
    return 128 if params.arch == "pan" else 1
