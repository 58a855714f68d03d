"""How weights move: optimisers and learning-rate schedules."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator
from torch import nn, optim
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau

from medseg.core.errors import UserError
from medseg.core.params import Section

Decay = Annotated[float, Field(ge=0, le=1)]
Momentum = Annotated[float, Field(ge=0, lt=1)]  # share of the last step that goes into the next
Divisor = Annotated[float, Field(ge=1)]
Fused = bool  # whether a step is one pass over the weights; the same but for rounding, and faster


class Rates(Section):
    """What every optimiser needs: how far it goes.

    Layers that were trained before should move less (discriminative fine-tuning, Howard and Ruder, ACL 2018, section
    3.2); here they are the encoder.
    """

    learning_rate: float = Field(gt=0, le=10)  # the schedule's whole: each of its shares is a share of this
    encoder_factor: float = Field(gt=0, le=1)  # the encoder's rate over learning_rate; 1: one rate for all


class Sgd(Rates):
    """Stochastic gradient descent with momentum (Polyak 1964) and L2 weight decay, as torch words it.

    b <- momentum b + g, w <- w - rate b, where g holds the gradient and weight_decay w; b starts as the first g. With
    `nesterov`, w <- w - rate (g + momentum b).
    """

    name: Literal["sgd"]
    fused: Fused
    momentum: Momentum
    nesterov: bool
    weight_decay: Decay

    @field_validator("nesterov")
    @classmethod
    def _has_momentum(cls, nesterov: bool, others: ValidationInfo) -> bool:
        if nesterov and others.data.get("momentum") == 0:
            raise ValueError("Nesterov's step looks ahead along the momentum, which is 0: set it to false, or raise it")
        return nesterov


class Adam(Rates):
    """Adam (Kingma and Ba, ICLR 2015), with the paper's decay rates 0.9 and 0.999."""

    name: Literal["adam"]
    fused: Fused


class AdamW(Rates):
    """Adam with decoupled weight decay (Loshchilov and Hutter, ICLR 2019)."""

    name: Literal["adamw"]
    fused: Fused
    weight_decay: Decay


class RmsProp(Rates):
    """RMSProp (Tieleman and Hinton 2012): steps over the root of a running mean of squared gradients.

    v <- smoothing v + (1 - smoothing) g^2, b <- momentum b + g / (sqrt(v) + 1e-8), w <- w - rate b; v starts at 0.
    """

    name: Literal["rmsprop"]
    smoothing: float = Field(ge=0, lt=1)  # torch's alpha
    momentum: Momentum


OptimizerParams = Annotated[Sgd | Adam | AdamW | RmsProp, Field(discriminator="name")]


class Plateau(Section):
    """Lower the rate by `factor` after more than `patience` epochs in which the monitored figure did not improve.

    A change by less than a ten-thousandth of the best figure is no improvement.
    """

    name: Literal["plateau"]
    monitor: Literal["train/loss", "val/loss", "val/dice"]
    factor: float = Field(gt=0, lt=1)
    patience: int = Field(ge=0)  # epochs


class Cosine(Section):
    """A linear warm-up (Goyal et al. 2017, section 2.2), then half a cosine (Loshchilov and Hutter, ICLR 2017)."""

    name: Literal["cosine"]
    warmup_epochs: float = Field(ge=0)
    final_share: float = Field(ge=0, le=1)  # of the rate, at the end


class Poly(Section):
    """The rate falls as (1 - progress)^power (DeepLab, Chen et al., TPAMI 2018, section 4.1)."""

    name: Literal["poly"]
    power: float = Field(gt=0)


class OneCycle(Section):
    """Up to learning_rate and far down again, each along half a cosine (Smith and Topin 2019).

    Momentum is not cycled: it stays as the optimiser's section has it.
    """

    name: Literal["one_cycle"]
    warmup_share: float = Field(gt=0, lt=1)  # of the run, until the peak
    start_divisor: Divisor  # the first rate is learning_rate over this ...
    final_divisor: Divisor  # ... and the last one is the first over this


class Constant(Section):
    """The rate stays."""

    name: Literal["constant"]


SchedulerParams = Annotated[Plateau | Cosine | Poly | OneCycle | Constant, Field(discriminator="name")]


@dataclass(frozen=True)
class Schedule:
    """A scheduler and when it moves."""

    scheduler: LRScheduler | ReduceLROnPlateau
    interval: Literal["epoch", "step"]
    monitor: str | None  # the logged figure that it watches


