"""Whole training runs, small: what is kept, logged, repeated and refused."""

import hashlib
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pytest
import pytorch_lightning as pl
import tiny
import torch
from small_training import PLAIN, RECIPE, TRAIN, equal, improved, recipe, train
from torch import Tensor

from medseg.core.errors import UserError
from medseg.core.parallel import MachineParams
from medseg.core.params import validate
from medseg.data.intensity import Window
from medseg.data.packed import Packed
from medseg.data.task import UNANNOTATED
from medseg.metrics.overlap import count_classes, count_pixels, overlap_scores
from medseg.models.checkpoint import load_bundle, save_bundle
from medseg.models.model_yaml import Description
from medseg.models.network import Network
from medseg.models.params import UnetPlain
from medseg.training import trainer as training
from medseg.training.optimizer_state import save_state
from medseg.training.params import Adam, AdamW, Balanced, CEDice, Constant, Plateau, TensorBoard, TrainParams
from medseg.training.trainer import Recipe, Trained


def adam(rate: float) -> Adam:
    return Adam(name="adam", fused=True, learning_rate=rate, encoder_factor=1.0)


def adamw(rate: float, weight_decay: float) -> AdamW:
    return AdamW(name="adamw", fused=True, learning_rate=rate, encoder_factor=1.0, weight_decay=weight_decay)


def run(
    stores: tuple[Packed, Packed], recipe: Recipe, folder: Path, machine: MachineParams = tiny.CPU
) -> tuple[Network, Description]:
    trained = train(stores, recipe, folder, machine)
    return trained.network, trained.description


def place(trained: Trained, recipe: Recipe, folder: Path) -> None:
    """Save a run as the stage does."""
    save_bundle(folder, trained.network, trained.description)
    save_state(folder, trained.optimizer_state, trained.scheduler_state, recipe.optimizer, recipe.scheduler)


def val_dice(network: Network, val: Packed) -> float:
    with torch.no_grad():
        logits = network(torch.from_numpy(np.array(val.images)).permute(0, 3, 1, 2))[:, 0]
    return overlap_scores(count_pixels((logits.sigmoid() >= 0.5).numpy().astype(np.uint8), val.masks))["dice"]


def column(folder: Path, name: str) -> pd.DataFrame:
    return pd.read_csv(folder / f"metrics/train/plots/metrics/{name}.tsv", sep="\t", float_precision="round_trip")


class Finished:
    """One run of three epochs in an empty folder that holds another project's dvc.yaml."""

    def __init__(self, folder: Path, stores: tuple[Packed, Packed]) -> None:
        self.folder = folder
        (folder / "dvc.yaml").write_text("stages: {}\n")
        (folder / "metrics/train").mkdir(parents=True)
        (folder / "metrics/train/old.txt").write_text("of an earlier run")
        before = Path.cwd()
        os.chdir(folder)
        try:
            self.network, self.description = run(stores, recipe(), folder)
        finally:
            os.chdir(before)


@pytest.fixture(scope="module")
def finished(stores: tuple[Packed, Packed], tmp_path_factory: pytest.TempPathFactory) -> Finished:
    return Finished(tmp_path_factory.mktemp("finished"), stores)


def test_every_epoch_has_its_row(finished: Finished) -> None:
    for name in ("train/loss", "val/loss", "val/dice", "learning_rate"):
        table = column(finished.folder, name)
        assert table["step"].tolist() == [1, 2, 3]
        assert np.isfinite(table[Path(name).name]).all()


def test_the_last_epochs_metrics_are_metrics(finished: Finished) -> None:
    metrics = json.loads((finished.folder / "metrics/train/metrics.json").read_text())
    assert metrics["step"] == 3
    assert metrics["val"]["dice"] == column(finished.folder, "val/dice")["dice"].iloc[-1]
    assert metrics["learning_rate"] == pytest.approx(3e-3)


