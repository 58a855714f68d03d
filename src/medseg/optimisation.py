"""How weights move: optimisers and learning-rate schedules."""

from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import Field
from torch import nn, optim

from medseg.params import Section

Rate = Annotated[float, Field(gt=0, le=10)]
Decay = Annotated[float, Field(ge=0, le=1)]


class Adam(Section):
    """Adam (Kingma and Ba, ICLR 2015)."""

    name: Literal["adam"]
    learning_rate: Rate


class AdamW(Section):
    """Adam with decoupled weight decay (Loshchilov and Hutter, ICLR 2019)."""

    name: Literal["adamw"]
    learning_rate: Rate
    weight_decay: Decay


OptimizerParams = Annotated[Adam | AdamW, Field(discriminator="name")]


class Plateau(Section):
    """Lower the rate by `factor` after `patience` epochs in which the monitored figure did not improve."""

    name: Literal["plateau"]
    monitor: Literal["train/loss", "val/loss", "val/dice"]
    factor: float = Field(gt=0, lt=1)
    patience: int = Field(ge=0)  # epochs


class Constant(Section):
    """The rate stays."""

    name: Literal["constant"]


SchedulerParams = Annotated[Plateau | Constant, Field(discriminator="name")]


def build_optimizer(params: OptimizerParams, weights: Iterable[nn.Parameter]) -> optim.Optimizer:
    """The optimiser that `params` names, over `weights`."""
    match params:
        case Adam():
            return optim.Adam(weights, lr=params.learning_rate)
        case AdamW():
            return optim.AdamW(weights, lr=params.learning_rate, weight_decay=params.weight_decay)


def build_scheduler(params: SchedulerParams, optimizer: optim.Optimizer) -> optim.lr_scheduler.ReduceLROnPlateau | None:
    """The schedule that `params` names, or None where the rate is constant."""
    match params:
        case Plateau():
            mode: Literal["min", "max"] = "max" if params.monitor == "val/dice" else "min"
            return optim.lr_scheduler.ReduceLROnPlateau(
                optimizer, mode=mode, factor=params.factor, patience=params.patience
            )
        case Constant():
            return None
