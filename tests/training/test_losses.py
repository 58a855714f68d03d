"""Losses against values worked out by hand, their limits, and what must hold between them."""

import math
from collections.abc import Callable
from itertools import pairwise, product
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from segmentation_models_pytorch.losses import DiceLoss, FocalLoss, LovaszLoss, TverskyLoss
from torch import Tensor

from medseg.core.errors import UserError
from medseg.core.params import read_yaml, validate
from medseg.data.task import UNANNOTATED
from medseg.training.losses import build_loss, check_heads, deep_supervision
from medseg.training.params import BCE, BCEDice, CEDice, CrossEntropy, Dice, Focal, LossParams, Lovasz, Tversky

Floats = NDArray[np.float64]
Codes = NDArray[np.uint8]

ALONE = [1.0]  # the final output


def bce() -> BCE:
    return BCE(name="bce", head_weights=ALONE)


def cross_entropy() -> CrossEntropy:
    return CrossEntropy(name="cross_entropy", head_weights=ALONE)


def dice(smooth: float = 1.0) -> Dice:
    return Dice(name="dice", smooth=smooth, head_weights=ALONE)


def bce_dice(bce_weight: float = 0.25, dice_weight: float = 2.0) -> BCEDice:
    return BCEDice(name="bce_dice", bce_weight=bce_weight, dice_weight=dice_weight, smooth=1.0, head_weights=ALONE)


def ce_dice(ce_weight: float = 0.25, dice_weight: float = 2.0) -> CEDice:
    return CEDice(name="ce_dice", ce_weight=ce_weight, dice_weight=dice_weight, smooth=1.0, head_weights=ALONE)


def focal(alpha: float = 0.25, gamma: float = 2.0) -> Focal:
    return Focal(name="focal", alpha=alpha, gamma=gamma, head_weights=ALONE)


def tversky(alpha: float = 0.3, beta: float = 0.7, gamma: float = 1.0) -> Tversky:
    return Tversky(name="tversky", alpha=alpha, beta=beta, gamma=gamma, head_weights=ALONE)


def lovasz(per_image: bool = False) -> Lovasz:
    return Lovasz(name="lovasz", per_image=per_image, head_weights=ALONE)


# Each loss with the numbers of logits that it is for.
LOSSES: dict[str, list[tuple[LossParams, int]]] = {
    "bce": [(bce(), 1)],
    "cross_entropy": [(cross_entropy(), 3)],
    "dice": [(dice(), 1), (dice(smooth=0.0), 3)],
    "bce_dice": [(bce_dice(), 1)],
    "ce_dice": [(ce_dice(), 3)],
    "focal": [(focal(), 1), (focal(gamma=0.5), 1), (focal(), 3)],
    "tversky": [(tversky(), 1), (tversky(gamma=4 / 3), 1), (tversky(gamma=4 / 3), 3)],
    "lovasz": [(lovasz(), 1), (lovasz(per_image=True), 3)],
}
each_loss = pytest.mark.parametrize("cases", LOSSES.values(), ids=LOSSES)
Cases = list[tuple[LossParams, int]]


def codes(*pixels: int) -> Tensor:
    """Truth (1, 1, 1, N)."""
    return torch.tensor(pixels, dtype=torch.uint8).reshape(1, 1, 1, -1)


def random_batch(channels: int, side: int = 5, images: int = 2) -> tuple[Tensor, Tensor]:
    """Logits in double precision, and a truth in which every code occurs."""
    generator = torch.Generator().manual_seed(7)
    logits = torch.randn(images, channels, side, side, dtype=torch.float64, generator=generator)
    classes = max(channels, 2)
    truth = torch.randint(0, classes, (images, 1, side, side), dtype=torch.uint8, generator=generator)
    truth[:, 0, 0, :classes] = torch.arange(classes, dtype=torch.uint8)
    return logits, truth


def slope(loss: Callable[[Tensor, Tensor], Tensor], logits: Tensor, truth: Tensor) -> Tensor:
    scores = logits.detach().clone().requires_grad_()
    return torch.autograd.grad(loss(scores, truth), scores)[0]


# Three pixels: a hit, a right background, a miss.
ONE_P = [0.9, 0.2, 0.4]
ONE_LOGITS = torch.logit(torch.tensor(ONE_P, dtype=torch.float64)).reshape(1, 1, 1, -1)
ONE_TRUTH = codes(1, 0, 1)
ONE_BCE = -(math.log(0.9) + math.log(0.8) + math.log(0.4)) / 3
ONE_DICE = 1 - ((0.9 + 0.4) + 1) / (((0.9 + 0.2 + 0.4) + 2) / 2 + 1)  # one pixel of smoothing above and below

