"""What training makes small: losses per pixel, losses of overlap, their sums, and the mean over a network's outputs.

Truth is (N, 1, H, W) of class codes: 0 for the background, 1, 2, ... for the classes. Logits are (N, K, H, W). K = 1:
the logit of foreground, whose probability is the sigmoid. K > 1: background and K - 1 classes, softmax over them.

"Empty truth" below is a batch in which every pixel is background.
"""

from collections.abc import Callable, Sequence
from typing import Annotated, Literal

import segmentation_models_pytorch as smp
import torch
from pydantic import Field, field_validator
from torch import Tensor
from torch.nn import functional

from medseg.errors import UserError
from medseg.params import Section

LossFunction = Callable[[Tensor, Tensor], Tensor]

Weight = Annotated[float, Field(ge=0)]


class Loss(Section):
    """What every loss has: how much each output of a deeply supervised network counts.

    The loss of several outputs is sum_i w_i L(output_i, truth) / sum_i w_i, normalised as in nnU-Net (Isensee et al.,
    Nature Methods 2021): the weights do not change the size of the loss.
    """

    head_weights: Annotated[list[Weight], Field(min_length=1, max_length=5)]  # finest first; [1.0]: the final one alone

    @field_validator("head_weights")
    @classmethod
    def _count_something(cls, weights: list[float]) -> list[float]:
        if sum(weights) == 0:
            raise ValueError("at least one weight must be above 0")
        return weights


class BCE(Loss):
    """Binary cross-entropy, the mean over all pixels of -log p_t, p_t the probability of what the pixel is.

    Foreground alone. Empty truth: as everywhere else, every pixel's false positive counts.
    """

    name: Literal["bce"]


class CrossEntropy(Loss):
    """Cross-entropy, the mean over all pixels of -log p_t, p_t the probability of the class that the pixel is of.

    Several classes. Empty truth: every pixel's false positive counts.
    """

    name: Literal["cross_entropy"]


class Dice(Loss):
    """Soft Dice (Milletari et al., 3DV 2016), pooled over the batch; p without squares.

    1 - (sum(p t) + smooth) / ((sum p + sum t) / 2 + smooth) with probabilities p and truth t. Several classes: the
    mean of this over all classes but the background, where a class without a pixel in the batch counts as 0. A batch
    whose truth is empty gives 0 and no gradient: alone, this loss never punishes false positives there.
    """

    name: Literal["dice"]
    smooth: float = Field(ge=0)  # pixels added to both parts of the fraction


class BCEDice(Loss):
    """bce_weight BCE + dice_weight Dice. Foreground alone. Empty truth: the cross-entropy alone."""

    name: Literal["bce_dice"]
    bce_weight: Weight
    dice_weight: Weight
    smooth: float = Field(ge=0)


class CEDice(Loss):
    """ce_weight CrossEntropy + dice_weight Dice. Several classes. Empty truth: the cross-entropy alone."""

    name: Literal["ce_dice"]
    ce_weight: Weight
    dice_weight: Weight
    smooth: float = Field(ge=0)


class Focal(Loss):
    """Focal loss (Lin et al., ICCV 2017, eq. 5): the mean over all pixels of -a_t (1 - p_t)^gamma log p_t.

    a_t is alpha for foreground of any class and 1 - alpha for background. The mean is over all pixels, where the paper
    divides by the number of objects. Several classes: p_t of the softmax (segmentation-models-pytorch has one sigmoid
    per class instead). Empty truth: all pixels count with 1 - alpha.
    """

    name: Literal["focal"]
    alpha: float = Field(ge=0, le=1)
    gamma: float = Field(ge=0, le=5)  # 0: cross-entropy; greater: pixels that are nearly right count less


