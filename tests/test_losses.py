"""Losses against values worked out by hand."""

import math

import pytest
import torch
from torch import Tensor

from medseg.errors import UserError
from medseg.losses import BCE, BCEDice, Dice, LossParams, build_loss
from medseg.params import validate

ALL: list[LossParams] = [
    BCE(name="bce"),
    Dice(name="dice", smooth=1.0),
    BCEDice(name="bce_dice", bce_weight=0.25, dice_weight=2.0, smooth=1.0),
]


def logit(*probabilities: float) -> Tensor:
    """Logits (1, 1, 1, N) of probabilities."""
    return torch.logit(torch.tensor(probabilities, dtype=torch.float64)).reshape(1, 1, 1, -1)


def truth(*pixels: float) -> Tensor:
    return torch.tensor(pixels, dtype=torch.float64).reshape(1, 1, 1, -1)


LOGITS, TRUTH = logit(0.9, 0.2, 0.4), truth(1, 0, 1)
BCE_BY_HAND = -(math.log(0.9) + math.log(0.8) + math.log(0.4)) / 3
DICE_BY_HAND = 1 - ((0.9 + 0.4) + 1) / (((0.9 + 0.2 + 0.4) + 2) / 2 + 1)  # one pixel of smoothing above and below


def test_bce_by_hand() -> None:
    assert float(build_loss(ALL[0])(LOGITS, TRUTH)) == pytest.approx(BCE_BY_HAND)


def test_dice_by_hand() -> None:
    assert float(build_loss(ALL[1])(LOGITS, TRUTH)) == pytest.approx(DICE_BY_HAND)


def test_the_sum_weighs_both() -> None:
    assert float(build_loss(ALL[2])(LOGITS, TRUTH)) == pytest.approx(0.25 * BCE_BY_HAND + 2 * DICE_BY_HAND)


def test_dice_is_pooled_over_the_batch() -> None:
    # Pooled: 1 - (1 + 1) / ((2 + 1) / 2 + 1); the mean of the two samples' losses would be another number.
    sure = 40.0
    logits = torch.tensor([[[[sure]]], [[[sure]]]])
    both = torch.tensor([[[[1.0]]], [[[0.0]]]])
    assert float(build_loss(ALL[1])(logits, both)) == pytest.approx(1 - 2 / 2.5)


def test_dice_leaves_batches_without_foreground_alone() -> None:
    logits = torch.zeros(1, 1, 2, 2, requires_grad=True)
    loss = build_loss(ALL[1])(logits, torch.zeros(1, 1, 2, 2))
    assert float(loss.detach()) == 0
    assert torch.autograd.grad(loss, logits)[0].count_nonzero() == 0


@pytest.mark.parametrize("params", ALL, ids=lambda params: params.name)
@pytest.mark.parametrize("value", [0.0, 1.0], ids=["empty truth", "full truth"])
@pytest.mark.parametrize("score", [-60.0, 0.0, 60.0], ids=["predicts nothing", "undecided", "predicts all"])
def test_losses_and_gradients_stay_finite(params: LossParams, value: float, score: float) -> None:
    logits = torch.full((2, 1, 4, 4), score, requires_grad=True)
    loss = build_loss(params)(logits, torch.full((2, 1, 4, 4), value))
    loss.backward()  # type: ignore[no-untyped-call]  # torch does not type it
    assert loss.ndim == 0
    assert torch.isfinite(loss)
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("params", ALL, ids=lambda params: params.name)
def test_a_perfect_prediction_costs_nothing_and_a_reversed_one_much(params: LossParams) -> None:
    target = torch.tensor([[[[1.0, 0.0, 1.0, 0.0]]]])
    loss = build_loss(params)
    assert float(loss((target * 2 - 1) * 30, target)) == pytest.approx(0, abs=1e-6)
    assert float(loss((1 - target * 2) * 30, target)) > 0.5


@pytest.mark.parametrize("params", ALL, ids=lambda params: params.name)
def test_a_step_down_the_gradient_lowers_the_loss(params: LossParams) -> None:
    torch.manual_seed(0)
    logits = torch.randn(2, 1, 8, 8, requires_grad=True)
    target = (torch.rand(2, 1, 8, 8) > 0.5).float()
    loss = build_loss(params)
    before = loss(logits, target)
    (slope,) = torch.autograd.grad(before, logits)
    assert loss(logits - 0.1 * slope, target) < before


@pytest.mark.parametrize(
    "section",
    [
        {"name": "dice", "smooth": -1.0},
        {"name": "bce_dice", "bce_weight": -0.5, "dice_weight": 1.0, "smooth": 1.0},
        {"name": "dice"},
        {"name": "focal"},
    ],
)
def test_wrong_sections_are_refused(section: dict[str, object]) -> None:
    with pytest.raises(UserError, match="loss"):
        validate(section, LossParams, "params.yaml: loss")