# Four pixels of three classes; a row per class, background first.
MANY_P = [[0.7, 0.1, 0.2, 0.3], [0.2, 0.6, 0.3, 0.3], [0.1, 0.3, 0.5, 0.4]]
MANY_LOGITS = torch.tensor(MANY_P, dtype=torch.float64).log().reshape(1, 3, 1, 4)
MANY_TRUTH = codes(0, 1, 2, 1)
MANY_CE = -(math.log(0.7) + math.log(0.6) + math.log(0.5) + math.log(0.3)) / 4
MANY_DICE = (
    (1 - ((0.6 + 0.3) + 1) / (((0.2 + 0.6 + 0.3 + 0.3) + 2) / 2 + 1))  # class 1
    + (1 - (0.5 + 1) / (((0.1 + 0.3 + 0.5 + 0.4) + 1) / 2 + 1))  # class 2
) / 2


def jaccard_loss(wrong: set[int], true: set[int]) -> float:
    """1 - IoU of a prediction that is wrong in the pixels `wrong` (Berman et al., section 2)."""
    return len(wrong) / len(true | wrong) if wrong else 0.0


def lovasz_extension(errors: list[float], true: set[int]) -> float:
    """The area under the loss of the set of pixels whose error exceeds a level, as the level rises."""
    levels = [0.0, *sorted(errors)]
    return sum(
        (above - level) * jaccard_loss({pixel for pixel, error in enumerate(errors) if error > level}, true)
        for level, above in pairwise(levels)
    )


def test_cross_entropies_by_hand() -> None:
    assert float(build_loss(bce(), 1)(ONE_LOGITS, ONE_TRUTH)) == pytest.approx(ONE_BCE)
    assert float(build_loss(cross_entropy(), 3)(MANY_LOGITS, MANY_TRUTH)) == pytest.approx(MANY_CE)


def test_dice_by_hand() -> None:
    assert float(build_loss(dice(), 1)(ONE_LOGITS, ONE_TRUTH)) == pytest.approx(ONE_DICE)
    assert float(build_loss(dice(), 3)(MANY_LOGITS, MANY_TRUTH)) == pytest.approx(MANY_DICE)


def test_the_sums_weigh_both() -> None:
    by_hand = 0.25 * ONE_BCE + 2 * ONE_DICE
    assert float(build_loss(bce_dice(0.25, 2.0), 1)(ONE_LOGITS, ONE_TRUTH)) == pytest.approx(by_hand)
    by_hand = 0.25 * MANY_CE + 2 * MANY_DICE
    assert float(build_loss(ce_dice(0.25, 2.0), 3)(MANY_LOGITS, MANY_TRUTH)) == pytest.approx(by_hand)


def test_focal_by_hand() -> None:
    one = -(0.25 * 0.1**2 * math.log(0.9) + 0.75 * 0.2**2 * math.log(0.8) + 0.25 * 0.6**2 * math.log(0.4)) / 3
    assert float(build_loss(focal(0.25, 2.0), 1)(ONE_LOGITS, ONE_TRUTH)) == pytest.approx(one)
    foreground = 0.4**2 * math.log(0.6) + 0.5**2 * math.log(0.5) + 0.7**2 * math.log(0.3)
    many = -(0.75 * 0.3**2 * math.log(0.7) + 0.25 * foreground) / 4
    assert float(build_loss(focal(0.25, 2.0), 3)(MANY_LOGITS, MANY_TRUTH)) == pytest.approx(many)


def test_tversky_by_hand() -> None:
    gamma = 3.0
    hits, extra, missed = 0.9 + 0.4, 0.2, 0.1 + 0.6
    one = (1 - hits / (hits + 0.3 * extra + 0.7 * missed)) ** (1 / gamma)
    assert float(build_loss(tversky(0.3, 0.7, gamma), 1)(ONE_LOGITS, ONE_TRUTH)) == pytest.approx(one)
    first = 1 - 0.9 / (0.9 + 0.3 * (0.2 + 0.3) + 0.7 * (0.4 + 0.7))
    second = 1 - 0.5 / (0.5 + 0.3 * (0.1 + 0.3 + 0.4) + 0.7 * 0.5)
    many = (first ** (1 / gamma) + second ** (1 / gamma)) / 2
    assert float(build_loss(tversky(0.3, 0.7, gamma), 3)(MANY_LOGITS, MANY_TRUTH)) == pytest.approx(many)