class Tversky(Loss):
    """Tversky loss (Salehi et al., MLMI 2017, eq. 3) and focal Tversky loss (Abraham and Khan, ISBI 2019, eq. 4).

    (1 - TP / (TP + alpha FP + beta FN))^(1 / gamma) with TP = sum(p t), FP = sum(p (1 - t)), FN = sum((1 - p) t),
    pooled over the batch. alpha weighs false positives and beta misses, as in Salehi; Abraham and Khan name them the
    other way round. gamma is theirs, the inverse of segmentation-models-pytorch's. alpha = beta = 0.5 is soft Dice, 1
    and 1 is soft Jaccard. Several classes: the mean over all classes but the background, where a class without a pixel
    in the batch counts as 0. Empty truth: 0 and no gradient, as Dice.
    """

    name: Literal["tversky"]
    alpha: float = Field(gt=0, le=1)
    beta: float = Field(gt=0, le=1)
    gamma: float = Field(ge=1, le=3)  # 1: Tversky; greater: a class that is nearly right still counts


class Lovasz(Loss):
    """The Lovász extension of the Jaccard loss (Berman et al., CVPR 2018): hinge for K = 1, softmax for more.

    Foreground alone: sum over pixels, sorted by falling hinge error max(0, 1 - l s) of logit l and sign s (1 for
    foreground, -1 for background), of the error times what the pixel adds to the Jaccard loss (section 3.1). It is 0
    only where every |l| >= 1. Several classes: the same of errors |t - p| of each class (section 3.2), the mean over
    the classes that occur, background among them. Empty truth: foreground alone gives the largest error of all pixels,
    several classes the background's loss.
    """

    name: Literal["lovasz"]
    per_image: bool  # whether each picture has a loss of its own, and the batch their mean; else pooled over the batch


LossParams = Annotated[
    BCE | Dice | BCEDice | Focal | Tversky | Lovasz | CrossEntropy | CEDice, Field(discriminator="name")
]


def build_loss(params: LossParams, logits: int) -> LossFunction:
    """The loss that `params` names, for networks that put out `logits` channels.

    It is computed in single precision, whatever the logits' (double stays double): in half precision sums over pixels
    overflow at 65,504. Raises `UserError` for a loss that can't do with one channel, or with several.
    """
    _check(params, logits)
    exact = _build(params)
    return lambda scores, truth: exact(scores if scores.dtype == torch.float64 else scores.float(), truth)


def _check(params: LossParams, logits: int) -> None:
    if logits > 1 and isinstance(params, BCE | BCEDice):
        raise UserError(
            f"params.yaml: loss.name = '{params.name}': can't tell several classes apart; choose one of "
            "cross_entropy, ce_dice, dice, focal, lovasz, tversky"
        )
    if logits == 1 and isinstance(params, CrossEntropy | CEDice):
        raise UserError(
            f"params.yaml: loss.name = '{params.name}': needs several classes, here is foreground alone; choose one of "
            "bce, bce_dice, dice, focal, lovasz, tversky"
        )


def _build(params: LossParams) -> LossFunction:
    match params:
        case BCE() | CrossEntropy():
            return _cross_entropy
        case Dice():
            return _dice(params.smooth)
        case BCEDice():
            return _sum(params.bce_weight, params.dice_weight, _dice(params.smooth))
        case CEDice():
            return _sum(params.ce_weight, params.dice_weight, _dice(params.smooth))
        case Focal():
            return _focal(params.alpha, params.gamma)
        case Tversky():
            return _tversky(params.alpha, params.beta, params.gamma)
        case Lovasz():
            return _lovasz(params.per_image)


def check_heads(params: Loss, heads: int) -> None:
    """Raise `UserError` where `params` weighs more outputs than the `heads` that a network has."""
    weights = len(params.head_weights)
    if weights > heads:
        raise UserError(
            f"params.yaml: loss.head_weights has {weights} entries, the network has {heads} "
            f"output{'s' if heads > 1 else ''}; give at most as many entries as outputs"
        )


