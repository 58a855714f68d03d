"""What training makes small: losses per pixel, losses of overlap, their sums, and the mean over a network's outputs.

Truth is (N, 1, H, W) of class codes: 0 for the background, 1, 2, ... for the classes. Logits are (N, K, H, W). K = 1:
the logit of foreground, whose probability is the sigmoid. K > 1: background and K - 1 classes, softmax over them.

"Empty truth" below is a batch in which every pixel is background.
"""

from collections.abc import Callable, Sequence
from typing import Annotated, Literal, Self, TypeVar

import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor
from torch.nn import functional

from medseg.core.errors import UserError
from medseg.core.params import Section

LossFunction = Callable[[Tensor, Tensor], Tensor]

Weight = Annotated[float, Field(ge=0)]
L = TypeVar("L", bound="Loss")


class Loss(Section):
    """What every loss has: how much each output of a deeply supervised network counts.

    The loss of several outputs is sum_i w_i L(output_i, truth) / sum_i w_i, normalised as in nnU-Net (Isensee et al.,
    Nature Methods 2021): the weights do not change the size of the loss.
    """

    head_weights: Annotated[list[Weight], Field(min_length=1, max_length=5)]  # finest first; [1.0]: the final one alone

    @field_validator("head_weights")
    @classmethod
    def _weigh_an_output(cls, weights: list[float]) -> list[float]:
        if sum(weights) == 0:
            raise ValueError("at least one weight must be greater than 0")
        return weights


class BCE(Loss):
    """Binary cross-entropy: the mean over all pixels of -log p_t, p_t the probability of what the pixel is.

    Foreground alone. Empty truth: every pixel that is taken for foreground costs, as everywhere else.
    """

    name: Literal["bce"]


class CrossEntropy(Loss):
    """Cross-entropy: the mean over all pixels of -log p_t, p_t the probability of what the pixel is.

    Several classes. Empty truth: every pixel that is taken for a class costs, as everywhere else.
    """

    name: Literal["cross_entropy"]


class Dice(Loss):
    """Soft Dice (Milletari et al., 3DV 2016, without their squares), pooled over the batch.

    1 - (sum(p t) + smooth) / ((sum p + sum t) / 2 + smooth) with probabilities p and truth t. Several classes: the mean
    of this over the classes that occur in the batch; the background is none of them, as in nnU-Net. Empty truth: 0 and
    no gradient; alone, this loss never punishes false positives there.
    """

    name: Literal["dice"]
    smooth: float = Field(ge=0)  # pixels added to both parts of the fraction


class BCEDice(Loss):
    """bce_weight BCE + dice_weight Dice. Foreground alone. Empty truth: the cross-entropy alone."""

    name: Literal["bce_dice"]
    bce_weight: Weight
    dice_weight: Weight
    smooth: float = Field(ge=0)

    @model_validator(mode="after")
    def _weigh_a_part(self) -> Self:
        return _refuse_zero(self, "bce_weight", "dice_weight")


class CEDice(Loss):
    """ce_weight CrossEntropy + dice_weight Dice. Several classes. Empty truth: the cross-entropy alone."""

    name: Literal["ce_dice"]
    ce_weight: Weight
    dice_weight: Weight
    smooth: float = Field(ge=0)

    @model_validator(mode="after")
    def _weigh_a_part(self) -> Self:
        return _refuse_zero(self, "ce_weight", "dice_weight")


class Focal(Loss):
    """Focal loss (Lin et al., ICCV 2017, eq. 5): the mean over all pixels of -a_t (1 - p_t)^gamma log p_t.

    p_t is the probability of what the pixel is, a_t is alpha for a pixel of any class and 1 - alpha for background.
    The paper divides by the number of objects instead. Several classes: p_t comes from the softmax; the library
    segmentation-models-pytorch has a sigmoid per class. Empty truth: every pixel costs, with 1 - alpha.
    """

    name: Literal["focal"]
    alpha: float = Field(ge=0, le=1)
    gamma: float = Field(ge=0, le=5)  # 0: weighed cross-entropy; the greater, the less do nearly right pixels count


