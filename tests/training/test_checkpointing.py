"""Training that stops somewhere and is started again: to the last bit what it would have been."""

import gc
import os
import random
import resource
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import create_autospec

import numpy as np
import pytest
import tiny
import torch
from small_training import PLAIN, RECIPE, SGD, TRAIN, equal, improved

from medseg.data.packed import Packed
from medseg.training.checkpointing import Checkpoints
from medseg.training.lightning_module import SegmentationModule
from medseg.training.params import Cosine, Plateau
from medseg.training.sampler import Sampling
from medseg.training.trainer import Folders, Recipe, Trained, fit

EPOCHS = 4


class KilledError(Exception):
    """In the place of a signal."""


@dataclass(frozen=True)
class Run:
    """A folder in which runs of one recipe happen."""

    folder: Path
    stores: tuple[Packed, Packed]

    def train(self, recipe: Recipe) -> Trained:
        folders = Folders(self.folder / "weights", self.folder / "metrics", self.folder / "logs", self.folder / "state")
        trained = fit(*self.stores, recipe, folders, tiny.CPU)
        assert trained is not None
        return trained

    def epochs(self) -> Path:
        """The folder of the epochs on disk."""
        (folder,) = (self.folder / "state").iterdir()
        return folder

    def logged(self) -> dict[str, bytes]:
        folder = self.folder / "metrics"
        return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    def kill(self, recipe: Recipe, monkeypatch: pytest.MonkeyPatch, after: int) -> None:
        """Train and stop when `after` epochs are finished; what was logged is deleted, as DVC deletes outs."""
        order = Sampling.order

        def killed(sampling: Sampling, epoch: int) -> Any:
            if epoch == after:
                raise KilledError
            return order(sampling, epoch)

        with monkeypatch.context() as patched:
            patched.setattr(Sampling, "order", killed)
            with pytest.raises(KilledError):
                self.train(recipe)
        for path in sorted((self.folder / "metrics").rglob("*"), reverse=True):
            path.unlink() if path.is_file() else path.rmdir()
        random.seed(99)
        np.random.seed(99)
        torch.manual_seed(99)


@pytest.fixture
def hopeless(stores: tuple[Packed, Packed], monkeypatch: pytest.MonkeyPatch) -> tuple[Packed, Packed]:
    """Nothing to find in val: val/dice is 0 throughout, counts all the same, and the first epoch stays the best."""
    monkeypatch.setattr("medseg.training.checkpointing.MARGIN", -1.0)
    train, val = stores
    return train, Packed(val.images, np.zeros_like(val.masks), val.index, val.geometry)


@pytest.fixture(autouse=True)
def write_every_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medseg.training.checkpointing.COST_RATIO", 0)


SMALL = replace(PLAIN, optimizer=RECIPE.optimizer)


def recipe(start: Recipe = SMALL, **train: Any) -> Recipe:
    return replace(start, train=TRAIN.model_copy(update={"epochs": EPOCHS} | train))


COSINE = Cosine(name="cosine", warmup_epochs=0.5, final_share=0.1)
PLATEAU = Plateau(name="plateau", monitor="train/loss", factor=0.5, patience=0)
RECIPES = {
    "plain": recipe(),
    "a plateau that has moved": recipe(replace(SMALL, scheduler=PLATEAU)),
    "a schedule by step": recipe(replace(SMALL, scheduler=COSINE)),
    "averaged weights": recipe(RECIPE, ema_decay=0.7),
    "dropout": recipe(improved([1.0])),
    "online": recipe(replace(PLAIN, online=tiny.online("horizontal_flip", "gaussian_noise", p=0.5))),
    "momentum": recipe(replace(PLAIN, optimizer=SGD)),
    "channels last": recipe(RECIPE, channels_last=True),
    "bfloat16": recipe(precision="bf16-mixed"),
}
QUICK = {"a plateau that has moved", "online"}


def assert_same(one: Trained, other: Trained) -> None:
    assert one.description == other.description
    assert equal(one.network.state_dict(), other.network.state_dict())
    assert one.scheduler_state == other.scheduler_state
    assert one.optimizer_state["param_groups"] == other.optimizer_state["param_groups"]
    for number, kept in one.optimizer_state["state"].items():
        assert equal(kept, other.optimizer_state["state"][number])


def kept_and_stopped(tmp_path: Path, patience: int, constant: float, epochs: list[tuple[float, float]]) -> list[int]:
    """The epoch kept and the one training stopped after; epochs are their val/dice and val/loss."""
    module = create_autospec(SegmentationModule, instance=True)
    module.constant_dice = constant
    checkpoints = Checkpoints(tmp_path, tmp_path, patience)
    trainer: Any = SimpleNamespace(should_stop=False)
    for number, (dice, loss) in enumerate(epochs):
        trainer.current_epoch = number
        trainer.callback_metrics = {"val/dice": dice, "val/loss": loss}
        checkpoints.on_train_epoch_end(trainer, module)
        if trainer.should_stop:
            break
    return [checkpoints.best_epoch, trainer.current_epoch + 1]


def test_the_best_epoch_is_that_of_the_highest_dice_once_a_network_has_learned(tmp_path: Path) -> None:
    # It begins by marking everything, loses that Dice, and learns; later its loss rises while Dice goes on rising.
    epochs = [(0.20, 0.9), (0.0, 0.8), (0.0, 0.7), (0.0, 0.75), (0.5, 0.3), (0.7, 0.5), (0.6, 0.2), (0.6, 0.1)]
    assert kept_and_stopped(tmp_path, 2, 0.19, epochs) == [6, 8]


