"""Whole training runs, small: what is kept, logged, repeated and refused."""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tiny
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]
from torch import Tensor

from medseg import training
from medseg.description import Description
from medseg.errors import UserError
from medseg.losses import BCEDice
from medseg.machine import MachineParams
from medseg.metrics import count_pixels, overlap_scores
from medseg.models.network import Network
from medseg.optimisation import Adam, AdamW, Plateau
from medseg.store import Store
from medseg.training import Places, Recipe, TrainParams, fit

TRAIN = TrainParams(
    epochs=3,
    batch_size=2,
    patience=10,
    gradient_clip=1.0,
    precision="32-true",
    deterministic=True,
    tensorboard=False,
)
RECIPE = Recipe(
    model=tiny.unet(),
    loss=BCEDice(name="bce_dice", bce_weight=0.5, dice_weight=0.5, smooth=1.0),
    optimizer=Adam(name="adam", learning_rate=3e-3),
    scheduler=Plateau(name="plateau", monitor="val/dice", factor=0.1, patience=5),
    train=TRAIN,
    seed=0,
)


def recipe(**train: Any) -> Recipe:
    return replace(RECIPE, train=TRAIN.model_copy(update=train))


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Store]:
    folder = tmp_path_factory.mktemp("stores")
    return tiny.write_store(folder / "train", 5), tiny.write_store(folder / "val", 3, seed=1)


def run(
    stores: tuple[Store, Store], recipe: Recipe, folder: Path, machine: MachineParams = tiny.CPU
) -> tuple[Network, Description]:
    return fit(*stores, recipe, Places(folder / "weights", folder / "metrics/train", folder / "tensorboard"), machine)


def val_dice(network: Network, val: Store) -> float:
    with torch.no_grad():
        logits = network(torch.from_numpy(np.array(val.images)).permute(0, 3, 1, 2))[:, 0]
    return overlap_scores(count_pixels((logits.sigmoid() >= 0.5).numpy().astype(np.uint8), val.masks))["dice"]


def column(folder: Path, name: str) -> pd.DataFrame:
    return pd.read_csv(folder / f"metrics/train/plots/metrics/{name}.tsv", sep="\t", float_precision="round_trip")


def equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return all(torch.equal(first[key], second[key]) for key in first)


class Finished:
    """One run of three epochs in an empty folder that holds another project's dvc.yaml."""

    def __init__(self, folder: Path, stores: tuple[Store, Store]) -> None:
        self.folder = folder
        (folder / "dvc.yaml").write_text("stages: {}\n")
        (folder / "metrics/train").mkdir(parents=True)
        (folder / "metrics/train/old.txt").write_text("of an earlier run")
        before = Path.cwd()
        os.chdir(folder)
        try:
            self.network, self.description = run(stores, recipe(tensorboard=True), folder)
        finally:
            os.chdir(before)


@pytest.fixture(scope="module")
def finished(stores: tuple[Store, Store], tmp_path_factory: pytest.TempPathFactory) -> Finished:
    return Finished(tmp_path_factory.mktemp("finished"), stores)


@pytest.mark.parametrize("name", ["train/loss", "val/loss", "val/dice", "learning_rate"])
def test_every_epoch_has_its_row(finished: Finished, name: str) -> None:
    table = column(finished.folder, name)
    assert table["step"].tolist() == [1, 2, 3]
    assert np.isfinite(table[Path(name).name]).all()


def test_the_last_epochs_figures_are_metrics(finished: Finished) -> None:
    metrics = json.loads((finished.folder / "metrics/train/metrics.json").read_text())
    assert metrics["step"] == 3
    assert metrics["val"]["dice"] == column(finished.folder, "val/dice")["dice"].iloc[-1]
    assert metrics["learning_rate"] == pytest.approx(3e-3)


def test_dvclive_writes_its_folder_and_nothing_else(finished: Finished) -> None:
    assert (finished.folder / "dvc.yaml").read_text() == "stages: {}\n"
    assert sorted(path.name for path in finished.folder.iterdir()) == ["dvc.yaml", "metrics", "tensorboard"]
    assert sorted(path.name for path in (finished.folder / "metrics/train").iterdir()) == ["metrics.json", "plots"]