def deep_supervision(loss: LossFunction, weights: Sequence[float]) -> Callable[[list[Tensor], Tensor], Tensor]:
    """The weighted mean of `loss` over a network's outputs: sum_i w_i L(output_i, truth) / sum_i w_i.

    It takes the outputs, finest first, each of the truth's height and width. Outputs beyond the weights do not count;
    fewer outputs than weights are a defect, see `check_heads`.
    """
    counting = [(index, weight) for index, weight in enumerate(weights) if weight > 0]

    def mean(outputs: list[Tensor], truth: Tensor) -> Tensor:
        parts = [weight * loss(outputs[index], truth) for index, weight in counting]
        return torch.stack(parts).sum() / sum(weights)

    return mean


def _surprise(logits: Tensor, truth: Tensor) -> Tensor:
    """-log of the probability of what each pixel is, (N, H, W)."""
    if logits.shape[1] == 1:
        target = truth.to(logits.dtype)
        return functional.binary_cross_entropy_with_logits(logits, target, reduction="none").squeeze(1)
    return functional.cross_entropy(logits, truth.squeeze(1).long(), reduction="none")


def _cross_entropy(logits: Tensor, truth: Tensor) -> Tensor:
    return _surprise(logits, truth).mean()


def _focal(alpha: float, gamma: float) -> LossFunction:
    def focal(logits: Tensor, truth: Tensor) -> Tensor:
        surprise = _surprise(logits, truth)
        foreground = (truth.squeeze(1) > 0).to(logits.dtype)
        balance = alpha * foreground + (1 - alpha) * (1 - foreground)
        # The clamp keeps the power's slope finite at 0 for gamma < 1; the surprise beside it is 0 there.
        missing = (-torch.expm1(-surprise)).clamp_min(1e-7)
        return (balance * missing**gamma * surprise).mean()

    return focal


def _dice(smooth: float) -> LossFunction:
    return _over_classes(smp.losses.DiceLoss("binary", from_logits=False, smooth=smooth))


def _tversky(alpha: float, beta: float, gamma: float) -> LossFunction:
    tversky = smp.losses.TverskyLoss("binary", from_logits=False, alpha=alpha, beta=beta)

    def focal(chances: Tensor, truth: Tensor) -> Tensor:
        error = tversky(chances, truth)
        # The power's slope is infinite at 0, which a perfect prediction and an absent class reach.
        wrong = error > 1e-6
        return torch.where(wrong, torch.where(wrong, error, 1.0) ** (1 / gamma), 0.0)

    return _over_classes(focal)


def _over_classes(loss: LossFunction) -> LossFunction:
    """The mean of a loss of probabilities (N, 1, H, W) and truth (N, 1, H, W), 0 or 1, over all but the background."""

    def mean(logits: Tensor, truth: Tensor) -> Tensor:
        classes = torch.split(_log_chances(logits).exp(), 1, dim=1)
        parts = [loss(chances, (truth == code).to(logits.dtype)) for code, chances in enumerate(classes, start=1)]
        return torch.stack(parts).mean()

    return mean


def _log_chances(logits: Tensor) -> Tensor:
    """Log-probabilities of all classes but the background, (N, classes, H, W)."""
    return functional.logsigmoid(logits) if logits.shape[1] == 1 else logits.log_softmax(dim=1)[:, 1:]


def _lovasz(per_image: bool) -> LossFunction:
    binary = smp.losses.LovaszLoss("binary", per_image=per_image)
    several = smp.losses.LovaszLoss("multiclass", per_image=per_image)

    def lovasz(logits: Tensor, truth: Tensor) -> Tensor:
        loss: Tensor = (binary if logits.shape[1] == 1 else several)(logits.float(), truth.squeeze(1).float())
        return loss

    return lovasz


def _sum(pixel_weight: float, dice_weight: float, dice: LossFunction) -> LossFunction:
    """Cross-entropy and Dice, weighed."""
    return lambda logits, truth: pixel_weight * _cross_entropy(logits, truth) + dice_weight * dice(logits, truth)