def test_dvclive_writes_its_folder_and_nothing_else(finished: Finished) -> None:
    assert (finished.folder / "dvc.yaml").read_text() == "stages: {}\n"
    assert sorted(path.name for path in finished.folder.iterdir()) == ["dvc.yaml", "metrics"]
    assert sorted(path.name for path in (finished.folder / "metrics/train").iterdir()) == ["metrics.json", "plots"]


def test_the_network_is_that_of_the_best_epoch(finished: Finished, stores: tuple[Packed, Packed]) -> None:
    record = finished.description.training
    assert record.warnings == []  # it has learned, so that Dice chooses
    assert record.best_epoch == int(column(finished.folder, "val/dice")["dice"].argmax()) + 1
    logged = column(finished.folder, "val/dice")["dice"][record.best_epoch - 1]
    assert record.val_dice == pytest.approx(logged, abs=1e-6)
    assert val_dice(finished.network, stores[1]) == pytest.approx(logged, abs=1e-6)
    assert not finished.network.training


def test_what_was_made_describes_itself(finished: Finished) -> None:
    description = finished.description
    assert description.model == RECIPE.model
    assert (description.channels, description.task, description.geometry) == (1, tiny.BINARY, tiny.resize())
    assert (description.training.epochs, description.training.samples) == (3, 5)
    assert description.training.initial_weights == "random"
    assert description.training.warnings == []
    assert description.training.initial_network is None


def test_the_best_epochs_weights_are_those_of_a_run_that_ends_there(
    worsening: tuple[Packed, Packed], tmp_path: Path
) -> None:
    long, short = (train(worsening, recipe(epochs=epochs), tmp_path / str(epochs)) for epochs in (3, 1))
    assert (long.description.training.best_epoch, long.description.training.epochs) == (1, 3)
    assert equal(long.network.state_dict(), short.network.state_dict())
    for number, kept in short.optimizer_state["state"].items():
        assert equal(kept, long.optimizer_state["state"][number])


def test_one_seed_gives_equal_weights_and_another_does_not(
    finished: Finished, stores: tuple[Packed, Packed], tmp_path: Path
) -> None:
    again, _ = run(stores, recipe(), tmp_path / "again")
    other, _ = run(stores, replace(recipe(), seed=1), tmp_path / "other")
    assert equal(finished.network.state_dict(), again.state_dict())
    assert not equal(finished.network.state_dict(), other.state_dict())