def build_optimizer(params: OptimizerParams, network: nn.Module) -> optim.Optimizer:
    """The optimiser that `params` names, over the weights of `network`.

    There is one group of weights where `encoder_factor` is 1; else there are two, the encoder's (`core.encoder` of
    `medseg.models.network.Network`) the second. Raises `UserError` where an encoder is meant and there is none.
    """
    groups = _groups(params, network)
    match params:
        case Sgd():
            return optim.SGD(
                groups,
                lr=params.learning_rate,
                momentum=params.momentum,
                nesterov=params.nesterov,
                weight_decay=params.weight_decay,
                fused=params.fused,
            )
        case Adam():
            return optim.Adam(groups, lr=params.learning_rate, fused=params.fused)
        case AdamW():
            return optim.AdamW(groups, lr=params.learning_rate, weight_decay=params.weight_decay, fused=params.fused)
        case RmsProp():
            return optim.RMSprop(
                groups, lr=params.learning_rate, alpha=params.smoothing, momentum=params.momentum, eps=1e-8
            )


def _groups(params: Rates, network: nn.Module) -> list[dict[str, Any]]:
    if params.encoder_factor == 1:
        return [{"params": list(network.parameters())}]
    encoder = list(_encoder(params, network).parameters())
    known = {id(weight) for weight in encoder}
    rest = [weight for weight in network.parameters() if id(weight) not in known]
    return [{"params": rest}, {"params": encoder, "lr": params.learning_rate * params.encoder_factor}]


def _encoder(params: Rates, network: nn.Module) -> nn.Module:
    try:
        return network.get_submodule("core.encoder")
    except AttributeError:
        core = type(getattr(network, "core", network)).__name__
        raise UserError(
            f"params.yaml: optimizer.encoder_factor = {params.encoder_factor}: the network {core} has no encoder to "
            "train at a rate of its own: set it to 1"
        ) from None


def build_schedule(
    params: SchedulerParams, optimizer: optim.Optimizer, epochs: int, steps_per_epoch: int
) -> Schedule | None:
    """The schedule that `params` names for a run of so many epochs, or None where the rate is constant.

    Every schedule multiplies the rates of all groups alike, so that their ratios stay. Raises `UserError` for a
    warm-up that leaves nothing of the run.
    """
    total = epochs * steps_per_epoch
    match params:
        case Plateau():
            return Schedule(_plateau(params, optimizer), "epoch", params.monitor)
        case Cosine():
            if params.warmup_epochs >= epochs:
                raise UserError(
                    f"params.yaml: scheduler.warmup_epochs = {params.warmup_epochs}: must be less than the run, "
                    f"train.epochs = {epochs}"
                )
            warmup = params.warmup_epochs * steps_per_epoch
            return _by_step(optimizer, lambda step: cosine_share(step, total, warmup, params.final_share))
        case Poly():
            return _by_step(optimizer, lambda step: poly_share(step, total, params.power))
        case OneCycle():
            return _by_step(
                optimizer,
                lambda step: one_cycle_share(
                    step, total, params.warmup_share, params.start_divisor, params.final_divisor
                ),
            )
        case Constant():
            return None


def _plateau(params: Plateau, optimizer: optim.Optimizer) -> ReduceLROnPlateau:
    mode: Literal["min", "max"] = "max" if params.monitor == "val/dice" else "min"
    # torch would leave small rates where they are, and lower the others: with eps = 0 the groups keep their ratio.
    return ReduceLROnPlateau(optimizer, mode=mode, factor=params.factor, patience=params.patience, eps=0)


def _by_step(optimizer: optim.Optimizer, share: Callable[[int], float]) -> Schedule:
    return Schedule(LambdaLR(optimizer, share), "step", None)


def cosine_share(step: int, total: int, warmup: float, final_share: float) -> float:
    """The share of the rate at `step` (from 0) of `total`, of which `warmup` (less than total) warm up.

    The warm-up is a line from 1 / (warmup + 1) to 1, so that the first step moves, too. Half a cosine follows, down to
    `final_share` at step `total`, where it stays: Loshchilov and Hutter 2017, equation 5, without restarts.
    """
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return _half_cosine(1, final_share, (step - warmup) / (total - warmup))


def poly_share(step: int, total: int, power: float) -> float:
    """The share of the rate at `step` (from 0) of `total`: (1 - step / total)^power, and 0 from step `total` on."""
    return math.pow(max(0.0, 1 - step / total), power)


def one_cycle_share(step: int, total: int, warmup_share: float, start_divisor: float, final_divisor: float) -> float:
    """The share of the rate at `step` (from 0) of `total`: 1 after `warmup_share` (0..1, exclusive) of the run.

    It starts at 1 / start_divisor and ends, at step `total`, at 1 / (start_divisor final_divisor), where it stays.
    torch's OneCycleLR of total + 1 steps, which divides by zero where the warm-up is one step.
    """
    start, peak = 1 / start_divisor, warmup_share * total
    if step < peak:
        return _half_cosine(start, 1, step / peak)
    return _half_cosine(1, start / final_divisor, (step - peak) / (total - peak))


def _half_cosine(start: float, end: float, progress: float) -> float:
    """From `start` (progress 0) to `end` (progress 1 and beyond)."""
    return end + (start - end) * (1 + math.cos(math.pi * min(progress, 1))) / 2
