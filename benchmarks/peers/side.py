"""What the sides of the training benchmark share: one process each, which trains an epoch whenever it is told to.

A side is started as `python SIDE.py FOLDER STEPS`. FOLDER holds the same samples in all forms: `train` and `val` are
packed arrays, `images` and `masks` hold a PNG file of each sample of `train`. The side answers `ready` on its standard
output, waits for a line, trains an epoch of STEPS batches, and answers the seconds of the steps and of what came after
them; and so on until it is ended. What it prints else goes to its standard error. Between its turns the whole process
is stopped, workers included.
"""

import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from medseg.core.params import Seed, read_section, read_yaml, validate
from medseg.data.augment import Transforms
from medseg.data.packed import open_packed
from medseg.data.task import TaskParams
from medseg.models.params import ModelParams
from medseg.training.params import LossParams, OptimizerParams, SamplingParams, SchedulerParams, TrainParams
from medseg.training.trainer import Recipe

ROOT = Path(__file__).parents[2]
ENDLESS = 10**6  # epochs
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@dataclass(frozen=True)
class Order:
    """What a side is asked for."""

    folder: Path
    steps: int  # an epoch
    answers: TextIO

    @property
    def files(self) -> list[str]:
        """Names of the PNG files in `images` and `masks`."""
        return sorted(path.name for path in (self.folder / "images").iterdir())


def order() -> Order:
    """The order on the command line. As many threads compute on every side as `OMP_NUM_THREADS` says.

    Standard output is kept for answers: what any package prints goes to standard error from here on.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    return Order(Path(sys.argv[1]), int(sys.argv[2]), answers)


class Turns:
    """The talk with the benchmark; the clock runs from `begin` to `end`."""

    def __init__(self, asked: Order) -> None:
        """Answers go where the order says."""
        self.answers = asked.answers
        self.start = 0.0

    def begin(self) -> None:
        """Wait until it is this side's turn."""
        print("ready", file=self.answers, flush=True)
        if not sys.stdin.readline():  # the benchmark has ended
            os._exit(0)
        self.start = time.perf_counter()

    def passed(self) -> float:
        """Seconds since this turn began, all that the device was given done."""
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - self.start

    def end(self, steps: float, after: float) -> None:
        """Answer the seconds of the epoch's steps, and those of what came after them."""
        print(steps, after, file=self.answers, flush=True)


def take_turns(asked: Order, epoch: Callable[[], object]) -> None:
    """Train an epoch at each turn, for ever."""
    turns = Turns(asked)
    while True:
        turns.begin()
        epoch()
        turns.end(turns.passed(), 0.0)


class TurnsOfEpochs(pl.Callback):
    """Lightning's epochs as turns: the steps, and what comes after them until the next epoch, validation aside."""

    def __init__(self, asked: Order) -> None:
        """The talk begins with the first epoch."""
        self.turns = Turns(asked)
        self.steps = self.validation = 0.0  # seconds

    def on_train_epoch_start(self, trainer: pl.Trainer, _: pl.LightningModule) -> None:
        """End the last turn, wait for the next."""
        if trainer.current_epoch:
            self.turns.end(self.steps, self.turns.passed() - self.steps - self.validation)
        self.steps = self.validation = 0.0
        self.turns.begin()

    def on_validation_start(self, *_: object) -> None:
        """The steps are over."""
        self.steps = self.turns.passed()

    def on_validation_end(self, *_: object) -> None:
        """Validation is over."""
        self.validation = self.turns.passed() - self.steps

    def on_train_epoch_end(self, *_: object) -> None:
        """The steps are over, unless they were before validation."""
        self.steps = self.steps or self.turns.passed()


def recipe(online: str = "none") -> Recipe:
    """What params.yaml says, trained without end, with the file of `conf/online` of that name."""
    path = ROOT / "params.yaml"

    def section(key: str, kind: Any) -> Any:
        return read_section(path, key, kind)

    endless = {"epochs": ENDLESS, "patience": ENDLESS}
    varied = f"conf/online/{online}.yaml"
    return Recipe(
        task=section("task", TaskParams),
        model=section("model", ModelParams),
        loss=section("loss", LossParams),
        optimizer=section("optimizer", OptimizerParams),
        scheduler=section("scheduler", SchedulerParams),
        sampling=section("sampling", SamplingParams),
        online=validate(read_yaml(ROOT / varied), Transforms, varied),
        train=section("train", TrainParams).model_copy(update=endless),
        seed=section("seed", Seed),
    )


def first_batch(folder: Path, size: int) -> tuple[Tensor, Tensor]:
    """Pixels (N, C, H, W) and truth (N, 1, H, W), uint8, on the device, in the memory format that batches have."""
    store = open_packed(folder / "train")
    images: NDArray[np.uint8] = np.array(store.images[:size])
    masks: NDArray[np.uint8] = np.array(store.masks[:size])
    return (
        torch.from_numpy(images).permute(0, 3, 1, 2).to(DEVICE),
        torch.from_numpy(masks).unsqueeze(1).to(DEVICE),
    )
