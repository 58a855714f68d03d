"""One step of training and of validation, driven by Lightning without any logger."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
import pytorch_lightning as pl
import tiny
import torch
from torch import Tensor, nn

from medseg.core.errors import UserError
from medseg.data.packed import Packed
from medseg.data.task import UNANNOTATED
from medseg.metrics.overlap import count_pixels, overlap_scores
from medseg.models.network import Network
from medseg.training.dataloader import Batches, training_batches, validation_batches
from medseg.training.lightning_module import SegmentationModule, predicted_codes
from medseg.training.losses import LossFunction, build_loss
from medseg.training.optim import build_optimizer, build_schedule
from medseg.training.params import BCE, Adam, CrossEntropy, Plateau, Poly, SchedulerParams, Uniform
from medseg.training.sampler import Sampling

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated:FutureWarning"),
]

STEPS = 2  # of an epoch: five samples in batches of two


class Line(nn.Module):
    """Logit = weight * normalised pixel + bias."""

    def __init__(self, weight: float = 1.0, bias: float = 0.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weight))
        self.bias = nn.Parameter(torch.tensor(bias))

    def forward(self, pixels: Tensor) -> Tensor:
        return self.weight * pixels + self.bias


class Heads(Line):
    """Two further outputs, which know less."""

    head_count = 3

    def heads(self, pixels: Tensor) -> list[Tensor]:
        return [self(pixels), self(pixels) / 2, self(pixels) / 4]


class Scores(nn.Module):
    """The same logits of every class for every image, whatever it shows."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits)  # (K, H, W)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.logits.expand(len(pixels), -1, -1, -1)


def wrapped(core: nn.Module) -> Network:
    """The core sees (pixel - 100) / 100."""
    return Network(core, 1, [100 / 255], [100 / 255])


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Packed:
    return tiny.write_packed(tmp_path_factory.mktemp("store"), 5)


PLATEAU = Plateau(name="plateau", monitor="val/loss", factor=0.1, patience=0)


def task(
    core: nn.Module,
    rate: float = 0.1,
    scheduler: SchedulerParams = PLATEAU,
    head_weights: tuple[float, ...] = (1.0,),
    epochs: int = 3,
    logits: int = 1,
) -> SegmentationModule:
    network = wrapped(core)
    optimizer = build_optimizer(Adam(name="adam", fused=True, learning_rate=rate, encoder_factor=1.0), network)
    schedule = build_schedule(scheduler, optimizer, epochs, STEPS)
    return SegmentationModule(network, loss_for(logits), list(head_weights), optimizer, schedule, logits)


def loss_for(logits: int) -> LossFunction:
    if logits == 1:
        return build_loss(BCE(name="bce", head_weights=[1.0]), 1)
    return build_loss(CrossEntropy(name="cross_entropy", head_weights=[1.0]), logits)


def training(store: Packed, size: int = 2) -> Batches:
    sampling = Sampling(Uniform(name="uniform"), store, 0)
    return training_batches(store, np.ones(len(store.images), np.uint8), sampling, tiny.online(), size, 0)


def validation(store: Packed, size: int = 2, code: int = 1) -> Batches:
    return validation_batches(store, np.full(len(store.images), code, np.uint8), size)


def validated(judged: SegmentationModule, batches: Batches) -> dict[str, float]:
    (scores,) = trainer().validate(judged, batches, verbose=False)
    return dict(scores)


def trainer(epochs: int = 1, *callbacks: pl.Callback) -> pl.Trainer:
    return pl.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        logger=False,
        callbacks=list(callbacks),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )


def test_val_dice_is_pooled_over_all_pixels_at_a_probability_of_one_half(store: Packed) -> None:
    core = Line(bias=0.55)  # marks dark noise as foreground: some hits by chance, many false positives
    scores = validated(task(core), validation(store))
    with torch.no_grad():
        logits = wrapped(core)(torch.from_numpy(np.array(store.images)).permute(0, 3, 1, 2))[:, 0]
    predicted = (logits.sigmoid() >= 0.5).numpy().astype(np.uint8)
    assert 0 < predicted.mean() < 1
    assert scores["val/dice"] == pytest.approx(overlap_scores(count_pixels(predicted, store.masks))["dice"])


