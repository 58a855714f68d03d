"""A training run on disk: from the last epoch that was kept it can go on, the best one is what it leaves.

The run's folder holds `epoch-N/`, N epochs finished, of the best and of the last one kept: every one where writing it
takes little beside the epoch itself (`SPARING`). It holds weights, their average, optimiser, schedule, random numbers
and logged figures, all to the last bit. So a run that was killed and goes on ends with the
weights of one that was not. No pickle is read or written.
"""

import json
import random
import shutil
import time
from dataclasses import dataclass
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
from medseg.training.lightning_module import SegmentationTask
from medseg.training.optimizer_state import read_tensors, restore_optimizer, write_tensors

FIGURE = "val/dice"  # by which the best epoch is chosen
WEIGHTS = "weights.safetensors"
AVERAGE = "average.safetensors"
OPTIMIZER = "optimizer.safetensors"
STATE = "state.json"
FIGURES = "figures"  # what was logged
SPARING = 50  # states that only a killed run would need take at most one part in so many of the time


@dataclass(frozen=True)
class Best:
    """The end of the best epoch."""

    epoch: int  # from 1
    dice: float  # val/dice
    optimizer_state: dict[str, Any]
    scheduler_state: dict[str, Any] | None


def last_epoch(folder: Path) -> int:
    """After how many epochs the run of `folder` can go on; 0: it must start anew.

    Epochs with a damaged part, as a power cut can leave them, do not count.
    """
    found = sorted((int(path.name.removeprefix("epoch-")) for path in folder.glob("epoch-*")), reverse=True)
    whole = [epoch for epoch in found if _is_whole(_epoch(folder, epoch))]
    return next((epoch for epoch in whole if _state(_epoch(folder, epoch))["best_epoch"] in whole), 0)


def bring_back_figures(folder: Path, logged: Path) -> None:
    """Replace the folder `logged`, into which loggers write, by what the run of `folder` had logged to go on from."""
    shutil.rmtree(logged, ignore_errors=True)
    if epoch := last_epoch(folder):
        shutil.copytree(_epoch(folder, epoch) / FIGURES, logged)


@dataclass(frozen=True)
class _Read:
    """An epoch, read from disk."""

    state: dict[str, Any]  # of state.json
    weights: dict[str, Tensor]
    average: dict[str, Tensor] | None  # with the counts that torch keeps beside it
    optimizer: dict[int, dict[str, Tensor]]


class Checkpoints(pl.Callback):
    """Writes a run's epochs to its folder, lets it go on from there, and ends it when val/dice rises no more.

    In the trainer's list it stands before a `WeightAveraging`, which puts the average in the weights' place at the end.
    Where several processes train together the first one alone writes and reads, and hands what it read to the others.
    Their averages then have the first one's running figures of normalisation.
    """

    def __init__(self, folder: Path, logged: Path, patience: int) -> None:
        """`folder` is the run's; loggers write to `logged`. Training ends `patience` epochs after the best val/dice."""
        self.folder, self.logged, self.patience = folder, logged, patience
        self.start = 0  # epochs that were finished before this process began
        self.rng: dict[str, Any] = {}  # the random numbers' state at that time
        self.best_epoch, self.best_dice = 0, -np.inf
        self.written, self.cost = -np.inf, 0.0  # seconds: when the last state was written, and how long that took

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Bring all but the random numbers to the end of the last epoch that the folder holds."""
        self.start = trainer.strategy.broadcast(last_epoch(self.folder))
        if self.start:
            task = _task(pl_module)
            read = trainer.strategy.broadcast(self._read_start(trainer, task))
            assert read is not None  # the first process has read it
            self._restore(trainer, task, read)
            trainer.should_stop = self._has_lost_patience(self.start)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the epoch before this one: all that belongs to it is done. After a restart, bring the chance back."""
        epoch = trainer.current_epoch
        if epoch > self.start:
            self._finish(trainer, _task(pl_module))
        elif epoch:
            _restore_rng(self.rng, pl_module.device)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: ARG002
        """See whether this epoch is the best, and end training where none was for long."""
        dice = float(trainer.callback_metrics[FIGURE])
        epoch = trainer.current_epoch + 1
        if dice > self.best_dice:
            self.best_epoch, self.best_dice = epoch, dice
        if self._has_lost_patience(epoch):
            trainer.should_stop = True

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the last epoch."""
        self._finish(trainer, _task(pl_module))

    def take_best(self, task: SegmentationTask) -> Best:
        """Bring the trained task, which lies in the CPU's memory, to the end of its best epoch, in place."""
        best = _read_epoch(_epoch(self.folder, self.best_epoch), task)
        weights = best.average or best.weights
        task.load_state_dict({name: weights[name] for name in best.weights})
        _restore_optimizer(task, best)
        scheduler_state = task.schedule.scheduler.state_dict() if task.schedule else None
        return Best(self.best_epoch, self.best_dice, task.optimizer.state_dict(), scheduler_state)

    def _has_lost_patience(self, epoch: int) -> bool:
        return epoch - self.best_epoch >= self.patience

    def _finish(self, trainer: pl.Trainer, task: SegmentationTask) -> None:
        """Write the epoch that was just finished, if it is the best or enough time has gone by, and drop older ones."""
        start, epoch = time.monotonic(), trainer.current_epoch
        is_due = start - self.written >= SPARING * self.cost
        if epoch != self.best_epoch and not trainer.strategy.broadcast(is_due):
            return
        rng_states = _of_all(trainer, _rng_state(task.device))
        if trainer.is_global_zero:
            with atomic_folder(_epoch(self.folder, epoch)) as folder:
                self._write(trainer, task, rng_states, folder)
            _keep(self.folder, {epoch, self.best_epoch})
        self.written = time.monotonic()
        self.cost = self.written - start

    def _write(self, trainer: pl.Trainer, task: SegmentationTask, rng_states: list[Any], folder: Path) -> None:
        save_tensors(task.state_dict(), folder / WEIGHTS)
        if averaging := _averaging(trainer):
            parts: dict[str, Any] = {"state_dict": {}}
            averaging.on_save_checkpoint(trainer, task, parts)
            save_tensors(parts["state_dict"] | parts["averaging_state"], folder / AVERAGE)
        write_tensors(task.optimizer.state_dict(), folder / OPTIMIZER)
        shutil.copytree(self.logged, folder / FIGURES)
        state = {
            "best_epoch": self.best_epoch,
            "best_dice": self.best_dice,
            "steps": trainer.global_step,
            "rates": [float(group["lr"]) for group in task.optimizer.param_groups],
            "schedule": task.schedule.scheduler.state_dict() if task.schedule else None,
            "precision": trainer.precision_plugin.state_dict(),
            "rng_states": rng_states,
        }
        (folder / STATE).write_text(json.dumps(state), encoding="utf-8")

    def _read_start(self, trainer: pl.Trainer, task: SegmentationTask) -> _Read | None:
        return _read_epoch(_epoch(self.folder, self.start), task) if trainer.is_global_zero else None

    def _restore(self, trainer: pl.Trainer, task: SegmentationTask, read: _Read) -> None:
        state = read.state
        self.best_epoch, self.best_dice = state["best_epoch"], state["best_dice"]
        self.rng = state["rng_states"][trainer.global_rank]
        task.load_state_dict(read.weights)
        _restore_optimizer(task, read)
        trainer.precision_plugin.load_state_dict(state["precision"])
        _set_progress(trainer, self.start, state["steps"])
        averaging = _averaging(trainer)
        if averaging and read.average:
            average = {name: read.average[name] for name in read.weights}
            counts = {name: count for name, count in read.average.items() if name not in average}
            parts = {"state_dict": average, "averaging_state": counts, "current_model_state": read.weights}
            averaging.on_load_checkpoint(trainer, task, parts)
            averaging.load_state_dict({"latest_update_step": state["steps"]})