def test_tensorboard_gets_figures_and_pictures(finished: Finished) -> None:
    (file,) = (finished.folder / "tensorboard").rglob("events.out.tfevents.*")
    events = EventAccumulator(str(file)).Reload()
    assert {"train/loss", "val/loss", "val/dice", "learning_rate"} <= set(events.Tags()["scalars"])
    assert [event.step for event in events.Scalars("train/loss")] == [1, 2, 3]
    assert [event.step for event in events.Images("val")] == [1, 2, 3]


def test_the_network_is_that_of_the_best_epoch(finished: Finished, stores: tuple[Store, Store]) -> None:
    logged = column(finished.folder, "val/dice")["dice"]
    record = finished.description.training
    assert record.best_epoch == int(logged.argmax()) + 1
    assert record.val_dice == pytest.approx(logged.max(), abs=1e-6)
    assert val_dice(finished.network, stores[1]) == pytest.approx(logged.max(), abs=1e-6)
    assert not finished.network.training


def test_what_was_made_describes_itself(finished: Finished) -> None:
    description = finished.description
    assert description.model == RECIPE.model
    assert (description.channels, description.classes, description.geometry) == (1, 1, tiny.resize())
    assert (description.training.epochs, description.training.samples) == (3, 5)
    assert (description.training.encoder_weights, description.training.warnings) == ("random", [])


def test_the_best_epochs_weights_are_those_of_a_run_that_ends_there(
    stores: tuple[Store, Store], tmp_path: Path
) -> None:
    # Steps that overshoot, so that the best epoch is not the last.
    rough = replace(recipe(epochs=5), optimizer=Adam(name="adam", learning_rate=0.1))
    long, description = run(stores, rough, tmp_path / "long")
    best = description.training.best_epoch
    assert best < 5
    ended = replace(rough, train=TRAIN.model_copy(update={"epochs": best}))
    exact, _ = run(stores, ended, tmp_path / "exact")
    assert equal(long.state_dict(), exact.state_dict())


def test_one_seed_gives_equal_weights_and_another_does_not(
    finished: Finished, stores: tuple[Store, Store], tmp_path: Path
) -> None:
    again, _ = run(stores, recipe(), tmp_path / "again")
    other, _ = run(stores, replace(recipe(), seed=1), tmp_path / "other")
    assert equal(finished.network.state_dict(), again.state_dict())
    assert not equal(finished.network.state_dict(), other.state_dict())


def test_training_ends_when_dice_stays_where_it_is(stores: tuple[Store, Store], tmp_path: Path) -> None:
    # With steps too small to change a pixel, epoch 1 stays the best; patience 2 ends after epoch 3 of 50.
    frozen = replace(
        recipe(epochs=50, patience=2), optimizer=AdamW(name="adamw", learning_rate=1e-12, weight_decay=0.0)
    )
    empty = Store(stores[1].images, np.zeros_like(stores[1].masks), stores[1].index, stores[1].geometry)
    _, description = run((stores[0], empty), frozen, tmp_path)
    assert description.training.epochs == 3
    assert description.training.best_epoch == 1
    assert column(tmp_path, "val/dice")["step"].tolist() == [1, 2, 3]


def test_the_plateau_lowers_the_logged_rate(stores: tuple[Store, Store], tmp_path: Path) -> None:
    plateau = Plateau(name="plateau", monitor="val/dice", factor=0.1, patience=0)
    empty = Store(stores[1].images, np.zeros_like(stores[1].masks), stores[1].index, stores[1].geometry)
    run((stores[0], empty), replace(recipe(), scheduler=plateau), tmp_path)
    assert column(tmp_path, "learning_rate")["learning_rate"].tolist() == pytest.approx([3e-3, 3e-3, 3e-4])


def test_four_pictures_can_be_learnt_by_heart(tmp_path: Path) -> None:
    four = tiny.write_store(tmp_path / "store", 4)
    hard = replace(
        recipe(epochs=60, patience=60, batch_size=4, gradient_clip=0.0),
        optimizer=Adam(name="adam", learning_rate=1e-2),
    )
    network, description = run((four, four), hard, tmp_path)
    assert description.training.val_dice > 0.95
    assert val_dice(network, four) > 0.95


