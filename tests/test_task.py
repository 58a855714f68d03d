"""One step of training and of validation, driven by Lightning without any logger."""

import numpy as np
import pytest
import pytorch_lightning as pl
import tiny
import torch
from torch import Tensor, nn

from medseg.errors import UserError
from medseg.loading import training_batches, validation_batches
from medseg.losses import BCE, build_loss
from medseg.metrics import count_pixels, overlap_scores
from medseg.optimisation import Adam, Plateau, build_optimizer, build_scheduler
from medseg.store import Store
from medseg.task import SegmentationTask

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated:FutureWarning"),
]


class Line(nn.Module):
    """Logit = weight * (pixel - 100) / 100 + bias."""

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weight))
        self.bias = nn.Parameter(torch.tensor(0.0))

    def forward(self, pixels: Tensor) -> Tensor:
        return self.weight * (pixels.float() - 100) / 100 + self.bias


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return tiny.write_store(tmp_path_factory.mktemp("store"), 5)


def task(network: nn.Module, rate: float = 0.1, patience: int = 0) -> SegmentationTask:
    optimizer = build_optimizer(Adam(name="adam", learning_rate=rate), network.parameters())
    plateau = Plateau(name="plateau", monitor="val/loss", factor=0.1, patience=patience)
    return SegmentationTask(
        network, build_loss(BCE(name="bce")), optimizer, build_scheduler(plateau, optimizer), "val/loss"
    )


def trainer(epochs: int = 1) -> pl.Trainer:
    return pl.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )


def test_val_dice_is_pooled_over_all_pixels_of_all_batches(store: Store) -> None:
    network = Line(weight=-1.0)
    network.bias.data.fill_(0.55)  # marks dark noise as foreground: some hits by chance, many false positives
    (figures,) = trainer().validate(task(network), validation_batches(store, 2), verbose=False)
    with torch.no_grad():
        logits = network(torch.from_numpy(np.array(store.images)).permute(0, 3, 1, 2))[:, 0]
    predicted = (logits.sigmoid() >= 0.5).numpy().astype(np.uint8)
    assert 0 < predicted.mean() < 1
    assert figures["val/dice"] == pytest.approx(overlap_scores(count_pixels(predicted, store.masks))["dice"])


def test_val_loss_weighs_samples_alike_whatever_the_batches(store: Store) -> None:
    losses = [
        trainer().validate(task(Line()), validation_batches(store, size), verbose=False)[0]["val/loss"]
        for size in (2, 5)
    ]
    assert losses[0] == pytest.approx(losses[1])


def test_dice_is_0_where_there_is_nothing_to_find_and_nothing_found(store: Store) -> None:
    network = Line(weight=0.0)
    network.bias.data.fill_(-1.0)
    empty = Store(store.images, np.zeros_like(store.masks), store.index, store.geometry)
    (figures,) = trainer().validate(task(network), validation_batches(empty, 5), verbose=False)
    assert figures["val/dice"] == 0


def test_counts_start_anew_with_every_validation(store: Store) -> None:
    judged, fresh = task(Line()), trainer()
    first, again = (fresh.validate(judged, validation_batches(store, 2), verbose=False) for _ in range(2))
    assert first == again


def test_figures_stand_at_their_epoch_counted_from_1(store: Store) -> None:
    run = trainer(epochs=3)
    run.fit(task(Line()), training_batches(store, 2, seed=0), validation_batches(store, 2))
    assert run.callback_metrics["step"] == 3


def test_the_scheduler_hears_the_figure_that_it_watches(store: Store) -> None:
    # Steps too small to matter: without patience the rate falls after the second epoch and after the third.
    judged = task(Line(), rate=1e-6, patience=0)
    trainer(epochs=3).fit(judged, training_batches(store, 2, seed=0), validation_batches(store, 2))
    assert judged.optimizer.param_groups[0]["lr"] == pytest.approx(1e-8)


def test_a_loss_that_is_no_number_stops_training(store: Store) -> None:
    network = Line()
    network.bias.data.fill_(float("nan"))
    with pytest.raises(UserError, match=r"train/loss is nan in epoch 1.*optimizer\.learning_rate"):
        trainer().fit(task(network), training_batches(store, 2, seed=0), validation_batches(store, 2))


def test_training_moves_the_weights_it_was_given(store: Store) -> None:
    network = Line()
    trainer(epochs=2).fit(task(network), training_batches(store, 2, seed=0), validation_batches(store, 2))
    assert network.weight.item() != 1.0