def test_training_ends_when_patience_does(
    worsening: tuple[Packed, Packed], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, description = run(worsening, recipe(epochs=50, patience=2), tmp_path)
    assert (description.training.best_epoch, description.training.epochs) == (1, 3)
    assert column(tmp_path, "val/dice")["step"].tolist() == [1, 2, 3]
    (warning,) = description.training.warnings
    assert warning.startswith("no validation sample is annotated")
    assert f"warning: {warning}" in capsys.readouterr().out


def test_patience_does_not_end_what_has_not_begun_to_learn(stores: tuple[Packed, Packed], tmp_path: Path) -> None:
    frozen = replace(recipe(epochs=4, patience=1), optimizer=adamw(1e-12, weight_decay=0.0))
    _, description = run(stores, frozen, tmp_path)
    assert description.training.epochs == 4
    (warning,) = description.training.warnings
    assert warning.startswith("the network has not learned to segment")


def test_what_preparation_lost_stands_in_the_models_description(stores: tuple[Packed, Packed], tmp_path: Path) -> None:
    declared = Window(name="window", bits=16, low=0, high=4095)
    lossy = [
        replace(store, intensity=declared, warnings=(f"{name}: 3 objects",))
        for name, store in zip("ab", stores, strict=True)
    ]
    _, description = run((lossy[0], lossy[1]), recipe(epochs=1), tmp_path)
    assert description.intensity == declared
    assert description.training.warnings[:2] == ["a: 3 objects", "b: 3 objects"]


def test_training_without_any_annotation_is_refused(stores: tuple[Packed, Packed], tmp_path: Path) -> None:
    train, val = stores
    empty = Packed(train.images, np.zeros_like(train.masks), train.index, train.geometry)
    with pytest.raises(UserError, match="no training sample has an annotated pixel"):
        run((empty, val), recipe(), tmp_path)


def test_training_on_nothing_but_foreground_is_refused(stores: tuple[Packed, Packed], tmp_path: Path) -> None:
    train, val = stores
    full = np.ones_like(train.masks)
    full[:, :, 9:] = UNANNOTATED
    with pytest.raises(UserError, match=r"every training sample is foreground.*full_masks"):
        run((Packed(train.images, full, train.index, train.geometry), val), recipe(), tmp_path)


@pytest.mark.slow
def test_four_images_can_be_learnt_by_heart(tmp_path: Path) -> None:
    four = tiny.write_packed(tmp_path / "store", 4)
    hard = replace(
        recipe(epochs=60, patience=60, batch_size=4, gradient_clip=0.0),
        optimizer=adam(1e-2),
    )
    network, description = run((four, four), hard, tmp_path)
    assert description.training.val_dice > 0.95
    assert val_dice(network, four) > 0.95


def test_gradients_are_clipped(stores: tuple[Packed, Packed], tmp_path: Path) -> None:
    free, _ = run(stores, recipe(epochs=1, gradient_clip=0.0), tmp_path / "free")
    loose, _ = run(stores, recipe(epochs=1, gradient_clip=1e9), tmp_path / "loose")
    tight, _ = run(stores, recipe(epochs=1, gradient_clip=1e-3), tmp_path / "tight")
    assert equal(free.state_dict(), loose.state_dict())
    assert not equal(free.state_dict(), tight.state_dict())


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
@pytest.mark.filterwarnings("ignore:You passed .*16-mixed.* on CPU")
def test_mixed_precision_trains(
    stores: tuple[Packed, Packed], tmp_path: Path, precision: str, capsys: pytest.CaptureFixture[str]
) -> None:
    optimizer = adam(3e-3).model_copy(update={"fused": precision != "16-mixed"})
    network, description = run(stores, replace(recipe(epochs=1, precision=precision), optimizer=optimizer), tmp_path)
    assert all(tensor.dtype != torch.bfloat16 for tensor in network.state_dict().values())
    assert f"train.precision = {precision}" in capsys.readouterr().out
    told = ["bf16-mixed ran in place of train.precision = 16-mixed"] if precision == "16-mixed" else []
    assert [note for note in description.training.warnings if "precision" in note] == told  # on a CPU


def test_random_weights_that_were_not_wished_for_are_on_record(
    stores: tuple[Packed, Packed], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "empty"))
    wishing = replace(recipe(epochs=1), model=tiny.unet(encoder_weights="auto"))
    _, description = run(stores, wishing, tmp_path)
    note = description.training.warnings[0]
    assert tiny.SMALL_ENCODER in note
    assert f"warning: {note}" in capsys.readouterr().out
    assert description.training.initial_weights == "random"


def test_a_rate_beyond_reason_ends_in_words(stores: tuple[Packed, Packed], tmp_path: Path) -> None:
    wild = adamw(10.0, weight_decay=1.0)  # every step multiplies the weights by -9
    with pytest.raises(UserError, match=r"optimizer\.learning_rate"):
        run(stores, replace(recipe(epochs=40, patience=40, gradient_clip=0.0), optimizer=wild), tmp_path)