class Tversky(Loss):
    """Tversky loss (Salehi et al., MLMI 2017) and focal Tversky loss (Abraham and Khan, ISBI 2019).

    (1 - TP / (TP + alpha FP + beta FN))^(1 / gamma) with TP = sum(p t), FP = sum(p (1 - t)), FN = sum((1 - p) t),
    pooled over the batch. alpha weighs false positives and beta misses, as in Salehi; Abraham and Khan name them the
    other way round. gamma is theirs; what segmentation-models-pytorch calls so is its inverse. alpha = beta = 0.5 is
    soft Dice without smoothing, alpha = beta = 1 soft Jaccard. Several classes and empty truth: as Dice.
    """

    name: Literal["tversky"]
    alpha: float = Field(gt=0, le=1)
    beta: float = Field(gt=0, le=1)
    gamma: float = Field(ge=1, le=3)  # 1: Tversky loss; the greater, the steeper where a class is nearly right


class Lovasz(Loss):
    """Lovász hinge and Lovász-Softmax (Berman et al., CVPR 2018): the Jaccard loss, extended to errors in between.

    The pixels are sorted by falling error, and each error is multiplied by what the Jaccard loss grows by when that
    pixel is wrong, too (definition 2). Foreground alone: the error is the hinge max(0, 1 - s l) of logit l and sign s,
    1 for foreground and -1 for background; it is 0 where a pixel is right by a logit of 1 or more, so probabilities
    stay undecided. Several classes: the error of each class is |t - p|, and the loss is the mean over the classes that
    occur, the background among them. Empty truth: foreground alone costs the largest error of all pixels; several
    classes cost what the background's pixels lack.
    """

    name: Literal["lovasz"]
    per_image: bool  # whether each image has a loss of its own, and the batch their mean; else pooled over the batch


LossParams = Annotated[
    BCE | Dice | BCEDice | Focal | Tversky | Lovasz | CrossEntropy | CEDice, Field(discriminator="name")
]


def _refuse_zero(params: L, *keys: str) -> L:
    if not any(getattr(params, key) for key in keys):
        raise ValueError(f"{' or '.join(keys)} must be greater than 0")
    return params


def build_loss(params: LossParams, logits: int) -> LossFunction:
    """The loss that `params` names, for networks that put out `logits` channels.

    It takes logits (N, `logits`, H, W) and truth (N, 1, H, W) and gives one number. It computes in single precision
    (double for double logits): half precision overflows in sums over more than 65,504 pixels. Raises `UserError` for a
    loss that is not for one channel, or not for several.
    """
    _check(params, logits)
    loss = _build(params)
    return lambda scores, truth: loss(scores if scores.dtype == torch.float64 else scores.float(), truth)


