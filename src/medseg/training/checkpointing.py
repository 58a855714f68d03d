"""Checkpoints of a training run: the best epoch, which the run returns, and the last one, from which it is resumed.

The run's folder holds `epoch-N/` (N finished epochs) of the best and of the last epoch written; an epoch is written
where that takes little time beside the epoch itself (`COST_RATIO`). It holds weights, their average, optimiser,
schedule, rng states and logs, so that a run that was killed and resumed ends with bit-equal weights. No pickle is read
or written.
"""

import json
import random
import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import WeightAveraging
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from medseg.core.files import PARTIAL_PREFIX, atomic_folder
from medseg.models.checkpoint import save_tensors
from medseg.training.lightning_module import SegmentationModule
from medseg.training.optimizer_state import read_tensors, restore_optimizer, write_tensors

METRIC = "val/dice"  # by which the best epoch is chosen, once it is above what one class for all pixels scores
LOSS = "val/loss"  # by which it is chosen until then
MARGIN = 0.05  # of the way from that score to 1, by which val/dice must be above it
WEIGHTS = "weights.safetensors"
AVERAGE = "average.safetensors"
OPTIMIZER = "optimizer.safetensors"
STATE = "state.json"
LOGS = "logs"  # DVCLive's folder
COST_RATIO = 50  # checkpoints that only a killed run would need take at most 1 / COST_RATIO of the time


@dataclass(frozen=True, order=True)
class Score:
    """How good an epoch is; greater is better.

    A network that has not learned yet may score what "all foreground" does, and training must lose that Dice before it
    gains another; or its Dice is exactly 0. Such epochs are compared by their loss, and any that has learned is better.
    """

    learned: bool  # val/dice is clearly above that of one class for all pixels
    value: float  # val/dice where it has, else -val/loss


@dataclass(frozen=True)
class Best:
    """State at the end of the best epoch."""

    epoch: int  # from 1
    dice: float  # val/dice
    learned: bool  # whether that is clearly above `constant_dice`
    constant_dice: float  # val/dice of one class for all pixels
    optimizer_state: dict[str, Any]
    scheduler_state: dict[str, Any] | None


def last_epoch(folder: Path) -> int:
    """Return the number of epochs after which the run of `folder` can be resumed; 0: it must start anew.

    Damaged checkpoints, as a power cut can leave them, do not count.
    """
    found = sorted((int(path.name.removeprefix("epoch-")) for path in folder.glob("epoch-*")), reverse=True)
    whole = [epoch for epoch in found if _is_whole(_epoch_folder(folder, epoch))]
    return next((epoch for epoch in whole if _read_state(_epoch_folder(folder, epoch))["best_epoch"] in whole), 0)


def restore_logs(folder: Path, logged: Path) -> None:
    """Restore `logged`, DVCLive's folder, as it was at the last checkpoint in `folder`; empty it if there is none."""
    shutil.rmtree(logged, ignore_errors=True)
    if epoch := last_epoch(folder):
        shutil.copytree(_epoch_folder(folder, epoch) / LOGS, logged)


@dataclass(frozen=True)
class _Epoch:
    """A checkpoint, read."""

    state: dict[str, Any]  # of state.json
    weights: dict[str, Tensor]
    average: dict[str, Tensor] | None  # with torch's counts
    optimizer: dict[int, dict[str, Tensor]]


