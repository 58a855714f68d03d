"""What training makes small. All take logits and truth, (N, 1, H, W), truth 0 or 1, and give one number."""

from collections.abc import Callable
from typing import Annotated, Literal

import segmentation_models_pytorch as smp
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from medseg.params import Section

LossFunction = Callable[[Tensor, Tensor], Tensor]

Weight = Annotated[float, Field(ge=0)]


class BCE(Section):
    """Binary cross-entropy per pixel."""

    name: Literal["bce"]


class Dice(Section):
    """Soft Dice (Milletari et al., 3DV 2016), pooled over the batch, as segmentation-models-pytorch has it.

    1 - (sum(p t) + smooth) / ((sum p + sum t) / 2 + smooth) with probabilities p and truth t. A batch whose truth is
    empty gives 0 and no gradient: alone, this loss never punishes false positives there.
    """

    name: Literal["dice"]
    smooth: float = Field(ge=0)  # pixels added to both parts of the fraction


class BCEDice(Section):
    """A weighted sum of both."""

    name: Literal["bce_dice"]
    bce_weight: Weight
    dice_weight: Weight
    smooth: float = Field(ge=0)


LossParams = Annotated[BCE | Dice | BCEDice, Field(discriminator="name")]


def build_loss(params: LossParams) -> LossFunction:
    """The loss that `params` names."""
    match params:
        case BCE():
            return _bce
        case Dice():
            return _dice(params.smooth)
        case BCEDice():
            dice = _dice(params.smooth)
            return lambda logits, truth: (
                params.bce_weight * _bce(logits, truth) + params.dice_weight * dice(logits, truth)
            )


def _bce(logits: Tensor, truth: Tensor) -> Tensor:
    return functional.binary_cross_entropy_with_logits(logits, truth)


def _dice(smooth: float) -> LossFunction:
    loss: LossFunction = smp.losses.DiceLoss(mode="binary", smooth=smooth)
    return loss