def _task(module: pl.LightningModule) -> SegmentationTask:
    assert isinstance(module, SegmentationTask)
    return module


def _epoch(folder: Path, number: int) -> Path:
    return folder / f"epoch-{number}"


def _state(folder: Path) -> dict[str, Any]:
    state: dict[str, Any] = json.loads((folder / STATE).read_text(encoding="utf-8"))
    return state


def _is_whole(folder: Path) -> bool:
    try:
        _state(folder)
        for path in {folder / WEIGHTS, folder / OPTIMIZER, *folder.glob("*.safetensors")}:
            with safe_open(path, "pt"):  # its header says how long the file must be
                pass
    except (OSError, ValueError, SafetensorError):
        return False
    return True


def _read_epoch(folder: Path, task: SegmentationTask) -> _Read:
    average = load_file(folder / AVERAGE) if (folder / AVERAGE).exists() else None
    optimizer = read_tensors(folder / OPTIMIZER, task.optimizer)
    return _Read(_state(folder), load_file(folder / WEIGHTS), average, optimizer)


def _of_all(trainer: pl.Trainer, own: object) -> list[Any]:
    """What each of the processes that train together has, by rank."""
    everyone: list[Any] = [own] * trainer.world_size
    if trainer.world_size > 1:
        torch.distributed.all_gather_object(everyone, own)
    return everyone


def _averaging(trainer: pl.Trainer) -> WeightAveraging | None:
    found = (callback for callback in trainer.callbacks if isinstance(callback, WeightAveraging))  # type: ignore[attr-defined]
    return next(found, None)


def _keep(folder: Path, epochs: set[int]) -> None:
    """Remove all epochs but these, and what a process that was killed left half written."""
    kept = {_epoch(folder, epoch) for epoch in epochs}
    for path in (*folder.glob("epoch-*"), *folder.glob(f"{PARTIAL_PREFIX}*")):
        if path not in kept:
            shutil.rmtree(path)


def _restore_optimizer(task: SegmentationTask, read: _Read) -> None:
    restore_optimizer(task.optimizer, read.optimizer, read.state["rates"])
    if task.schedule:
        task.schedule.scheduler.load_state_dict(read.state["schedule"])


def _set_progress(trainer: pl.Trainer, epochs: int, steps: int) -> None:
    """Have the trainer count on from so many epochs and steps of the optimiser."""
    loop = trainer.fit_loop
    whole = dict.fromkeys(("ready", "started", "processed", "completed"), epochs)
    loop.epoch_progress.load_state_dict({"total": whole, "current": whole})
    step = loop.epoch_loop.automatic_optimization.optim_progress.optimizer.step.total
    step.ready = step.completed = steps


def _rng_state(device: torch.device) -> dict[str, Any]:
    """The states of all generators of random numbers, as JSON holds them."""
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