def test_gradients_are_clipped(stores: tuple[Store, Store], tmp_path: Path) -> None:
    free, _ = run(stores, recipe(epochs=1, gradient_clip=0.0), tmp_path / "free")
    loose, _ = run(stores, recipe(epochs=1, gradient_clip=1e9), tmp_path / "loose")
    tight, _ = run(stores, recipe(epochs=1, gradient_clip=1e-3), tmp_path / "tight")
    assert equal(free.state_dict(), loose.state_dict())
    assert not equal(free.state_dict(), tight.state_dict())


def test_a_batch_larger_than_the_data_is_one_batch(stores: tuple[Store, Store], tmp_path: Path) -> None:
    _, description = run(stores, recipe(epochs=1, batch_size=64), tmp_path)
    assert description.training.epochs == 1


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
@pytest.mark.filterwarnings("ignore:You passed .*16-mixed.* on CPU")
def test_mixed_precision_trains(stores: tuple[Store, Store], tmp_path: Path, precision: str) -> None:
    network, _ = run(stores, recipe(epochs=1, precision=precision), tmp_path)
    assert all(tensor.dtype != torch.bfloat16 for tensor in network.state_dict().values())


def test_random_weights_that_were_not_wished_for_are_on_record(
    stores: tuple[Store, Store], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "empty"))
    wishing = replace(recipe(epochs=1), model=tiny.unet(encoder_weights="auto"))
    _, description = run(stores, wishing, tmp_path)
    (note,) = description.training.warnings
    assert tiny.SMALL_ENCODER in note
    assert f"warning: {note}" in capsys.readouterr().out
    assert description.training.encoder_weights == "random"


def test_a_rate_beyond_reason_ends_in_words(stores: tuple[Store, Store], tmp_path: Path) -> None:
    wild = AdamW(name="adamw", learning_rate=10.0, weight_decay=1.0)  # every step multiplies the weights by -9
    with pytest.raises(UserError, match=r"epoch \d+, training has diverged: lower optimizer\.learning_rate"):
        run(stores, replace(recipe(epochs=40, patience=40, gradient_clip=0.0), optimizer=wild), tmp_path)


def test_a_gpu_that_is_not_there_names_the_key(
    stores: tuple[Store, Store], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(UserError, match=r"machine\.accelerator = gpu"):
        run(stores, recipe(), tmp_path, MachineParams(workers=1, backend="threading", accelerator="gpu"))


def test_a_batch_of_one_small_sample_names_the_key(stores: tuple[Store, Store], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"train\.batch_size"):
        run(stores, replace(recipe(batch_size=1), model=tiny.unet(encoder="resnet18")), tmp_path)


def test_too_little_memory_names_the_key(
    stores: tuple[Store, Store], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exhausted(_: object) -> Any:
        def loss(*_: Tensor) -> Tensor:
            raise torch.OutOfMemoryError("CUDA out of memory")

        return loss

    monkeypatch.setattr(training, "build_loss", exhausted)
    with pytest.raises(UserError, match=r"train\.batch_size"):
        run(stores, recipe(), tmp_path)


def test_ctrl_c_stays_ctrl_c(stores: tuple[Store, Store], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: object) -> Any:
        def loss(*_: Tensor) -> Tensor:
            raise KeyboardInterrupt

        return loss

    monkeypatch.setattr(training, "build_loss", interrupted)
    monkeypatch.setattr("signal.signal", lambda *_: None)  # Lightning would make this process deaf to Ctrl-C
    with pytest.raises(KeyboardInterrupt):
        run(stores, recipe(), tmp_path)


def test_training_says_what_it_trains_and_nothing_that_worries(
    stores: tuple[Store, Store], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run(stores, recipe(epochs=1), tmp_path)
    said = capfd.readouterr()
    assert said.out == f"training unet with {tiny.SMALL_ENCODER} on 5 samples of 32x32x1, 3 to choose\n"
    assert said.err == ""