def test_val_loss_weighs_samples_alike_whatever_the_batches(store: Packed) -> None:
    losses = [validated(task(Line()), validation(store, size))["val/loss"] for size in (2, 5)]
    assert losses[0] == pytest.approx(losses[1])


def test_dice_is_0_where_there_is_nothing_to_find_and_nothing_found(store: Packed) -> None:
    empty = Packed(store.images, np.zeros_like(store.masks), store.index, store.geometry)
    assert validated(task(Line(weight=0.0, bias=-1.0)), validation(empty, 5))["val/dice"] == 0


def test_the_dice_of_a_constant_prediction_is_that_of_all_foreground(store: Packed) -> None:
    judged = task(Line(weight=0.0, bias=1.0))
    assert judged.constant_dice == 0
    everything = validated(judged, validation(store, 2))["val/dice"]
    assert judged.constant_dice == pytest.approx(everything) == pytest.approx(2 / (1 + 1 / store.masks.mean()))


def test_only_annotated_pixels_are_validated(store: Packed) -> None:
    known = np.zeros(store.masks.shape, bool)
    known[:, 4:25, 3:20] = True
    partly = Packed(store.images, np.where(known, store.masks, UNANNOTATED), store.index, store.geometry)
    judged, whole = task(Line(bias=0.55)), task(Line(bias=0.55))
    scores = validated(judged, validation(partly))
    window = Packed(store.images[:, 4:25, 3:20], store.masks[:, 4:25, 3:20], store.index, store.geometry)
    assert scores == pytest.approx(validated(whole, validation(window)))
    assert judged.constant_dice == whole.constant_dice


def test_counts_start_anew_with_every_validation(store: Packed) -> None:
    judged, fresh = task(Line()), trainer()
    first, again = (fresh.validate(judged, validation(store), verbose=False) for _ in range(2))
    assert first == again


def by_hand(truth: list[list[int]], predicted: list[int]) -> float:
    """val/dice of images of 1 x 4 pixels, of which the network says the same each time; codes 0, 1, 2."""
    codes = np.array(truth, np.uint8)
    masks = codes[:, None, :]
    store = Packed(np.zeros((*masks.shape, 1), np.uint8), masks, pd.DataFrame(), tiny.resize())
    logits = nn.functional.one_hot(torch.tensor(predicted), 3).T[:, None, :] * 9.0
    # The masks hold the codes themselves here, so that one image can have pixels of both classes.
    return validated(task(Scores(logits), logits=3), validation(store))["val/dice"]


def test_val_dice_of_several_classes_is_the_mean_of_their_pooled_dice() -> None:
    # Class 1: one hit and one miss in the first image, one false positive in the second: 2 / (2 + 1 + 1).
    # Class 2: two hits, of which one in each image, and a miss: 4 / (4 + 0 + 1).
    truth = [[1, 1, 0, 2], [0, 2, 0, 2]]
    assert by_hand(truth, [1, 0, 0, 2]) == pytest.approx((2 / 4 + 4 / 5) / 2)


def test_a_class_that_neither_truth_nor_prediction_holds_leaves_the_mean() -> None:
    assert by_hand([[1, 1, 0, 0], [1, 1, 0, 0]], [1, 0, 0, 0]) == pytest.approx(4 / 6)


def test_a_class_that_is_only_predicted_or_only_true_counts_as_0() -> None:
    assert by_hand([[1, 1, 0, 0]], [1, 1, 0, 2]) == pytest.approx(1 / 2)
    assert by_hand([[1, 1, 0, 2]], [1, 1, 0, 0]) == pytest.approx(1 / 2)


def test_nothing_to_find_in_any_class_and_nothing_found_is_0() -> None:
    assert by_hand([[0, 0, 0, 0]], [0, 0, 0, 0]) == 0


def test_a_pixel_is_foreground_where_all_classes_together_are_as_likely_as_not() -> None:
    shares = torch.tensor([[0.4, 0.35, 0.25], [0.4, 0.25, 0.35], [0.6, 0.3, 0.1], [0.5, 0.2, 0.3]])
    assert predicted_codes(shares.log().T[None, :, :, None])[0, :, 0].tolist() == [1, 2, 0, 2]