@settings(max_examples=60)
@given(
    logits=arrays(np.float64, 6, elements=st.floats(-4, 4)),
    truth=arrays(np.uint8, 6, elements=st.integers(0, 1)),
)
def test_lovasz_hinge_is_the_area_over_all_levels_of_error(logits: Floats, truth: Codes) -> None:
    errors = [max(0.0, 1 - score if true else 1 + score) for score, true in zip(logits, truth, strict=True)]
    expected = lovasz_extension(errors, {pixel for pixel, true in enumerate(truth) if true})
    found = build_loss(lovasz(), 1)(torch.from_numpy(logits).reshape(1, 1, 2, 3), codes(*truth).reshape(1, 1, 2, 3))
    assert float(found) == pytest.approx(expected, abs=1e-12)


@settings(max_examples=60)
@given(
    logits=arrays(np.float64, (3, 6), elements=st.floats(-4, 4)),
    truth=arrays(np.uint8, 6, elements=st.integers(0, 2)),
)
def test_lovasz_softmax_is_the_mean_area_of_the_classes_that_occur(logits: Floats, truth: Codes) -> None:
    rng_states = np.exp(logits) / np.exp(logits).sum(axis=0)
    expected = [
        lovasz_extension(
            [float(error) for error in np.abs((truth == code) - rng_states[code])],
            {pixel for pixel, true in enumerate(truth) if true == code},
        )
        for code in set(truth.tolist())
    ]
    found = build_loss(lovasz(), 3)(torch.from_numpy(logits).reshape(1, 3, 2, 3), codes(*truth).reshape(1, 1, 2, 3))
    assert float(found) == pytest.approx(np.mean(expected), abs=1e-12)


def test_the_library_agrees_where_both_mean_the_same() -> None:
    logits, truth = (part.float() for part in random_batch(1))
    several, labels = (part.float() for part in random_batch(3))
    labels = labels.long().squeeze(1)
    pairs: list[tuple[LossParams, int, Tensor]] = [
        (dice(), 1, DiceLoss("binary", smooth=1.0)(logits, truth)),
        (dice(), 3, DiceLoss("multiclass", classes=[1, 2], smooth=1.0)(several, labels)),
        (focal(0.25, 2.0), 1, FocalLoss("binary", alpha=0.25, gamma=2.0)(logits, truth)),
        (tversky(0.3, 0.7, 4 / 3), 1, TverskyLoss("binary", alpha=0.3, beta=0.7, gamma=3 / 4)(logits, truth)),
        (tversky(0.3, 0.7), 3, TverskyLoss("multiclass", classes=[1, 2], alpha=0.3, beta=0.7)(several, labels)),
        *(
            (lovasz(per_image), channels, LovaszLoss(mode, per_image=per_image)(scores, target))
            for per_image in (False, True)
            for channels, mode, scores, target in [(1, "binary", logits, truth), (3, "multiclass", several, labels)]
        ),
    ]
    for params, channels, expected in pairs:
        batch = (logits, truth.byte()) if channels == 1 else (several, labels.unsqueeze(1).byte())
        assert float(build_loss(params, channels)(*batch)) == pytest.approx(float(expected), rel=1e-5), params


SURE = 20.0  # a logit beside which e^-20 = 2e-9 is nothing
LIMITS: list[tuple[LossParams, int, float, float, float]] = [
    # loss, channels, false alarm everywhere, object that fills the image missed, right either way
    (bce(), 1, SURE, SURE, 0),
    (dice(), 1, 0, 1 - 1 / 9, 0),  # 16 pixels, (0 + 1) / (16 / 2 + 1)
    (dice(smooth=0.0), 1, 0, 1, 0),
    (bce_dice(0.25, 2.0), 1, 0.25 * SURE, 0.25 * SURE + 2 * (1 - 1 / 9), 0),
    (focal(0.25, 2.0), 1, 0.75 * SURE, 0.25 * SURE, 0),
    (tversky(), 1, 0, 1, 0),
    (tversky(gamma=4 / 3), 1, 0, 1, 0),
    (lovasz(), 1, SURE + 1, SURE + 1, 0),
    (cross_entropy(), 3, SURE, SURE, 0),
    (dice(), 3, 0, 1 - 1 / 9, 0),
    (ce_dice(0.25, 2.0), 3, 0.25 * SURE, 0.25 * SURE + 2 * (1 - 1 / 9), 0),
    (focal(0.25, 2.0), 3, 0.75 * SURE, 0.25 * SURE, 0),
    (tversky(), 3, 0, 1, 0),
    (lovasz(), 3, 1, 1, 0),
]