def test_a_gpu_that_is_not_there_names_the_key(
    stores: tuple[Packed, Packed], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(UserError, match=r"machine\.accelerator = gpu"):
        run(stores, recipe(), tmp_path, MachineParams(workers=1, backend="threading", accelerator="gpu"))


def test_a_batch_of_one_small_sample_names_the_key(stores: tuple[Packed, Packed], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"train\.batch_size"):
        run(stores, replace(recipe(batch_size=1), model=tiny.unet(encoder="resnet18")), tmp_path)


def test_too_little_memory_names_the_key(
    stores: tuple[Packed, Packed], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exhausted(*_: object) -> Any:
        def loss(*_: Tensor) -> Tensor:
            raise torch.OutOfMemoryError("CUDA out of memory")

        return loss

    monkeypatch.setattr(training, "build_loss", exhausted)
    with pytest.raises(UserError, match=r"train\.batch_size"):
        run(stores, recipe(), tmp_path)


def test_ctrl_c_stays_ctrl_c(stores: tuple[Packed, Packed], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> Any:
        def loss(*_: Tensor) -> Tensor:
            raise KeyboardInterrupt

        return loss

    monkeypatch.setattr(training, "build_loss", interrupted)
    monkeypatch.setattr("signal.signal", lambda *_: None)  # Lightning would make this process deaf to Ctrl-C
    with pytest.raises(KeyboardInterrupt):
        run(stores, recipe(), tmp_path)


def test_training_says_what_it_trains_and_nothing_that_worries(
    stores: tuple[Packed, Packed], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run(stores, recipe(epochs=1), tmp_path)
    said = capfd.readouterr()
    assert "5 samples" in said.out
    first_words = [line.split()[0] for line in said.out.splitlines()]
    assert first_words == ["training", "epoch"]
    assert said.err == ""


LABELS = ("benign", "normal", "malignant")
SEVERAL = replace(
    RECIPE,
    task=tiny.LESIONS,
    loss=CEDice(name="ce_dice", ce_weight=1.0, dice_weight=1.0, smooth=1.0, head_weights=[1.0]),
)


@pytest.fixture(scope="module")
def lesions(tmp_path_factory: pytest.TempPathFactory) -> tuple[Packed, Packed]:
    folder = tmp_path_factory.mktemp("lesions")
    return tiny.write_packed(folder / "train", 6, labels=LABELS), tiny.write_packed(folder / "val", 3, labels=LABELS)


def test_several_classes_are_told_apart(lesions: tuple[Packed, Packed], tmp_path: Path) -> None:
    learning = replace(SEVERAL, optimizer=adam(1e-2), train=TRAIN.model_copy(update={"epochs": 3}))
    network, description = run(lesions, learning, tmp_path)
    assert description.task == tiny.LESIONS
    truth = np.array(lesions[1].masks) * np.array([1, 0, 2], np.uint8)[:, None, None]
    with torch.no_grad():
        shares = network(torch.from_numpy(np.array(lesions[1].images)).permute(0, 3, 1, 2)).softmax(1).numpy()
    codes = np.where(shares[:, 0] > 0.5, 0, 1 + shares[:, 1:].argmax(1)).astype(np.uint8)
    parts = count_classes(codes, truth, 2)
    dice = np.mean(
        [2 * p.true_positives / (2 * p.true_positives + p.false_positives + p.false_negatives) for p in parts]
    )
    assert description.training.val_dice == pytest.approx(dice, abs=1e-6)


def test_labels_that_contradict_the_classes_stop_before_any_work(
    stores: tuple[Packed, Packed], lesions: tuple[Packed, Packed], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"task\.labels"):
        run(stores, SEVERAL, tmp_path)
    with pytest.raises(UserError, match="the label 'a'"):
        run((lesions[0], stores[1]), SEVERAL, tmp_path)
    more = tiny.LESIONS.model_copy(update={"labels": ["benign", "cyst", "malignant"]})
    with pytest.raises(UserError, match="'cyst'"):
        run(lesions, replace(SEVERAL, task=more), tmp_path)
    annotated = Packed(lesions[1].images, np.ones_like(lesions[1].masks), lesions[1].index, lesions[1].geometry)
    with pytest.raises(UserError, match=r"task\.background = 'normal'"):
        run((lesions[0], annotated), SEVERAL, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_averaged_weights_are_what_is_validated_and_kept(stores: tuple[Packed, Packed], tmp_path: Path) -> None:
    averaged = recipe(epochs=2, ema_decay=0.5)
    trained = train(stores, averaged, tmp_path / "averaged")
    last, _ = run(stores, recipe(epochs=2), tmp_path / "last")
    logged = column(tmp_path / "averaged", "val/dice")["dice"]
    assert not equal(trained.network.state_dict(), last.state_dict())
    assert val_dice(trained.network, stores[1]) == pytest.approx(logged.max(), abs=1e-6)
    place(trained, averaged, tmp_path / "saved")
    loaded, description = load_bundle(tmp_path / "saved", Description)
    assert equal(loaded.state_dict(), trained.network.state_dict())
    assert val_dice(loaded, stores[1]) == pytest.approx(description.training.val_dice, abs=1e-6)


class Watcher(pl.Callback):
    """In the place of the images: keeps the weights that the last validation saw."""

    def __init__(self, *_: object) -> None:
        self.weights: dict[str, Tensor] = {}

    def on_validation_epoch_end(self, _: pl.Trainer, module: pl.LightningModule) -> None:
        state = module.get_submodule("network").state_dict()
        self.weights |= {key: tensor.clone() for key, tensor in state.items()}


def test_images_and_metrics_are_those_of_the_exponential_mean_over_steps(
    stores: tuple[Packed, Packed], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = {}
    for epochs, decay in ((1, 0.0), (2, 0.0), (2, 0.75)):
        watcher = Watcher()
        monkeypatch.setattr("medseg.training.loggers.ValidationImages", lambda *_, watcher=watcher: watcher)
        # A batch of all samples, so that an epoch is one step.
        averaged = recipe(epochs=epochs, batch_size=5, ema_decay=decay)
        train(stores, averaged, tmp_path / f"{epochs}{decay}", logger=TensorBoard(name="tensorboard"))
        seen[epochs, decay] = watcher.weights
    for key, mean in seen[2, 0.75].items():
        if mean.is_floating_point():
            expected = 0.75 * seen[1, 0.0][key] + 0.25 * seen[2, 0.0][key]
            torch.testing.assert_close(mean, expected, rtol=1e-5, atol=1e-7)


def test_sampling_and_transforms_change_what_is_learnt_and_repeat_with_the_seed(
    lesions: tuple[Packed, Packed], tmp_path: Path
) -> None:
    changed = replace(
        SEVERAL, sampling=Balanced(name="balanced"), online=tiny.online("horizontal_flip", "gaussian_noise", p=0.5)
    )
    changed = replace(changed, train=TRAIN.model_copy(update={"epochs": 1}))
    plain = replace(SEVERAL, train=changed.train)
    first, again, other = (
        run(lesions, recipe, tmp_path / str(number))[0] for number, recipe in enumerate((changed, changed, plain))
    )
    assert equal(first.state_dict(), again.state_dict())
    assert not equal(first.state_dict(), other.state_dict())


def test_a_network_with_several_outputs_learns_from_those_that_are_weighed(
    stores: tuple[Packed, Packed], tmp_path: Path
) -> None:
    one, same, three = (
        run(stores, improved(weights), tmp_path / str(weights))[0] for weights in ([1.0], [1.0, 0.0], [1.0, 0.5, 0.25])
    )
    assert equal(one.state_dict(), same.state_dict())
    assert not equal(one.state_dict(), three.state_dict())


STEADY = replace(RECIPE, scheduler=Constant(name="constant"))
K, M = 2, 2  # epochs of a first run, and of the run that goes on from it


def steady(**train: Any) -> Recipe:
    return replace(STEADY, train=TRAIN.model_copy(update=train))


@pytest.fixture(scope="module")
def learning(tmp_path_factory: pytest.TempPathFactory) -> tuple[Packed, Packed]:
    """Training samples to choose by, so that the last epoch is the best while the network learns."""
    store = tiny.write_packed(tmp_path_factory.mktemp("learning"), 6)
    return store, store


@pytest.fixture(scope="module")
def initial_network(learning: tuple[Packed, Packed], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Trained]:
    """A folder in which a run of K epochs lies as weights/first, and the run."""
    folder = tmp_path_factory.mktemp("initial_network")
    trained = train(learning, steady(epochs=K), folder)
    assert trained.description.training.best_epoch == K
    place(trained, STEADY, folder / "weights/first")
    return folder, trained


def going_on(initial_network: Path, folder: Path) -> Path:
    """A folder for the next run with the initial network's weights."""
    folder.mkdir()
    (folder / "weights").symlink_to(initial_network / "weights")
    return folder


def test_a_run_begins_with_the_initial_networks_weights(
    initial_network: tuple[Path, Trained], learning: tuple[Packed, Packed], tmp_path: Path
) -> None:
    still = replace(steady(epochs=1, init_from="first"), optimizer=adam(1e-12))
    network, description = run(learning, still, going_on(initial_network[0], tmp_path / "next"))
    weights = dict(network.named_parameters())  # the running means of normalisation move on at any rate
    for key, tensor in initial_network[1].network.named_parameters():
        torch.testing.assert_close(weights[key], tensor, rtol=0, atol=1e-9)
    record = description.training
    assert record.initial_weights == "initial_network"
    assert record.initial_network is not None
    assert (record.initial_network.name, record.initial_network.continued, record.initial_network.epochs_before) == (
        "first",
        False,
        0,
    )
    digest = hashlib.sha256((initial_network[0] / "weights/first/weights.safetensors").read_bytes()).hexdigest()
    assert record.initial_network.weights_sha256 == digest


def test_only_continuing_takes_the_optimisers_state(
    initial_network: tuple[Path, Trained], learning: tuple[Packed, Packed], tmp_path: Path
) -> None:
    steps = {}
    for key in ("init_from", "continue_from"):
        trained = train(learning, steady(epochs=1, **{key: "first"}), going_on(initial_network[0], tmp_path / key))
        steps[key] = int(trained.optimizer_state["state"][0]["step"])
    assert steps == {"init_from": 3, "continue_from": K * 3 + 3}


def test_a_run_that_goes_on_is_the_run_that_never_stopped(
    initial_network: tuple[Path, Trained], learning: tuple[Packed, Packed], tmp_path: Path
) -> None:
    whole = train(learning, steady(epochs=K + M), tmp_path / "whole")
    second = train(learning, steady(epochs=M, continue_from="first"), going_on(initial_network[0], tmp_path / "second"))
    assert whole.description.training.best_epoch == K + M
    assert second.description.training.best_epoch == M
    assert equal(whole.network.state_dict(), second.network.state_dict())
    for number, kept in whole.optimizer_state["state"].items():
        assert equal(kept, second.optimizer_state["state"][number])
    for name in ("train/loss", "val/loss"):
        rows = [column(tmp_path / folder, name)[Path(name).name].tolist() for folder in ("whole", "second")]
        assert rows[0][K:] == rows[1]


@pytest.mark.parametrize("monitor", ["val/loss", "val/dice"])
def test_what_is_kept_of_a_plateau_has_seen_the_best_epoch(
    learning: tuple[Packed, Packed], tmp_path: Path, monitor: Literal["val/loss", "val/dice"]
) -> None:
    plateau = Plateau(name="plateau", monitor=monitor, factor=0.5, patience=3)
    trained = train(learning, replace(steady(epochs=3), scheduler=plateau), tmp_path)
    best = trained.description.training.best_epoch
    scores = column(tmp_path, monitor)[Path(monitor).name].tolist()[:best]
    state = trained.scheduler_state
    assert state is not None
    assert state["last_epoch"] == best
    assert state["best"] == pytest.approx(max(scores) if monitor == "val/dice" else min(scores))


def test_epochs_add_up_over_runs_that_go_on(
    initial_network: tuple[Path, Trained], learning: tuple[Packed, Packed], tmp_path: Path
) -> None:
    shutil.copytree(initial_network[0] / "weights", tmp_path / "weights")
    second = train(learning, steady(epochs=1, continue_from="first"), tmp_path)
    place(second, STEADY, tmp_path / "weights/second")
    third = train(learning, steady(epochs=1, continue_from="second"), tmp_path)
    behind = [trained.description.training.initial_network for trained in (second, third)]
    assert [record.epochs_before for record in behind if record] == [K, K + 1]
    anew = train(learning, steady(epochs=1, init_from="second"), tmp_path).description.training.initial_network
    assert anew is not None
    assert anew.epochs_before == 0


def test_a_missing_initial_network_is_named(learning: tuple[Packed, Packed], tmp_path: Path) -> None:
    for key in ("init_from", "continue_from"):
        with pytest.raises(UserError, match=str(tmp_path / "weights/gone")):
            run(learning, steady(**{key: "gone"}), tmp_path)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (
            {"model": UnetPlain(name="unet_plain", init_features=4, input_mean=[0.5], input_std=[0.5])},
            r"layer core\.\S+",
        ),
        (
            {"model": tiny.unet(decoder_channels=[16, 24, 8, 8, 8])},
            r"layer core\.decoder\S+",
        ),
    ],
)
def test_another_networks_weights_are_told_by_the_layer(
    initial_network: tuple[Path, Trained],
    learning: tuple[Packed, Packed],
    tmp_path: Path,
    change: dict[str, Any],
    fault: str,
) -> None:
    with pytest.raises(UserError, match=f"first/weights.safetensors: .*{fault}"):
        run(learning, replace(steady(init_from="first"), **change), going_on(initial_network[0], tmp_path / "next"))


def test_weights_without_their_optimiser_can_only_be_started_from(
    initial_network: tuple[Path, Trained], learning: tuple[Packed, Packed], tmp_path: Path
) -> None:
    save_bundle(tmp_path / "weights/bare", initial_network[1].network, initial_network[1].description)
    with pytest.raises(UserError, match=r"bare/training\.yaml"):
        run(learning, steady(continue_from="bare"), tmp_path)
    _, description = run(learning, steady(epochs=1, init_from="bare"), tmp_path)
    assert description.training.initial_weights == "initial_network"


def test_the_memory_format_changes_rounding_alone(stores: tuple[Packed, Packed], tmp_path: Path) -> None:
    plain, last = (
        train(stores, replace(PLAIN, train=recipe(epochs=1, channels_last=chosen).train), tmp_path / str(chosen))
        for chosen in (False, True)
    )
    assert any(weight.is_contiguous(memory_format=torch.channels_last) for weight in last.network.parameters())
    for one, other in zip(plain.network.parameters(), last.network.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-2, atol=1e-4)
    place(last, PLAIN, tmp_path / "weights/last")
    goes_on = replace(PLAIN, train=recipe(epochs=1, channels_last=True, continue_from="last").train)
    assert train(stores, goes_on, tmp_path).description.training.initial_weights == "initial_network"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler, and there is no g++")
def test_a_compiled_network_learns_the_same(stores: tuple[Packed, Packed], tmp_path: Path) -> None:
    first, second = (
        train(stores, replace(PLAIN, train=recipe(epochs=1, compile=compiled).train), tmp_path / str(compiled))
        for compiled in (False, True)
    )
    assert first.network.state_dict().keys() == second.network.state_dict().keys()
    for one, other in zip(first.network.parameters(), second.network.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-2, atol=1e-4)


@pytest.mark.filterwarnings("ignore:You passed .*16-mixed.* on CPU")
def test_gradients_that_a_fused_optimiser_would_scale_cannot_be_clipped(
    stores: tuple[Packed, Packed], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"optimizer\.fused"):
        run(stores, recipe(precision="16-mixed"), tmp_path)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"init_from": "a", "continue_from": "b"}, "init_from and continue_from"),
        ({"init_from": "../a"}, r"train\.init_from = '\.\./a'"),
        ({"ema_decay": 1.0}, r"train\.ema_decay"),
        ({"devices": 0}, r"train\.devices = 0"),
        ({"strategy": "fsdp"}, r"train\.strategy = 'fsdp'"),
    ],
)
def test_values_that_make_no_sense_are_named(change: dict[str, Any], fault: str) -> None:
    with pytest.raises(UserError, match=fault):
        validate(TRAIN.model_dump() | change, TrainParams, "train")
