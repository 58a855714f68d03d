"""Training losses: per pixel, of overlap, weighted sums of both, and their mean over the outputs of a network.

Truth is (N, 1, H, W) of class codes: 0 for the background, 1, 2, ... for the classes. Logits are (N, K, H, W). K = 1:
foreground alone, with a sigmoid. K > 1: background and K - 1 classes, with a softmax. Pixels whose truth is
`task.UNANNOTATED` leave every sum and mean; a batch of nothing else has a loss of 0.

The classes of `training.params` define each loss.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from medseg.core.errors import UserError
from medseg.data.task import UNANNOTATED
from medseg.training.params import BCE, BCEDice, CEDice, CrossEntropy, Dice, Focal, Loss, LossParams, Lovasz, Tversky

LossFunction = Callable[[Tensor, Tensor], Tensor]


def build_loss(params: LossParams, logits: int) -> LossFunction:
    """Return the loss that `params` describes, for networks with `logits` output channels.

    It takes logits (N, `logits`, H, W) and truth (N, 1, H, W) and returns a scalar. It computes in single precision
    (double for double logits): half precision overflows in sums over more than 65,504 pixels. Raises `UserError` for a
    loss that does not fit the number of channels.
    """
    _check(params, logits)
    loss = _loss_of(params)
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


def _loss_of(params: LossParams) -> LossFunction:
    match params:
        case BCE() | CrossEntropy():
            return _cross_entropy
        case Dice():
            return _dice(params.smooth)
        case BCEDice():
            return _weighted_sum(params.bce_weight, params.dice_weight, _dice(params.smooth))
        case CEDice():
            return _weighted_sum(params.ce_weight, params.dice_weight, _dice(params.smooth))
        case Focal():
            return _focal(params.alpha, params.gamma)
        case Tversky():
            return _overlap(params.alpha, params.beta, params.gamma, smooth=0.0)
        case Lovasz():
            return _lovasz(params.per_image)


def check_heads(params: Loss, heads: int) -> None:
    """Raise `UserError` where `params` weighs more outputs than the network's `heads`."""
    weights = len(params.head_weights)
    if weights > heads:
        raise UserError(
            f"params.yaml: loss.head_weights has {weights} entries, the network has {heads} "
            f"output{'s' if heads > 1 else ''}; give at most as many entries as outputs"
        )


def deep_supervision(loss: LossFunction, weights: Sequence[float]) -> Callable[[list[Tensor], Tensor], Tensor]:
    """Return the weighted mean of `loss` over a network's outputs: sum_i w_i L(output_i, truth) / sum_i w_i.

    It takes the outputs, finest first, each of the truth's height and width. Outputs beyond the weights are ignored;
    `check_heads` refuses more weights than outputs.
    """
    counting = [(index, weight) for index, weight in enumerate(weights) if weight > 0]

    def mean(outputs: list[Tensor], truth: Tensor) -> Tensor:
        parts = [weight * loss(outputs[index], truth) for index, weight in counting]
        return torch.stack(parts).sum() / sum(weights)

    return mean


def _annotated(truth: Tensor) -> Tensor:
    """Where the truth (N, 1, H, W) is known, bool."""
    return truth != UNANNOTATED


def _mean(values: Tensor, truth: Tensor) -> Tensor:
    """The mean of values (N, H, W) over annotated pixels."""
    annotated = _annotated(truth).squeeze(1)
    return (values * annotated).sum() / annotated.sum().clamp_min(1)


def _pixel_nll(logits: Tensor, truth: Tensor) -> Tensor:
    """Per-pixel negative log-likelihood, (N, H, W); without meaning where nothing is annotated."""
    truth = truth * _annotated(truth)
    if logits.shape[1] == 1:
        target = truth.to(logits.dtype)
        return functional.binary_cross_entropy_with_logits(logits, target, reduction="none").squeeze(1)
    # Not functional.cross_entropy: over images it has no deterministic form on a GPU, which then refuses to run.
    return -logits.log_softmax(dim=1).gather(1, truth.long()).squeeze(1)


def _cross_entropy(logits: Tensor, truth: Tensor) -> Tensor:
    return _mean(_pixel_nll(logits, truth), truth)


def _focal(alpha: float, gamma: float) -> LossFunction:
    def focal(logits: Tensor, truth: Tensor) -> Tensor:
        nll = _pixel_nll(logits, truth)
        foreground = (truth.squeeze(1) > 0).to(logits.dtype)
        balance = alpha * foreground + (1 - alpha) * (1 - foreground)
        # 1 - p_t, clamped: for gamma < 1 the slope of its power is infinite at 0, where the NLL is 0.
        error = (-torch.expm1(-nll)).clamp_min(torch.finfo(logits.dtype).eps)
        return _mean(balance * error**gamma * nll, truth)

    return focal