@pytest.mark.parametrize(
    ("params", "channels", "alarm", "miss", "right"), LIMITS, ids=[f"{case[0].name}-{case[1]}" for case in LIMITS]
)
def test_empty_and_full_images(params: LossParams, channels: int, alarm: float, miss: float, right: float) -> None:
    loss = build_loss(params, channels)
    nothing, everything = (torch.full((1, 1, 4, 4), code, dtype=torch.uint8) for code in (0, 1))

    def sure_of(code: int) -> Tensor:
        if channels == 1:
            return torch.full((1, 1, 4, 4), SURE if code else -SURE)
        return torch.eye(channels)[code].reshape(1, channels, 1, 1).expand(1, channels, 4, 4) * SURE

    assert float(loss(sure_of(1), nothing)) == pytest.approx(alarm, abs=1e-6)
    assert float(loss(sure_of(0), everything)) == pytest.approx(miss, abs=1e-6)
    assert float(loss(sure_of(0), nothing)) == pytest.approx(right, abs=1e-6)
    assert float(loss(sure_of(1), everything)) == pytest.approx(right, abs=2e-6)


@pytest.mark.parametrize("params", [dice(), tversky(gamma=4 / 3)], ids=lambda params: params.name)
def test_overlap_leaves_batches_without_foreground_alone(params: LossParams) -> None:
    for channels in (1, 3):
        logits, truth = random_batch(channels)
        assert slope(build_loss(params, channels), logits, torch.zeros_like(truth)).count_nonzero() == 0


@pytest.mark.parametrize("params", [dice(), tversky(gamma=4 / 3), lovasz()], ids=lambda params: params.name)
def test_classes_that_do_not_occur_leave_the_mean(params: LossParams) -> None:
    logits, truth = random_batch(3)
    truth = (truth == 1).byte()
    unlikely = torch.full_like(logits[:, :1], -1e4)
    assert float(build_loss(params, 4)(torch.cat([logits, unlikely], dim=1), truth)) == pytest.approx(
        float(build_loss(params, 3)(logits, truth))
    )


@each_loss
def test_half_precision_neither_overflows_nor_enters_the_sums(cases: Cases) -> None:
    for (params, channels), dtype in product(cases, (torch.float16, torch.bfloat16)):
        loss = build_loss(params, channels)
        for score, code in product((-60000.0, 0.0, 60000.0), (0, 1)):
            truth = torch.full((2, 1, 4, 4), code, dtype=torch.uint8)
            logits = torch.zeros(2, channels, 4, 4, dtype=dtype)
            logits[:, -1] = score
            logits[0, -1, :2] = -score
            assert torch.isfinite(loss(logits, truth))
            assert torch.isfinite(slope(loss, logits, truth)).all()
        large = torch.zeros(1, channels, 512, 512, dtype=dtype)  # 262,144 pixels, half precision ends at 65,504
        large[:, -1] = 0.5
        truth = torch.ones(1, 1, 512, 512, dtype=torch.uint8)
        with torch.autocast("cpu", torch.bfloat16):
            found = loss(large, truth)
        assert found.dtype == torch.float32
        assert float(found) == pytest.approx(float(loss(large.double(), truth)), rel=1e-5)


@each_loss
def test_slopes_are_those_of_the_loss(cases: Cases) -> None:
    for params, channels in cases:
        logits, truth = random_batch(channels, side=3)
        loss = build_loss(params, channels)
        assert loss(logits, truth).dtype == torch.float64
        assert torch.autograd.gradcheck(loss, (logits.requires_grad_(), truth))


def small_lesion() -> tuple[Tensor, Tensor]:
    """A lesion of 9 among 262,144 pixels; logits that single precision holds exactly, and no two with one error."""
    truth = torch.zeros(1, 1, 512, 512, dtype=torch.uint8)
    truth[..., :3, :3] = 1
    order = torch.randperm(truth.numel(), generator=torch.Generator().manual_seed(0)).reshape(truth.shape)
    return (2 * order + truth) / 2**18 - 1.0, truth


@pytest.mark.parametrize("params", [tversky(gamma=4 / 3), lovasz()], ids=lambda params: params.name)
def test_slopes_of_a_small_lesion_in_a_large_image_are_not_lost_to_rounding(params: LossParams) -> None:
    logits, truth = small_lesion()
    loss = build_loss(params, 1)
    exact = slope(loss, logits.double(), truth)
    assert exact.count_nonzero() > 200_000
    torch.testing.assert_close(slope(loss, logits, truth).double(), exact, rtol=1e-4, atol=0)


def test_focal_keeps_its_precision_where_a_pixel_is_nearly_right() -> None:
    left = 1 / (1 + math.exp(12))  # of the probability: 6e-6, where 1 - p in single precision is 1 % off
    by_hand = -0.25 * left**0.5 * math.log1p(-left)
    found = build_loss(focal(0.25, 0.5), 1)(torch.full((1, 1, 1, 1), 12.0), codes(1))
    assert float(found) == pytest.approx(by_hand, rel=1e-5, abs=0)


