"""Recipes of short training runs, and what is compared between two."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import tiny
import torch
from torch import Tensor

from medseg.core.parallel import MachineParams
from medseg.data.packed import Packed
from medseg.models.params import ImprovedUnet, UnetPlain
from medseg.training.params import Adam, BCEDice, LoggerParams, Plateau, Sgd, TrainParams, Uniform
from medseg.training.trainer import NO_LOGGER, Folders, Recipe, Trained, fit

TRAIN = TrainParams(
    init_from=None,
    continue_from=None,
    initial_overlap="fail",
    epochs=3,
    batch_size=2,
    patience=10,
    gradient_clip=1.0,
    precision="32-true",
    deterministic=True,
    devices=1,
    num_nodes=1,
    channels_last=False,
    compile=False,
    strategy="auto",
    ema_decay=0.0,
)
RECIPE = Recipe(
    task=tiny.BINARY,
    model=tiny.unet(),
    loss=BCEDice(name="bce_dice", bce_weight=0.5, dice_weight=0.5, smooth=1.0, head_weights=[1.0]),
    optimizer=Adam(name="adam", fused=True, learning_rate=3e-3, encoder_factor=1.0),
    scheduler=Plateau(name="plateau", monitor="val/dice", factor=0.1, patience=5),
    sampling=Uniform(name="uniform"),
    online=tiny.online(),
    train=TRAIN,
    seed=0,
)
SGD = Sgd(  # unlike Adam, it leaves a difference by rounding as small as it is
    name="sgd", fused=True, learning_rate=0.01, encoder_factor=1.0, momentum=0.9, nesterov=False, weight_decay=0.0
)
PLAIN = replace(  # a network without parts that make much of a small difference
    RECIPE,
    model=UnetPlain(name="unet_plain", init_features=4, input_mean=[0.5], input_std=[0.5]),
    optimizer=SGD,
)


def recipe(**train: Any) -> Recipe:
    return replace(RECIPE, train=TRAIN.model_copy(update=train))


def train(
    stores: tuple[Packed, Packed],
    recipe: Recipe,
    folder: Path,
    machine: MachineParams = tiny.CPU,
    logger: LoggerParams = NO_LOGGER,
) -> Trained:
    folders = Folders(folder / "weights", folder / "metrics/train", folder / "logs")
    trained = fit(*stores, recipe, folders, machine, logger)
    assert trained is not None
    return trained


def equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return all(torch.equal(first[key], second[key]) for key in first)


def improved(head_weights: list[float]) -> Recipe:
    model = ImprovedUnet(name="improved_unet", init_features=4, dropout=0.3, input_mean=[0.5], input_std=[0.5])
    loss = RECIPE.loss.model_copy(update={"head_weights": head_weights})
    return replace(recipe(epochs=1), model=model, loss=loss)
