"""A training run on disk after each of its epochs: from the last one it can go on, the best one is what it leaves.

The run's folder holds `epoch-N/`, N epochs finished, of the last and of the best: weights, their average, optimiser,
schedule, random numbers and logged figures, all to the last bit. So a run that was killed and goes on ends with the
weights of one that was not. No pickle is read or written.
"""

import json
import random
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import WeightAveraging
from safetensors.torch import load_file
from torch import Tensor

from medseg.outputs import PARTIAL_PREFIX, whole_folder
from medseg.resuming import read_tensors, restore_optimizer, write_tensors
from medseg.task import SegmentationTask
from medseg.tensors import save_tensors

FIGURE = "val/dice"  # by which the best epoch is chosen
WEIGHTS = "weights.safetensors"
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
    """After how many epochs the run of `folder` can go on; 0: it must start anew."""
    found = sorted((int(path.name.removeprefix("epoch-")) for path in folder.glob("epoch-*")), reverse=True)
    return next((epoch for epoch in found if _epoch(folder, _read(folder, epoch)["best_epoch"]).is_dir()), 0)


def bring_back_figures(folder: Path, logged: Path) -> None:
    """Replace the folder `logged`, into which loggers write, by what the run of `folder` had logged to go on from."""
    shutil.rmtree(logged, ignore_errors=True)
    if epoch := last_epoch(folder):
        shutil.copytree(_epoch(folder, epoch) / FIGURES, logged)


class Snapshots(pl.Callback):
    """Writes a run's epochs to its folder, lets it go on from there, and ends it when val/dice rises no more.

    In the trainer's list it stands before a `WeightAveraging`, which puts the average in the weights' place at the end.
    """

    def __init__(self, folder: Path, logged: Path, patience: int) -> None:
        """`folder` is the run's, and that of the first where several processes train; loggers write to `logged`.

        Training ends after `patience` epochs without a better val/dice.
        """
        self.folder, self.logged, self.patience = folder, logged, patience
        self.start = 0  # epochs that were finished before this process began
        self.best_epoch, self.best_dice = 0, -np.inf
        self.written, self.cost = -np.inf, 0.0  # seconds: when the last state was written, and how long that took

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Bring all but the random numbers to the end of the last epoch that the folder holds."""
        self.folder, self.start = trainer.strategy.broadcast((self.folder, last_epoch(self.folder)))
        if self.start:
            self._restore(trainer, _task(pl_module))
            trainer.should_stop = self._has_lost_patience(self.start)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the epoch before this one: all that belongs to it is done. After a restart, bring the chance back."""
        epoch = trainer.current_epoch
        if epoch > self.start:
            self._finish(trainer, _task(pl_module))
        elif epoch:
            path = _chance_file(_epoch(self.folder, epoch), trainer.global_rank)
            _restore_chance(json.loads(path.read_text()), pl_module.device)

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
        folder, state = _epoch(self.folder, self.best_epoch), _read(self.folder, self.best_epoch)
        average = _average_file(folder, 0)
        weights = load_file(average if average.exists() else folder / WEIGHTS)
        task.load_state_dict({name: weights[name] for name in task.state_dict()})
        _restore_optimizer(task, folder, state)
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
        with _whole_folder_of_all(trainer, _epoch(self.folder, epoch)) as folder:
            self._write(trainer, task, folder)
        if trainer.is_global_zero:
            _keep(self.folder, {epoch, self.best_epoch})
        self.written = time.monotonic()
        self.cost = self.written - start

    def _write(self, trainer: pl.Trainer, task: SegmentationTask, folder: Path) -> None:
        """Write the parts of an epoch; what differs between processes that train together each writes for itself."""
        _chance_file(folder, trainer.global_rank).write_text(json.dumps(_chance(task.device)))
        if averaging := _averaging(trainer):
            state: dict[str, Any] = {"state_dict": {}}
            averaging.on_save_checkpoint(trainer, task, state)
            save_tensors(state["state_dict"] | state["averaging_state"], _average_file(folder, trainer.global_rank))
        if not trainer.is_global_zero:
            return
        save_tensors(task.state_dict(), folder / WEIGHTS)
        write_tensors(task.optimizer.state_dict(), folder / OPTIMIZER)
        shutil.copytree(self.logged, folder / FIGURES)
        state = {
            "best_epoch": self.best_epoch,
            "best_dice": self.best_dice,
            "steps": trainer.global_step,
            "rates": [float(group["lr"]) for group in task.optimizer.param_groups],
            "schedule": task.schedule.scheduler.state_dict() if task.schedule else None,
            "precision": trainer.precision_plugin.state_dict(),
        }
        (folder / STATE).write_text(json.dumps(state))

    def _restore(self, trainer: pl.Trainer, task: SegmentationTask) -> None:
        folder, state = _epoch(self.folder, self.start), _read(self.folder, self.start)
        self.best_epoch, self.best_dice = state["best_epoch"], state["best_dice"]
        weights = load_file(folder / WEIGHTS)
        task.load_state_dict(weights)
        _restore_optimizer(task, folder, state)
        trainer.precision_plugin.load_state_dict(state["precision"])
        _set_progress(trainer, self.start, state["steps"])
        if averaging := _averaging(trainer):
            average = load_file(_average_file(folder, trainer.global_rank))
            known = {name: average.pop(name) for name in weights}
            parts = {"state_dict": known, "averaging_state": average, "current_model_state": weights}
            averaging.on_load_checkpoint(trainer, task, parts)
            averaging.load_state_dict({"latest_update_step": state["steps"]})