def test_a_binary_pixel_is_foreground_from_a_logit_of_0_on() -> None:
    assert predicted_codes(torch.tensor([-0.1, 0.0, 0.1]).view(1, 1, 3, 1))[0, :, 0].tolist() == [0, 1, 1]


def test_val_loss_is_that_of_the_final_output(store: Packed) -> None:
    many = validated(task(Heads(), head_weights=(1.0, 0.5, 0.25)), validation(store))
    assert many["val/loss"] == pytest.approx(validated(task(Line()), validation(store))["val/loss"])


def test_train_loss_is_the_weighted_mean_over_the_outputs(store: Packed) -> None:
    pixels, truth = next(iter(validation(store, 5)))
    losses = [loss_for(1)(logits, truth).item() for logits in wrapped(Heads()).heads(pixels)]
    logged = [train_loss(store, Heads(), weights) for weights in ((1.0,), (1.0, 0.5, 0.25), (0.0, 1.0))]
    assert len(set(losses)) == 3
    expected = [losses[0], (losses[0] + losses[1] / 2 + losses[2] / 4) / 1.75, losses[1]]
    assert logged == pytest.approx(expected, rel=1e-5)


def train_loss(store: Packed, core: nn.Module, head_weights: tuple[float, ...]) -> float:
    """Of one step over all samples."""
    run = trainer()
    run.fit(task(core, head_weights=head_weights), training(store, 5), validation(store))
    return float(run.callback_metrics["train/loss"])


def test_metrics_stand_at_their_epoch_counted_from_1(store: Packed) -> None:
    run = trainer(epochs=3)
    run.fit(task(Line()), training(store), validation(store))
    assert run.callback_metrics["step"] == 3


class Rates(pl.Callback):
    """Keeps the rate of every step, and what is logged of every epoch."""

    def __init__(self) -> None:
        self.steps: list[float] = []
        self.logged: list[float] = []

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        self.steps.append(trainer.optimizers[0].param_groups[0]["lr"])

    def on_train_epoch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self.logged.append(float(trainer.callback_metrics["learning_rate"]))


def test_a_schedule_by_epoch_hears_the_figure_that_it_watches(store: Packed) -> None:
    # Steps too small to matter: without patience the rate falls after the second epoch and after the third.
    judged, rates = task(Line(), rate=1e-6), Rates()
    trainer(3, rates).fit(judged, training(store), validation(store))
    assert rates.steps == pytest.approx([1e-6] * 4 + [1e-7] * 2)
    assert rates.logged == pytest.approx([1e-6, 1e-6, 1e-7])
    assert judged.optimizer.param_groups[0]["lr"] == pytest.approx(1e-8)


def test_a_schedule_by_step_moves_at_every_step(store: Packed) -> None:
    judged, rates = task(Line(), rate=0.6, scheduler=Poly(name="poly", power=1.0)), Rates()
    trainer(3, rates).fit(judged, training(store), validation(store))
    assert rates.steps == pytest.approx([0.6, 0.5, 0.4, 0.3, 0.2, 0.1])
    assert rates.logged == pytest.approx([0.6, 0.4, 0.2])


def test_without_a_schedule_the_rate_stays(store: Packed) -> None:
    network = wrapped(Line())
    optimizer = build_optimizer(Adam(name="adam", fused=True, learning_rate=0.1, encoder_factor=1.0), network)
    rates = Rates()
    judged = SegmentationModule(network, loss_for(1), [1.0], optimizer, None, 1)
    trainer(2, rates).fit(judged, training(store), validation(store))
    assert rates.steps == [0.1] * 4


def test_a_loss_that_is_no_number_stops_training(store: Packed) -> None:
    with pytest.raises(UserError, match=r"train/loss is nan in epoch 1.*optimizer\.learning_rate"):
        trainer().fit(task(Line(bias=float("nan"))), training(store), validation(store))


def test_training_moves_the_weights_it_was_given(store: Packed) -> None:
    core = Line()
    trainer(epochs=2).fit(task(core), training(store), validation(store))
    assert core.weight.item() != 1.0