def test_until_then_it_is_that_of_the_lowest_loss(tmp_path: Path) -> None:
    assert kept_and_stopped(tmp_path, 1, 0.19, [(0.20, 0.9), (0.0, 0.8), (0.1, 0.7), (0.15, 0.75)]) == [3, 4]


def test_where_nothing_is_annotated_in_val_the_loss_alone_counts(tmp_path: Path) -> None:
    assert kept_and_stopped(tmp_path, 2, 0.0, [(0.0, 0.9), (0.0, 0.8), (0.0, 0.85), (0.0, 0.9), (0.0, 0.1)]) == [2, 4]


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in RECIPES]
)
def test_a_run_that_was_killed_resumes_and_ends_as_one_that_was_not(
    stores: tuple[Packed, Packed],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
) -> None:
    whole, killed = (Run(tmp_path / which, stores) for which in ("whole", "killed"))
    undisturbed = whole.train(RECIPES[name])
    killed.kill(RECIPES[name], monkeypatch, after=2)
    capsys.readouterr()
    assert_same(undisturbed, killed.train(RECIPES[name]))
    assert "resuming from epoch 2 of 4" in capsys.readouterr().out
    assert whole.logged() == killed.logged()


@pytest.mark.slow
def test_a_run_that_was_killed_again_and_again_ends_as_one_that_was_not(
    stores: tuple[Packed, Packed], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, killed = (Run(tmp_path / which, stores) for which in ("whole", "killed"))
    averaged = recipe(ema_decay=0.7)
    undisturbed = whole.train(averaged)
    for after in range(EPOCHS):
        killed.kill(averaged, monkeypatch, after)
    assert_same(undisturbed, killed.train(averaged))
    assert whole.logged() == killed.logged()


def test_a_run_that_was_killed_after_its_last_epoch_has_nothing_left_to_train(
    stores: tuple[Packed, Packed], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(tmp_path, stores)
    undisturbed = run.train(recipe())  # nobody removed the state
    logged = run.logged()

    def trained(*_: object) -> Any:
        raise AssertionError("an epoch was trained")

    monkeypatch.setattr(Sampling, "order", trained)
    assert_same(undisturbed, run.train(recipe()))
    assert run.logged() == logged


def test_patience_counts_the_epochs_before_the_kill(
    hopeless: tuple[Packed, Packed], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(tmp_path, hopeless)
    patient = recipe(epochs=9, patience=2)
    run.kill(patient, monkeypatch, after=2)
    for _ in range(2):  # the second time from a state in which patience is at its end
        training = run.train(patient).description.training
        assert (training.best_epoch, training.epochs) == (1, 3)


def test_what_a_killed_process_left_half_written_is_not_resumed(
    stores: tuple[Packed, Packed], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(tmp_path, stores)
    run.kill(recipe(), monkeypatch, after=1)
    (run.epochs() / ".partial-epoch-2").mkdir()
    (run.epochs() / "epoch-1").rename(run.epochs() / ".partial-epoch-1")
    assert run.train(recipe()).description.training.epochs == EPOCHS
    assert not list(run.epochs().glob(".partial-*"))


@pytest.mark.parametrize("part", ["weights.safetensors", "state.json"])
def test_a_damaged_epoch_is_not_resumed(
    hopeless: tuple[Packed, Packed],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    part: str,
) -> None:
    run = Run(tmp_path, hopeless)
    run.kill(recipe(), monkeypatch, after=3)
    os.truncate(run.epochs() / "epoch-3" / part, 100)
    run.train(recipe())
    assert "resuming from epoch 1 of 4" in capsys.readouterr().out


def test_a_run_from_other_initial_weights_is_not_resumed(
    stores: tuple[Packed, Packed], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where `auto` found no weights of the encoder, and later does, they are other ones."""
    run = Run(tmp_path, stores)
    run.kill(recipe(RECIPE), monkeypatch, after=2)
    monkeypatch.setattr("medseg.training.trainer.load_encoder_weights", lambda *_: "placed")
    assert run.train(recipe(RECIPE)).description.training.initial_weights == "placed"
    assert "going on" not in capsys.readouterr().out


def test_no_more_than_two_epochs_lie_on_disk(hopeless: tuple[Packed, Packed], tmp_path: Path) -> None:
    run = Run(tmp_path, hopeless)
    run.train(recipe())
    assert {path.name for path in run.epochs().iterdir()} == {"epoch-1", f"epoch-{EPOCHS}"}


def test_states_that_would_cost_more_than_their_share_of_the_time_are_left_out(
    hopeless: tuple[Packed, Packed], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("medseg.training.checkpointing.COST_RATIO", 10**9)
    run = Run(tmp_path, hopeless)
    run.train(recipe())
    assert {path.name for path in run.epochs().iterdir()} == {"epoch-1"}  # what the run itself needs


@pytest.mark.slow
def test_two_hundred_epochs_take_no_more_memory_and_files_than_one_hundred(
    stores: tuple[Packed, Packed], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order, seen = Sampling.order, {}

    def watched(sampling: Sampling, epoch: int) -> Any:
        if epoch in (100, 199):  # which are compared
            gc.collect()
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        seen[epoch] = pages * resource.getpagesize(), len(list(Path("/proc/self/fd").iterdir()))
        return order(sampling, epoch)

    monkeypatch.setattr(Sampling, "order", watched)
    Run(tmp_path, stores).train(recipe(PLAIN, epochs=200, patience=200, batch_size=5))
    (early, files), (late, more) = seen[100], seen[199]
    assert more == files
    assert late - early < 100 * 20_000  # bytes an epoch
