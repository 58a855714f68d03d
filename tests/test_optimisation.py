"""Optimisers take the rate they are given; the plateau lowers it when it should and not before."""

from typing import Any, Literal

import pytest
import torch
from torch import nn, optim

from medseg.errors import UserError
from medseg.optimisation import (
    Adam,
    AdamW,
    Constant,
    OptimizerParams,
    Plateau,
    SchedulerParams,
    build_optimizer,
    build_scheduler,
)
from medseg.params import validate


def weight() -> nn.Parameter:
    return nn.Parameter(torch.tensor([1.0]))


def rates(monitor: Literal["train/loss", "val/loss", "val/dice"], figures: list[float], patience: int) -> list[float]:
    """The rate after each epoch."""
    optimizer = build_optimizer(Adam(name="adam", learning_rate=1.0), [weight()])
    scheduler = build_scheduler(Plateau(name="plateau", monitor=monitor, factor=0.1, patience=patience), optimizer)
    assert scheduler is not None
    found = []
    for figure in figures:
        scheduler.step(figure)
        found.append(round(float(optimizer.param_groups[0]["lr"]), 6))
    return found


def test_adam_takes_its_first_step_of_the_size_of_the_rate() -> None:
    parameter = weight()
    optimizer = build_optimizer(Adam(name="adam", learning_rate=0.01), [parameter])
    assert type(optimizer) is optim.Adam
    (parameter * 3).sum().backward()  # type: ignore[no-untyped-call]  # torch does not type it
    optimizer.step()
    assert parameter.item() == pytest.approx(1 - 0.01, abs=1e-6)


def test_adamw_decays_weights_apart_from_the_gradient() -> None:
    parameter = weight()
    optimizer = build_optimizer(AdamW(name="adamw", learning_rate=0.01, weight_decay=0.5), [parameter])
    parameter.grad = torch.zeros(1)
    optimizer.step()
    assert parameter.item() == pytest.approx(1 - 0.01 * 0.5, abs=1e-6)


def test_the_plateau_lowers_the_rate_after_patience_and_one_more_epochs_without_progress() -> None:
    assert rates("val/loss", [1.0, 1.0, 1.0, 1.0, 1.0], patience=2) == [1, 1, 1, 0.1, 0.1]
    assert rates("train/loss", [1.0, 1.0, 1.0], patience=0) == [1, 0.1, 0.01]


def test_progress_starts_the_patience_anew() -> None:
    assert rates("val/loss", [1.0, 1.0, 1.0, 0.5, 0.5, 0.5, 0.5], patience=2) == [1, 1, 1, 1, 1, 1, 0.1]


def test_dice_should_rise_and_a_loss_should_fall() -> None:
    rising = [0.1, 0.2, 0.3, 0.4]
    assert rates("val/dice", rising, patience=1) == [1, 1, 1, 1]
    assert rates("val/loss", rising, patience=1) == [1, 1, 0.1, 0.1]
    assert rates("val/dice", rising[::-1], patience=1) == [1, 1, 0.1, 0.1]


def test_a_constant_rate_has_no_scheduler() -> None:
    optimizer = build_optimizer(Adam(name="adam", learning_rate=1.0), [weight()])
    assert build_scheduler(Constant(name="constant"), optimizer) is None


@pytest.mark.parametrize(
    ("kind", "section", "named"),
    [
        (OptimizerParams, {"name": "adam", "learning_rate": 0.0}, "learning_rate"),
        (OptimizerParams, {"name": "adam", "learning_rate": "1e-3"}, "learning_rate"),
        (OptimizerParams, {"name": "adamw", "learning_rate": 0.1}, "weight_decay"),
        (OptimizerParams, {"name": "adm", "learning_rate": 0.1}, "adam"),
        (SchedulerParams, {"name": "plateau", "monitor": "val/los", "factor": 0.1, "patience": 1}, "monitor"),
        (SchedulerParams, {"name": "plateau", "monitor": "val/loss", "factor": 1.0, "patience": 1}, "factor"),
        (SchedulerParams, {"name": "plateau", "monitor": "val/loss", "factor": 0.1, "patience": -1}, "patience"),
    ],
)
def test_wrong_sections_name_the_key(kind: Any, section: dict[str, object], named: str) -> None:
    with pytest.raises(UserError, match=named):
        validate(section, kind, "params.yaml: section")