def _check(params: LossParams, logits: int) -> None:
    if logits > 1 and isinstance(params, BCE | BCEDice):
        fault, others = "can't tell several classes apart", "cross_entropy, ce_dice"
    elif logits == 1 and isinstance(params, CrossEntropy | CEDice):
        fault, others = "needs several classes, and the task has foreground alone", "bce, bce_dice"
    else:
        return
    raise UserError(
        f"params.yaml: loss.name = '{params.name}': {fault}; choose one of {others}, dice, focal, tversky, lovasz"
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
            return _overlap(params.alpha, params.beta, params.gamma, smooth=0.0)
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
    # Not functional.cross_entropy: over images it has no deterministic form on a GPU, which then refuses to run.
    return -logits.log_softmax(dim=1).gather(1, truth.long()).squeeze(1)


def _cross_entropy(logits: Tensor, truth: Tensor) -> Tensor:
    return _surprise(logits, truth).mean()


def _focal(alpha: float, gamma: float) -> LossFunction:
    def focal(logits: Tensor, truth: Tensor) -> Tensor:
        surprise = _surprise(logits, truth)
        foreground = (truth.squeeze(1) > 0).to(logits.dtype)
        balance = alpha * foreground + (1 - alpha) * (1 - foreground)
        # 1 - p_t. For gamma < 1 its power is infinitely steep at 0, where the surprise beside it is 0: clamped.
        missing = (-torch.expm1(-surprise)).clamp_min(torch.finfo(logits.dtype).eps)
        return (balance * missing**gamma * surprise).mean()

    return focal


def _dice(smooth: float) -> LossFunction:
    return _overlap(alpha=0.5, beta=0.5, gamma=1.0, smooth=smooth)


def _overlap(alpha: float, beta: float, gamma: float, smooth: float) -> LossFunction:
    """(1 - (TP + smooth) / (TP + alpha FP + beta FN + smooth))^(1 / gamma), the mean over the classes that occur."""

    def overlap(logits: Tensor, truth: Tensor) -> Tensor:
        rng_states = _log_chances(logits).exp()  # (N, classes, H, W), as are the shapes
        shapes = _shapes(truth, range(1, rng_states.shape[1] + 1)).to(logits.dtype)
        hits, extra, missed = (
            part.sum(dim=(0, 2, 3))
            for part in (rng_states * shapes, rng_states * (1 - shapes), (1 - rng_states) * shapes)
        )
        occurs = shapes.sum(dim=(0, 2, 3)) > 0
        # In this form the slope at a false positive is a product. That of wrong / total would be a difference of nearly
        # equal numbers where a lesion is small, and lose all but three digits.
        right = hits + smooth
        total = right + alpha * extra + beta * missed
        error = 1 - right / torch.where(occurs, total, 1.0)
        # The power is infinitely steep at 0, which a perfect prediction reaches.
        counts = occurs & (error > 0)
        powers = torch.where(counts, torch.where(counts, error, 1.0) ** (1 / gamma), 0.0)
        return powers.sum() / occurs.sum().clamp_min(1)

    return overlap


def _log_chances(logits: Tensor) -> Tensor:
    """Log-probabilities of all classes but the background, (N, classes, H, W)."""
    return functional.logsigmoid(logits) if logits.shape[1] == 1 else logits.log_softmax(dim=1)[:, 1:]


def _shapes(truth: Tensor, codes: range) -> Tensor:
    """Which pixels have each code, (N, codes, H, W) bool, from truth (N, 1, H, W)."""
    return truth == torch.arange(codes.start, codes.stop, device=truth.device).view(1, -1, 1, 1)


def _lovasz(per_image: bool) -> LossFunction:
    def lovasz(logits: Tensor, truth: Tensor) -> Tensor:
        binary = logits.shape[1] == 1
        shapes = _shapes(truth, range(1, 2) if binary else range(logits.shape[1]))
        errors = _hinge_errors(logits, shapes) if binary else (shapes.to(logits.dtype) - logits.softmax(dim=1)).abs()
        shapes, errors = (_as_rows(part, per_image) for part in (shapes, errors))
        losses = _jaccard_extension(errors, shapes)
        counts = torch.ones_like(losses) if binary else shapes.any(dim=-1).to(losses.dtype)
        return ((losses * counts).sum(dim=1) / counts.sum(dim=1)).mean()

    return lovasz


def _hinge_errors(logits: Tensor, shapes: Tensor) -> Tensor:
    return (1 - torch.where(shapes, logits, -logits)).relu()


def _as_rows(part: Tensor, per_image: bool) -> Tensor:
    """(N, C, H, W) as (N, C, pixels), or as (1, C, pixels of all images)."""
    return part.flatten(start_dim=2) if per_image else part.transpose(0, 1).flatten(start_dim=1).unsqueeze(0)


def _jaccard_extension(errors: Tensor, shapes: Tensor) -> Tensor:
    """The Lovász extension of the Jaccard loss at `errors` >= 0 (..., pixels), for the pixels of `shapes` (bool).

    With the pixels sorted by falling error: sum of each error times what the loss grows by when that pixel joins the
    wrong ones before it (Berman et al., definition 2). Each growth comes from whole numbers: a difference of two losses
    near 1 loses it to rounding in a large batch, and running sums of fractions are not deterministic on a GPU.
    """
    errors, order = errors.sort(dim=-1, descending=True)
    shapes = shapes.gather(-1, order)
    size = shapes.sum(dim=-1, keepdim=True)
    left = (size - shapes.cumsum(dim=-1)).to(errors.dtype)  # pixels in truth and prediction
    union = (size + (~shapes).cumsum(dim=-1)).to(errors.dtype)
    # A miss takes a pixel from what is left, a false positive adds one to the union. The first false positive where
    # nothing is true is all of the loss.
    growth = torch.where(shapes, 1 / union, torch.where(size == 0, union == 1, left / union / (union - 1)))
    return (errors * growth).sum(dim=-1)


def _sum(pixel_weight: float, dice_weight: float, dice: LossFunction) -> LossFunction:
    """Cross-entropy and Dice, weighed."""
    return lambda logits, truth: pixel_weight * _cross_entropy(logits, truth) + dice_weight * dice(logits, truth)