class Checkpoints(pl.Callback):
    """Writes checkpoints, resumes from them, and stops training when val/dice has risen and no longer does.

    In the trainer's list it stands before a `WeightAveraging`, which replaces the weights by their average at the end.
    Of several ranks the first alone reads and writes, and broadcasts what it read. The averages of the others then have
    the first one's running statistics of normalisation.

    Lightning's `ModelCheckpoint` was tried in its place: it stores no rng states, so a network with dropout ended with
    other weights after resuming (without dropout they were bit-equal), its file is a pickle, and DVCLive's logs, which
    DVC deletes when the stage starts again, are not in it.
    """

    def __init__(self, folder: Path, logged: Path, patience: int) -> None:
        """`folder` is the run's, `logged` DVCLive's.

        Training stops `patience` epochs after the best one, but not before an epoch has learned, see `Score`. Where the
        validation set has no foreground, no epoch can, and the loss alone counts.
        """
        self.folder, self.logged, self.patience = folder, logged, patience
        self.start = 0  # epochs finished before this process began
        self.rng: dict[str, Any] = {}  # rng states at that time
        self.best_epoch, self.best_dice = 0, 0.0
        self.best = Score(learned=False, value=-np.inf)
        self.constant_dice = 0.0
        self.written, self.cost = -np.inf, 0.0  # seconds: when the last checkpoint was written, and how long that took

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Restore all but the rng states from the last checkpoint, if there is one."""
        self.start = trainer.strategy.broadcast(last_epoch(self.folder))
        if self.start:
            module = _segmentation(pl_module)
            saved = trainer.strategy.broadcast(
                _read_epoch(_epoch_folder(self.folder, self.start), module) if trainer.is_global_zero else None
            )
            assert saved is not None  # the first rank has read it
            self._restore(trainer, module, saved)
            trainer.should_stop = self._is_out_of_patience(self.start)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the previous epoch, which is complete only now; on resuming, restore the rng states."""
        epoch = trainer.current_epoch
        if epoch > self.start:
            self._finish(trainer, _segmentation(pl_module))
        elif epoch:
            _restore_rng(self.rng, pl_module.device)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Compare this epoch with the best, and stop training when patience is exhausted."""
        dice, loss = float(trainer.callback_metrics[METRIC]), float(trainer.callback_metrics[LOSS])
        epoch = trainer.current_epoch + 1
        self.constant_dice = constant = _segmentation(pl_module).constant_dice
        learned = dice > constant + MARGIN * (1 - constant)
        score = Score(learned, dice if learned else -loss)
        if score > self.best:
            self.best_epoch, self.best_dice, self.best = epoch, dice, score
        if self._is_out_of_patience(epoch):
            trainer.should_stop = True

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the last epoch."""
        self._finish(trainer, _segmentation(pl_module))

    def load_best(self, module: SegmentationModule) -> Best:
        """Load the best epoch into the trained module, which must be on the CPU, in place."""
        best = _read_epoch(_epoch_folder(self.folder, self.best_epoch), module)
        weights = best.average or best.weights
        module.load_state_dict({name: weights[name] for name in best.weights})
        _restore_optimizer(module, best)
        scheduler_state = module.schedule.scheduler.state_dict() if module.schedule else None
        return Best(
            self.best_epoch,
            self.best_dice,
            self.best.learned,
            self.constant_dice,
            module.optimizer.state_dict(),
            scheduler_state,
        )

    def _is_out_of_patience(self, epoch: int) -> bool:
        counts = self.best.learned or self.constant_dice == 0
        return counts and epoch - self.best_epoch >= self.patience

    def _finish(self, trainer: pl.Trainer, module: SegmentationModule) -> None:
        """Write the epoch just finished if it is the best or enough time has passed, and remove older ones."""
        start, epoch = time.monotonic(), trainer.current_epoch
        is_due = start - self.written >= COST_RATIO * self.cost
        if epoch != self.best_epoch and not trainer.strategy.broadcast(is_due):
            return
        rng_states = _gather(trainer, _rng_state(module.device))
        if trainer.is_global_zero:
            with atomic_folder(_epoch_folder(self.folder, epoch)) as folder:
                self._write(trainer, module, rng_states, folder)
            _remove_others(self.folder, {epoch, self.best_epoch})
        self.written = time.monotonic()
        self.cost = self.written - start

    def _write(self, trainer: pl.Trainer, module: SegmentationModule, rng_states: list[Any], folder: Path) -> None:
        save_tensors(module.state_dict(), folder / WEIGHTS)
        if averaging := _averaging(trainer):
            parts: dict[str, Any] = {"state_dict": {}}
            averaging.on_save_checkpoint(trainer, module, parts)
            save_tensors(parts["state_dict"] | parts["averaging_state"], folder / AVERAGE)
        write_tensors(module.optimizer.state_dict(), folder / OPTIMIZER)
        shutil.copytree(self.logged, folder / LOGS)
        state = {
            "best_epoch": self.best_epoch,
            "best_dice": self.best_dice,
            "best": asdict(self.best),
            "constant_dice": self.constant_dice,
            "steps": trainer.global_step,
            "rates": [float(group["lr"]) for group in module.optimizer.param_groups],
            "schedule": module.schedule.scheduler.state_dict() if module.schedule else None,
            "precision": trainer.precision_plugin.state_dict(),
            "rng_states": rng_states,
        }
        (folder / STATE).write_text(json.dumps(state), encoding="utf-8")

    def _restore(self, trainer: pl.Trainer, module: SegmentationModule, saved: _Epoch) -> None:
        state = saved.state
        self.best_epoch, self.best_dice = state["best_epoch"], state["best_dice"]
        self.best, self.constant_dice = Score(**state["best"]), state["constant_dice"]
        self.rng = state["rng_states"][trainer.global_rank]
        module.load_state_dict(saved.weights)
        _restore_optimizer(module, saved)
        trainer.precision_plugin.load_state_dict(state["precision"])
        _set_progress(trainer, self.start, state["steps"])
        averaging = _averaging(trainer)
        if averaging and saved.average:
            average = {name: saved.average[name] for name in saved.weights}
            counts = {name: count for name, count in saved.average.items() if name not in average}
            parts = {"state_dict": average, "averaging_state": counts, "current_model_state": saved.weights}
            averaging.on_load_checkpoint(trainer, module, parts)
            averaging.load_state_dict({"latest_update_step": state["steps"]})