def _task(module: pl.LightningModule) -> SegmentationTask:
    assert isinstance(module, SegmentationTask)
    return module


def _epoch(folder: Path, number: int) -> Path:
    return folder / f"epoch-{number}"


def _chance_file(folder: Path, rank: int) -> Path:
    return folder / f"chance-{rank}.json"


def _average_file(folder: Path, rank: int) -> Path:
    return folder / f"average-{rank}.safetensors"


def _read(folder: Path, epoch: int) -> dict[str, Any]:
    state: dict[str, Any] = json.loads((_epoch(folder, epoch) / STATE).read_text())
    return state


def _averaging(trainer: pl.Trainer) -> WeightAveraging | None:
    found = (callback for callback in trainer.callbacks if isinstance(callback, WeightAveraging))  # type: ignore[attr-defined]
    return next(found, None)


def _keep(folder: Path, epochs: set[int]) -> None:
    """Remove all epochs but these, and what a process that was killed left half written."""
    kept = {_epoch(folder, epoch) for epoch in epochs}
    for path in (*folder.glob("epoch-*"), *folder.glob(f"{PARTIAL_PREFIX}*")):
        if path not in kept:
            shutil.rmtree(path)


@contextmanager
def _whole_folder_of_all(trainer: pl.Trainer, path: Path) -> Iterator[Path]:
    """A folder that is whole or absent, to which all processes write that train together."""
    if not trainer.is_global_zero:
        trainer.strategy.barrier()
        yield path.with_name(PARTIAL_PREFIX + path.name)
        trainer.strategy.barrier()
        return
    with whole_folder(path) as partial:
        trainer.strategy.barrier()
        yield partial
        trainer.strategy.barrier()


def _restore_optimizer(task: SegmentationTask, folder: Path, state: dict[str, Any]) -> None:
    restore_optimizer(task.optimizer, read_tensors(folder / OPTIMIZER, task.optimizer), state["rates"])
    if task.schedule:
        task.schedule.scheduler.load_state_dict(state["schedule"])


def _set_progress(trainer: pl.Trainer, epochs: int, steps: int) -> None:
    """Have the trainer count on from so many epochs and steps of the optimiser."""
    loop = trainer.fit_loop
    whole = dict.fromkeys(("ready", "started", "processed", "completed"), epochs)
    loop.epoch_progress.load_state_dict({"total": whole, "current": whole})
    step = loop.epoch_loop.automatic_optimization.optim_progress.optimizer.step.total
    step.ready = step.completed = steps


def _chance(device: torch.device) -> dict[str, Any]:
    """The states of all generators of random numbers, as JSON holds them."""
    cuda = torch.cuda.get_rng_state(device).numpy().tobytes().hex() if device.type == "cuda" else None
    kind, keys, *rest = np.random.get_state()
    return {
        "torch": torch.get_rng_state().numpy().tobytes().hex(),
        "cuda": cuda,
        "python": random.getstate(),
        "numpy": [kind, np.asarray(keys).tolist(), *rest],
    }


def _restore_chance(chance: dict[str, Any], device: torch.device) -> None:
    torch.set_rng_state(_bytes(chance["torch"]))
    if chance["cuda"]:
        torch.cuda.set_rng_state(_bytes(chance["cuda"]), device)
    version, numbers, gauss = chance["python"]
    random.setstate((version, tuple(numbers), gauss))
    np.random.set_state(tuple(chance["numpy"]))


def _bytes(digits: str) -> Tensor:
    return torch.frombuffer(bytearray.fromhex(digits), dtype=torch.uint8)
