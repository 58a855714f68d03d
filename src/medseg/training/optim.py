"""Optimisers and learning-rate schedules: the sections `optimizer` and `scheduler`."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn, optim
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau

from medseg.core.errors import UserError
from medseg.training.params import (
    Adam,
    AdamW,
    Constant,
    Cosine,
    OneCycle,
    OptimizerParams,
    Plateau,
    Poly,
    Rates,
    RmsProp,
    SchedulerParams,
    Sgd,
)


@dataclass(frozen=True)
class Schedule:
    """A scheduler and when it is stepped."""

    scheduler: LRScheduler | ReduceLROnPlateau
    interval: Literal["epoch", "step"]
    monitor: str | None  # the logged metric that it depends on


def build_optimizer(params: OptimizerParams, network: nn.Module) -> optim.Optimizer:
    """Return the optimiser that `params` describes, over the weights of `network`.

    There is one parameter group where `encoder_factor` is 1, else two, the second of which is the encoder
    (`core.encoder` of `medseg.models.network.Network`). Raises `UserError` where `encoder_factor` is not 1 and there is
    no encoder.
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
    """Return the schedule that `params` describes for a run of `epochs`, or None where the rate is constant.

    Every schedule multiplies the rates of all groups alike, so their ratios stay. Raises `UserError` where the warm-up
    is not shorter than the run.
    """
    total = epochs * steps_per_epoch
    match params:
        case Plateau():
            mode: Literal["min", "max"] = "max" if params.monitor == "val/dice" else "min"
            # By default torch skips reductions by less than 1e-8, of one group and not the other.
            plateau = ReduceLROnPlateau(optimizer, mode=mode, factor=params.factor, patience=params.patience, eps=0)
            return Schedule(plateau, "epoch", params.monitor)
        case Cosine():
            if params.warmup_epochs >= epochs:
                raise UserError(
                    f"params.yaml: scheduler.warmup_epochs = {params.warmup_epochs}: must be less than the run, "
                    f"train.epochs = {epochs}"
                )
            warmup = params.warmup_epochs * steps_per_epoch
            return _by_step(optimizer, lambda step: cosine_fraction(step, total, warmup, params.final_share))
        case Poly():
            return _by_step(optimizer, lambda step: poly_fraction(step, total, params.power))
        case OneCycle():
            return _by_step(
                optimizer,
                lambda step: one_cycle_fraction(
                    step, total, params.warmup_share, params.start_divisor, params.final_divisor
                ),
            )
        case Constant():
            return None


def _by_step(optimizer: optim.Optimizer, fraction: Callable[[int], float]) -> Schedule:
    return Schedule(LambdaLR(optimizer, fraction), "step", None)


def cosine_fraction(step: int, total: int, warmup: float, final_share: float) -> float:
    """The fraction of the rate at `step` (from 0) of `total`, of which `warmup` (less than total) warm up.

    The warm-up is a line from 1 / (warmup + 1) to 1, so that the first step moves, too. Half a cosine follows, down to
    `final_share` at step `total`, where it stays: Loshchilov and Hutter 2017, equation 5, without restarts.
    """
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return _half_cosine(1, final_share, (step - warmup) / (total - warmup))


def poly_fraction(step: int, total: int, power: float) -> float:
    """The fraction of the rate at `step` (from 0) of `total`: (1 - step / total)^power, and 0 from step `total` on."""
    return math.pow(max(0.0, 1 - step / total), power)


def one_cycle_fraction(step: int, total: int, warmup_share: float, start_divisor: float, final_divisor: float) -> float:
    """The fraction of the rate at `step` (from 0) of `total`: 1 after `warmup_share` (0..1, exclusive) of the run.

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