def test_the_outputs_losses_are_averaged_by_weight() -> None:
    outputs = [torch.full((1, 1, 2, 2), score) for score in (3.0, 1.0, -2.0)]
    truth = torch.ones(1, 1, 2, 2, dtype=torch.uint8)
    costs = [math.log1p(math.exp(-score)) for score in (3.0, 1.0, -2.0)]
    loss = deep_supervision(build_loss(bce(), 1), [1.0, 0.5, 0.25])
    assert float(loss(outputs, truth)) == pytest.approx((costs[0] + 0.5 * costs[1] + 0.25 * costs[2]) / 1.75)


def test_outputs_without_weight_are_left_alone() -> None:
    broken = torch.full_like(ONE_LOGITS, math.nan)
    loss = deep_supervision(build_loss(bce(), 1), [0.0, 2.0])
    assert float(loss([broken, ONE_LOGITS, broken], ONE_TRUTH)) == pytest.approx(ONE_BCE)


def test_more_weights_than_outputs_are_refused() -> None:
    params = BCE(name="bce", head_weights=[1.0, 0.5, 0.25])
    check_heads(params, 3)
    check_heads(params, 4)
    for heads in (1, 2):
        with pytest.raises(UserError, match=r"params\.yaml: loss\.head_weights"):
            check_heads(params, heads)


def test_a_loss_for_another_number_of_logits_is_refused() -> None:
    for params, logits in ((bce(), 3), (bce_dice(), 3), (cross_entropy(), 1), (ce_dice(), 1)):
        with pytest.raises(UserError, match=rf"params\.yaml: loss\.name = '{params.name}'"):
            build_loss(params, logits)


def test_every_loss_has_a_file_of_its_name_that_holds_for_it(project: Path) -> None:
    files = sorted((project / "conf" / "loss").glob("*.yaml"))
    for file in files:
        assert validate(read_yaml(file), LossParams, str(file)).name == file.stem
    assert {file.stem for file in files} == set(LOSSES)


@pytest.mark.parametrize(
    ("section", "fault"),
    [
        ({"name": "dice", "smooth": -1.0}, r"loss\.smooth"),
        ({"name": "lovasz"}, r"loss\.per_image"),
        ({"name": "bce_dice", "bce_weight": 0.0, "dice_weight": 0.0, "smooth": 1.0}, "loss = 'bce_dice'"),
        ({"name": "ce_dice", "ce_weight": 0.0, "dice_weight": 0.0, "smooth": 1.0}, "loss = 'ce_dice'"),
        ({"name": "focal", "alpha": 1.5, "gamma": 2.0}, r"loss\.alpha"),
        ({"name": "tversky", "alpha": 0.3, "beta": 0.7, "gamma": 0.75}, r"loss\.gamma"),
        ({"name": "bce", "head_weights": [1.0, -0.5]}, r"loss\.head_weights\.1"),
        ({"name": "bce", "head_weights": [0.0, 0.0]}, r"loss\.head_weights"),
    ],
)
def test_wrong_sections_are_refused(section: dict[str, object], fault: str) -> None:
    with pytest.raises(UserError, match=f"params.yaml: {fault}"):
        validate({"head_weights": ALONE, **section}, LossParams, "params.yaml: loss")


@each_loss
def test_only_annotated_pixels_count(cases: Cases) -> None:
    """A loss of annotated columns is that of an image which holds nothing else, whatever the network says beside."""
    for params, channels in cases:
        logits, truth = random_batch(channels)
        loss = build_loss(params, channels)
        beside = torch.full_like(truth, UNANNOTATED)
        wide_truth = torch.cat([truth, beside], dim=-1)
        for elsewhere in (torch.zeros_like(logits), 20 * torch.randn_like(logits)):
            wide = torch.cat([logits, elsewhere], dim=-1)
            torch.testing.assert_close(loss(wide, wide_truth), loss(logits, truth))
            gradient = slope(loss, wide, wide_truth)
            torch.testing.assert_close(gradient[..., :5], slope(loss, logits, truth))
            assert not gradient[..., 5:].any()


@each_loss
def test_a_batch_of_which_nothing_is_known_has_no_loss(cases: Cases) -> None:
    for params, channels in cases:
        logits, truth = random_batch(channels)
        nothing = torch.full_like(truth, UNANNOTATED)
        loss = build_loss(params, channels)
        assert loss(logits, nothing) == 0
        assert not slope(loss, logits, nothing).any()