def _segmentation(module: pl.LightningModule) -> SegmentationModule:
    assert isinstance(module, SegmentationModule)
    return module


def _epoch_folder(folder: Path, number: int) -> Path:
    return folder / f"epoch-{number}"


def _read_state(folder: Path) -> dict[str, Any]:
    state: dict[str, Any] = json.loads((folder / STATE).read_text(encoding="utf-8"))
    return state


def _is_whole(folder: Path) -> bool:
    try:
        _read_state(folder)
        for path in {folder / WEIGHTS, folder / OPTIMIZER, *folder.glob("*.safetensors")}:
            with safe_open(path, "pt"):  # compares the file's size with its header
                pass
    except (OSError, ValueError, SafetensorError):
        return False
    return True


def _read_epoch(folder: Path, module: SegmentationModule) -> _Epoch:
    average = load_file(folder / AVERAGE) if (folder / AVERAGE).exists() else None
    optimizer = read_tensors(folder / OPTIMIZER, module.optimizer)
    return _Epoch(_read_state(folder), load_file(folder / WEIGHTS), average, optimizer)


def _gather(trainer: pl.Trainer, own: object) -> list[Any]:
    """Return the values of all ranks."""
    everyone: list[Any] = [own] * trainer.world_size
    if trainer.world_size > 1:
        torch.distributed.all_gather_object(everyone, own)
    return everyone


def _averaging(trainer: pl.Trainer) -> WeightAveraging | None:
    found = (callback for callback in trainer.callbacks if isinstance(callback, WeightAveraging))  # type: ignore[attr-defined]
    return next(found, None)


def _remove_others(folder: Path, epochs: set[int]) -> None:
    """Remove all checkpoints but these, and partial ones of killed processes."""
    kept = {_epoch_folder(folder, epoch) for epoch in epochs}
    for path in (*folder.glob("epoch-*"), *folder.glob(f"{PARTIAL_PREFIX}*")):
        if path not in kept:
            shutil.rmtree(path)


def _restore_optimizer(module: SegmentationModule, saved: _Epoch) -> None:
    restore_optimizer(module.optimizer, saved.optimizer, saved.state["rates"])
    if module.schedule:
        module.schedule.scheduler.load_state_dict(saved.state["schedule"])


def _set_progress(trainer: pl.Trainer, epochs: int, steps: int) -> None:
    """Set the counts of finished epochs and optimiser steps, which Lightning restores from its own files only."""
    loop = trainer.fit_loop
    whole = dict.fromkeys(("ready", "started", "processed", "completed"), epochs)
    loop.epoch_progress.load_state_dict({"total": whole, "current": whole})
    step = loop.epoch_loop.automatic_optimization.optim_progress.optimizer.step.total
    step.ready = step.completed = steps


def _rng_state(device: torch.device) -> dict[str, Any]:
    """Return the states of all rngs, as JSON can hold them."""
    cuda = torch.cuda.get_rng_state(device).numpy().tobytes().hex() if device.type == "cuda" else None
    kind, keys, *rest = np.random.get_state()
    return {
        "torch": torch.get_rng_state().numpy().tobytes().hex(),
        "cuda": cuda,
        "python": random.getstate(),
        "numpy": [kind, np.asarray(keys).tolist(), *rest],
    }


def _restore_rng(rng: dict[str, Any], device: torch.device) -> None:
    torch.set_rng_state(_bytes(rng["torch"]))
    if rng["cuda"]:
        torch.cuda.set_rng_state(_bytes(rng["cuda"]), device)
    version, numbers, gauss = rng["python"]
    random.setstate((version, tuple(numbers), gauss))
    np.random.set_state(tuple(rng["numpy"]))


def _bytes(digits: str) -> Tensor:
    return torch.frombuffer(bytearray.fromhex(digits), dtype=torch.uint8)