def _dice(smooth: float) -> LossFunction:
    return _overlap(alpha=0.5, beta=0.5, gamma=1.0, smooth=smooth)


def _overlap(alpha: float, beta: float, gamma: float, smooth: float) -> LossFunction:
    """(1 - (TP + smooth) / (TP + alpha FP + beta FN + smooth))^(1 / gamma), the mean over the classes that occur."""

    def overlap(logits: Tensor, truth: Tensor) -> Tensor:
        probabilities = _log_probabilities(logits).exp()  # (N, classes, H, W), like the targets
        targets = _one_hot(truth, range(1, probabilities.shape[1] + 1)).to(logits.dtype)
        others = _annotated(truth) * (1 - targets)
        true_positives, false_positives, false_negatives = (
            part.sum(dim=(0, 2, 3))
            for part in (probabilities * targets, probabilities * others, (1 - probabilities) * targets)
        )
        occurs = targets.sum(dim=(0, 2, 3)) > 0
        # In this form the gradient at a false positive is a product. That of wrong / total would be a difference of
        # nearly equal numbers where a lesion is small, with three significant digits.
        right = true_positives + smooth
        total = right + alpha * false_positives + beta * false_negatives
        error = 1 - right / torch.where(occurs, total, 1.0)
        # The slope of the power is infinite at 0, which a perfect prediction reaches.
        counts = occurs & (error > 0)
        powers = torch.where(counts, torch.where(counts, error, 1.0) ** (1 / gamma), 0.0)
        return powers.sum() / occurs.sum().clamp_min(1)

    return overlap


def _log_probabilities(logits: Tensor) -> Tensor:
    """Log-probabilities of all classes but the background, (N, classes, H, W)."""
    return functional.logsigmoid(logits) if logits.shape[1] == 1 else logits.log_softmax(dim=1)[:, 1:]


def _one_hot(truth: Tensor, codes: range) -> Tensor:
    """One-hot encoding of truth (N, 1, H, W): (N, codes, H, W) bool."""
    return truth == torch.arange(codes.start, codes.stop, device=truth.device).view(1, -1, 1, 1)


def _lovasz(per_image: bool) -> LossFunction:
    def lovasz(logits: Tensor, truth: Tensor) -> Tensor:
        binary = logits.shape[1] == 1
        targets = _one_hot(truth, range(1, 2) if binary else range(logits.shape[1]))
        if binary:
            errors = (1 - torch.where(targets, logits, -logits)).relu()  # hinge
        else:
            errors = (targets.to(logits.dtype) - logits.softmax(dim=1)).abs()
        errors = errors * _annotated(truth)  # at error 0 a pixel comes last and adds nothing, whatever its truth
        targets, errors = (_flatten(part, per_image) for part in (targets, errors))
        losses = _lovasz_extension(errors, targets)
        counts = torch.ones_like(losses) if binary else targets.any(dim=-1).to(losses.dtype)
        return ((losses * counts).sum(dim=1) / counts.sum(dim=1).clamp_min(1)).mean()

    return lovasz


def _flatten(part: Tensor, per_image: bool) -> Tensor:
    """(N, C, H, W) as (N, C, pixels), or as (1, C, pixels of all images)."""
    return part.flatten(start_dim=2) if per_image else part.transpose(0, 1).flatten(start_dim=1).unsqueeze(0)


def _lovasz_extension(errors: Tensor, targets: Tensor) -> Tensor:
    """Lovász extension of the Jaccard loss at `errors` >= 0 (..., pixels) for `targets` (..., pixels) bool.

    With the pixels sorted by falling error: the sum of each error times the increase of the loss when that pixel joins
    the wrong ones before it (Berman et al., definition 2). Each increase is computed from integers: a difference of two
    losses near 1 is lost to rounding in a large batch, and cumulative sums of fractions are not deterministic on a GPU.
    """
    errors, order = errors.sort(dim=-1, descending=True)
    targets = targets.gather(-1, order)
    size = targets.sum(dim=-1, keepdim=True)
    intersection = (size - targets.cumsum(dim=-1)).to(errors.dtype)
    union = (size + (~targets).cumsum(dim=-1)).to(errors.dtype)
    # A false negative takes a pixel from the intersection, a false positive adds one to the union. Where nothing is
    # true, the first false positive is the whole loss.
    increase = torch.where(targets, 1 / union, torch.where(size == 0, union == 1, intersection / union / (union - 1)))
    return (errors * increase).sum(dim=-1)


def _weighted_sum(pixel_weight: float, dice_weight: float, dice: LossFunction) -> LossFunction:
    """Weighted sum of cross-entropy and Dice."""
    return lambda logits, truth: pixel_weight * _cross_entropy(logits, truth) + dice_weight * dice(logits, truth)
