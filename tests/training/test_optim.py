"""Optimisers step as their papers' formulas say, and schedules are where a hand's reckoning puts them."""

import math
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn, optim
from torch.optim.lr_scheduler import OneCycleLR, ReduceLROnPlateau

from medseg.core.errors import UserError
from medseg.core.params import read_yaml, validate
from medseg.training.optim import build_optimizer, build_schedule, cosine_fraction, one_cycle_fraction, poly_fraction
from medseg.training.params import (
    Adam,
    AdamW,
    Constant,
    Cosine,
    OneCycle,
    OptimizerParams,
    Plateau,
    Poly,
    RmsProp,
    SchedulerParams,
    Sgd,
)

CONF = Path(__file__).parents[2] / "conf"
GRADIENTS = [3.0, -1.0, 2.0]  # of three steps
RATE = 0.1

ADAM = Adam(name="adam", fused=True, learning_rate=1.0, encoder_factor=1.0)
SPLIT = Adam(name="adam", fused=True, learning_rate=1.0, encoder_factor=0.25)
POLY = Poly(name="poly", power=0.9)
COSINE = Cosine(name="cosine", warmup_epochs=1.5, final_share=0.1)
ONE_CYCLE = OneCycle(name="one_cycle", warmup_share=0.3, start_divisor=25, final_divisor=1000)
PLATEAU = Plateau(name="plateau", monitor="val/dice", factor=0.1, patience=0)


class Net(nn.Module):
    """Four weights, two of them the encoder's, placed as in the networks of segmentation-models-pytorch."""

    def __init__(self) -> None:
        super().__init__()
        self.core = nn.ModuleDict({"encoder": nn.Linear(2, 3), "head": nn.Linear(3, 1)})


class Encoderless(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.core = nn.Linear(2, 1)


class Scalar(nn.Module):
    """One weight, 1 at first."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones((), dtype=torch.float64))


def walk(params: OptimizerParams) -> list[float]:
    """The weight after each step along `GRADIENTS`, from 1."""
    network = Scalar()
    optimizer = build_optimizer(params, network)
    found = []
    for gradient in GRADIENTS:
        network.weight.grad = torch.tensor(gradient, dtype=torch.float64)
        optimizer.step()
        found.append(network.weight.item())
    return found


def sgd(**changes: Any) -> Sgd:
    values = {"learning_rate": RATE, "encoder_factor": 1.0, "momentum": 0.0, "nesterov": False, "weight_decay": 0.0}
    return Sgd(name="sgd", fused=True, **(values | changes))


def rmsprop(momentum: float) -> RmsProp:
    return RmsProp(name="rmsprop", learning_rate=RATE, encoder_factor=1.0, smoothing=0.9, momentum=momentum)


def test_plain_sgd_goes_down_the_gradient() -> None:
    assert walk(sgd()) == pytest.approx([1 - 0.3, 1 - 0.3 + 0.1, 1 - 0.3 + 0.1 - 0.2])


def test_sgd_carries_its_momentum_from_step_to_step() -> None:
    first = 3.0
    second = 0.9 * first - 1.0
    third = 0.9 * second + 2.0
    expected = [1 - RATE * first, 1 - RATE * (first + second), 1 - RATE * (first + second + third)]
    assert walk(sgd(momentum=0.9)) == pytest.approx(expected)


def test_nesterov_looks_ahead_along_the_momentum() -> None:
    first = 3.0
    second = 0.9 * first - 1.0
    third = 0.9 * second + 2.0
    steps = [3.0 + 0.9 * first, -1.0 + 0.9 * second, 2.0 + 0.9 * third]
    expected = [1 - RATE * sum(steps[: n + 1]) for n in range(3)]
    assert walk(sgd(momentum=0.9, nesterov=True)) == pytest.approx(expected)


def test_sgds_weight_decay_adds_to_the_gradient() -> None:
    first = 1 - RATE * (3.0 + 0.5 * 1)
    second = first - RATE * (-1.0 + 0.5 * first)
    third = second - RATE * (2.0 + 0.5 * second)
    assert walk(sgd(weight_decay=0.5)) == pytest.approx([first, second, third])


def adam_steps() -> list[float]:
    """Algorithm 1 of Kingma and Ba, with 0.9, 0.999 and 1e-8."""
    mean, square, steps = 0.0, 0.0, []
    for number, gradient in enumerate(GRADIENTS, start=1):
        mean = 0.9 * mean + 0.1 * gradient
        square = 0.999 * square + 0.001 * gradient**2
        steps.append(RATE * mean / (1 - 0.9**number) / (math.sqrt(square / (1 - 0.999**number)) + 1e-8))
    return steps


def test_adam_steps_as_its_paper_has_it() -> None:
    steps = adam_steps()
    assert steps[0] == pytest.approx(RATE)  # whatever the gradient's size
    expected = [1 - sum(steps[: n + 1]) for n in range(3)]
    assert walk(Adam(name="adam", fused=True, learning_rate=RATE, encoder_factor=1.0)) == pytest.approx(expected)


def test_adamw_decays_weights_apart_from_the_gradient() -> None:
    weight, expected = 1.0, []
    for step in adam_steps():
        weight = weight - RATE * 0.5 * weight - step
        expected.append(weight)
    params = AdamW(name="adamw", fused=True, learning_rate=RATE, encoder_factor=1.0, weight_decay=0.5)
    assert walk(params) == pytest.approx(expected)


@pytest.mark.parametrize("momentum", [0.0, 0.8])
def test_rmsprop_divides_by_the_root_of_the_running_square(momentum: float) -> None:
    square, buffer, weight, expected = 0.0, 0.0, 1.0, []
    for gradient in GRADIENTS:
        square = 0.9 * square + 0.1 * gradient**2
        buffer = momentum * buffer + gradient / (math.sqrt(square) + 1e-8)
        weight -= RATE * buffer
        expected.append(weight)
    assert walk(rmsprop(momentum)) == pytest.approx(expected)


ALL_OPTIMIZERS: list[OptimizerParams] = [
    sgd(),
    ADAM,
    AdamW(name="adamw", fused=True, learning_rate=0.1, encoder_factor=1.0, weight_decay=0.1),
    rmsprop(0.9),
]


def with_encoder_factor(params: OptimizerParams, factor: float) -> Any:
    return validate(params.model_dump() | {"encoder_factor": factor}, OptimizerParams, "params.yaml: optimizer")


def test_one_rate_for_all_is_one_group_of_all_weights() -> None:
    network = Net()
    (group,) = build_optimizer(ADAM, network).param_groups
    assert group["lr"] == ADAM.learning_rate
    assert [id(weight) for weight in group["params"]] == [id(weight) for weight in network.parameters()]


def test_the_encoder_moves_at_its_share_of_the_rate() -> None:
    for params in ALL_OPTIMIZERS:
        network = Net()
        rest, encoder = build_optimizer(with_encoder_factor(params, 0.25), network).param_groups
        assert rest["lr"] == params.learning_rate
        assert encoder["lr"] == params.learning_rate / 4
        for group, part in ((rest, "head"), (encoder, "encoder")):
            assert [id(weight) for weight in group["params"]] == [id(w) for w in network.core[part].parameters()]


def test_both_groups_take_the_optimisers_other_values() -> None:
    params = sgd(encoder_factor=0.5, momentum=0.7, nesterov=True, weight_decay=0.2)
    for group in build_optimizer(params, Net()).param_groups:
        assert (group["momentum"], group["nesterov"], group["weight_decay"]) == (0.7, True, 0.2)


@pytest.mark.parametrize("network", [Encoderless(), Scalar()], ids=["no encoder", "no core"])
def test_a_rate_for_an_encoder_that_does_not_exist_is_refused(network: nn.Module) -> None:
    with pytest.raises(UserError, match=r"optimizer\.encoder_factor = 0\.25"):
        build_optimizer(SPLIT, network)
    build_optimizer(ADAM, network)  # one rate asks for no encoder


# Schedules


def rates_by_step(params: SchedulerParams, steps: int, optimizer_params: OptimizerParams = ADAM) -> list[list[float]]:
    """The rates of all groups that each of `steps` steps is made with; the run has 4 epochs of 5 steps."""
    optimizer = build_optimizer(optimizer_params, Net())
    schedule = build_schedule(params, optimizer, epochs=4, steps_per_epoch=5)
    assert schedule is not None
    assert (schedule.interval, schedule.monitor) == ("step", None)
    assert not isinstance(schedule.scheduler, ReduceLROnPlateau)
    found = []
    for _ in range(steps):
        found.append([float(group["lr"]) for group in optimizer.param_groups])
        optimizer.step()
        schedule.scheduler.step()
    return found


def test_the_cosine_at_points_known_by_hand() -> None:
    # 20 steps, of which 4 warm up: 1/5, 2/5, 3/5, 4/5; then 16 from 1 to 0.2
    shares = [cosine_fraction(step, 20, 4, 0.2) for step in range(25)]
    assert shares[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert shares[8] == pytest.approx(0.2 + 0.8 * (1 + math.sqrt(0.5)) / 2)  # a quarter of the way
    assert shares[12] == pytest.approx(0.6)  # half of it
    assert shares[20:] == pytest.approx([0.2] * 5)  # the end and beyond


def test_the_cosine_without_warm_up_starts_at_the_full_rate() -> None:
    assert cosine_fraction(0, 20, 0, 0) == 1
    assert cosine_fraction(10, 20, 0, 0) == pytest.approx(0.5)
    assert cosine_fraction(20, 20, 0, 0) == 0


def test_the_poly_schedule_at_points_known_by_hand() -> None:
    assert [poly_fraction(step, 4, 1) for step in range(6)] == [1, 0.75, 0.5, 0.25, 0, 0]
    assert [poly_fraction(step, 4, 2) for step in range(6)] == [1, 0.5625, 0.25, 0.0625, 0, 0]
    assert poly_fraction(1, 4, 0.5) == pytest.approx(math.sqrt(3) / 2)


def test_the_one_cycle_at_points_known_by_hand() -> None:
    # 20 steps; from 1/10 to 1 in 8 of them, then to 1/10/50 in 12
    shares = [one_cycle_fraction(step, 20, 0.4, 10, 50) for step in range(25)]
    assert shares[0] == pytest.approx(0.1)
    assert shares[4] == pytest.approx(0.55)  # half-way up
    assert shares[8] == 1
    assert shares[14] == pytest.approx((1 + 0.002) / 2)  # half-way down
    assert shares[20:] == pytest.approx([0.002] * 5)


@pytest.mark.parametrize(("total", "peak"), [(20, 6), (50, 49)])
def test_the_one_cycle_is_torchs(total: int, peak: int) -> None:
    optimizer = optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    # torch counts the last step as the end and places the peak one step before its share of all steps.
    torchs = OneCycleLR(
        optimizer,
        max_lr=1.0,
        total_steps=total + 1,
        pct_start=(peak + 1) / (total + 1),
        cycle_momentum=False,
        div_factor=25,
        final_div_factor=10000,
    )
    for step in range(total + 1):
        share = one_cycle_fraction(step, total, peak / total, 25, 10000)
        assert share == pytest.approx(torchs.get_last_lr()[0], rel=1e-9, abs=1e-12)
        if step < total:
            optimizer.step()
            torchs.step()


@pytest.mark.parametrize(
    "share",
    [
        lambda step: cosine_fraction(step, 1, 0.5, 0.1),
        lambda step: poly_fraction(step, 1, 0.9),
        lambda step: one_cycle_fraction(step, 1, 0.3, 25, 10000),
    ],
)
def test_a_run_of_one_step_has_a_rate(share: Callable[[int], float]) -> None:
    assert 0 < share(0) <= 1


@given(
    total=st.integers(1, 400),
    warmup=st.floats(0, 1, exclude_max=True),
    final=st.floats(0, 1),
)
def test_the_cosine_rises_while_it_warms_up_and_falls_after(total: int, warmup: float, final: float) -> None:
    shares = [cosine_fraction(step, total, warmup * total, final) for step in range(total + 3)]
    assert_one_hill(shares, math.ceil(warmup * total))
    assert shares[0] > 0
    assert shares[-1] == pytest.approx(final)


@given(total=st.integers(1, 400), warmup=st.floats(0.001, 0.999), start=st.floats(1, 100), final=st.floats(1, 10_000))
def test_the_one_cycle_rises_to_its_peak_and_falls_after(total: int, warmup: float, start: float, final: float) -> None:
    shares = [one_cycle_fraction(step, total, warmup, start, final) for step in range(total + 3)]
    assert_one_hill(shares, math.ceil(warmup * total))
    assert shares[0] == pytest.approx(1 / start)
    assert shares[-1] == pytest.approx(1 / start / final)


@given(total=st.integers(1, 400), power=st.floats(0.01, 5))
def test_the_poly_schedule_falls_from_one_to_nothing(total: int, power: float) -> None:
    shares = [poly_fraction(step, total, power) for step in range(total + 3)]
    assert_one_hill(shares, 0)
    assert (shares[0], shares[total]) == (1, 0)


def assert_one_hill(shares: list[float], peak: int) -> None:
    """Up to the step `peak`, down from it on, never above 1; equal neighbours may differ by rounding."""
    rounding = 1e-12
    assert all(before <= after + rounding for before, after in pairwise(shares[:peak]))
    assert all(before >= after - rounding for before, after in pairwise(shares[peak:]))
    assert max(shares) <= 1 + rounding


@pytest.mark.parametrize(
    ("params", "share"),
    [
        (COSINE, lambda step: cosine_fraction(step, 20, 7.5, 0.1)),  # one and a half epochs of five steps
        (POLY, lambda step: poly_fraction(step, 20, 0.9)),
        (ONE_CYCLE, lambda step: one_cycle_fraction(step, 20, 0.3, 25, 1000)),
    ],
    ids=["cosine", "poly", "one_cycle"],
)
def test_each_step_of_the_run_is_made_at_its_share_of_each_groups_rate(
    params: SchedulerParams, share: Callable[[int], float]
) -> None:
    rates = rates_by_step(params, steps=25, optimizer_params=SPLIT)
    expected = [share(step) for step in range(25)]
    assert [rest for rest, _ in rates] == pytest.approx(expected)
    assert [encoder for _, encoder in rates] == pytest.approx([value * 0.25 for value in expected])


def test_the_one_cycle_leaves_momentum_alone() -> None:
    optimizer = build_optimizer(sgd(momentum=0.6), Net())
    schedule = build_schedule(ONE_CYCLE, optimizer, epochs=1, steps_per_epoch=10)
    assert schedule is not None
    assert not isinstance(schedule.scheduler, ReduceLROnPlateau)
    for _ in range(10):
        assert optimizer.param_groups[0]["momentum"] == 0.6
        optimizer.step()
        schedule.scheduler.step()


def test_a_warm_up_as_long_as_the_run_is_refused() -> None:
    params = Cosine(name="cosine", warmup_epochs=4.0, final_share=0)
    optimizer = build_optimizer(ADAM, Net())
    with pytest.raises(UserError, match=r"scheduler\.warmup_epochs = 4\.0"):
        build_schedule(params, optimizer, epochs=4, steps_per_epoch=5)
    build_schedule(params, optimizer, epochs=5, steps_per_epoch=5)


def test_a_constant_rate_has_no_schedule() -> None:
    optimizer = build_optimizer(ADAM, Net())
    assert build_schedule(Constant(name="constant"), optimizer, epochs=4, steps_per_epoch=5) is None


# The plateau

Monitor = Literal["train/loss", "val/loss", "val/dice"]


def plateau_over(params: Plateau, optimizer: optim.Optimizer) -> ReduceLROnPlateau:
    schedule = build_schedule(params, optimizer, epochs=4, steps_per_epoch=5)
    assert schedule is not None
    assert (schedule.interval, schedule.monitor) == ("epoch", params.monitor)
    assert isinstance(schedule.scheduler, ReduceLROnPlateau)
    return schedule.scheduler


def rates(monitor: Monitor, scores: list[float], patience: int) -> list[float]:
    """The rate after each epoch."""
    optimizer = build_optimizer(ADAM, Net())
    scheduler = plateau_over(Plateau(name="plateau", monitor=monitor, factor=0.1, patience=patience), optimizer)
    found = []
    for score in scores:
        scheduler.step(score)
        found.append(round(float(optimizer.param_groups[0]["lr"]), 6))
    return found


def test_the_plateau_lowers_the_rate_after_patience_and_one_more_epochs_without_progress() -> None:
    assert rates("val/dice", [1.0, 1.0, 1.0, 1.0, 1.0], patience=2) == [1, 1, 1, 0.1, 0.1]
    assert rates("val/dice", [1.0, 1.0, 1.0], patience=0) == [1, 0.1, 0.01]


def test_progress_starts_the_patience_anew() -> None:
    assert rates("val/loss", [1.0, 1.0, 1.0, 0.5, 0.5, 0.5, 0.5], patience=2) == [1, 1, 1, 1, 1, 1, 0.1]


def test_dice_should_rise_and_a_loss_should_fall() -> None:
    rising = [0.1, 0.2, 0.3, 0.4]
    assert rates("val/dice", rising, patience=1) == [1, 1, 1, 1]
    assert rates("val/dice", rising[::-1], patience=1) == [1, 1, 0.1, 0.1]
    for loss in ("val/loss", "train/loss"):
        assert rates(loss, rising, patience=1) == [1, 1, 0.1, 0.1]
        assert rates(loss, rising[::-1], patience=1) == [1, 1, 1, 1]


def test_a_gain_of_less_than_a_ten_thousandth_is_none() -> None:
    assert rates("val/dice", [0.5, 0.50004], patience=0) == [1, 0.1]
    assert rates("val/dice", [0.5, 0.50006], patience=0) == [1, 1]


def test_the_plateau_keeps_the_ratio_of_the_groups_down_to_the_smallest_rates() -> None:
    optimizer = build_optimizer(SPLIT, Net())
    scheduler = plateau_over(PLATEAU, optimizer)
    for lowered in range(12):
        scheduler.step(0.5)
        rest, encoder = (float(group["lr"]) for group in optimizer.param_groups)
        assert rest == pytest.approx(0.1**lowered, rel=1e-9)
        assert encoder == pytest.approx(rest / 4, rel=1e-9)


# Parameters


@pytest.mark.parametrize("group", ["optimizer", "scheduler"])
def test_every_member_of_a_union_has_its_choice(group: str) -> None:
    kind: Any = {"optimizer": OptimizerParams, "scheduler": SchedulerParams}[group]
    choices = {path.stem: validate(read_yaml(path), kind, str(path)) for path in (CONF / group).glob("*.yaml")}
    assert {name: params.name for name, params in choices.items()} == {name: name for name in choices}
    with pytest.raises(UserError) as caught:
        validate({"name": "?"}, kind, group)
    offered = re.findall(r"'(\w+)'", str(caught.value))
    assert sorted(offered) == sorted(choices)


VALID: dict[str, dict[str, Any]] = {
    "sgd": sgd().model_dump(),
    "adam": ADAM.model_dump(),
    "adamw": ALL_OPTIMIZERS[2].model_dump(),
    "rmsprop": rmsprop(0.5).model_dump(),
    "plateau": PLATEAU.model_dump(),
    "cosine": COSINE.model_dump(),
    "poly": POLY.model_dump(),
    "one_cycle": ONE_CYCLE.model_dump(),
}


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("adam", "learning_rate", 0.0),
        ("adam", "learning_rate", "1e-3"),
        ("adam", "encoder_factor", 1.1),
        ("sgd", "momentum", 1.0),
        ("adamw", "weight_decay", -0.1),
        ("rmsprop", "smoothing", 1.0),
        ("plateau", "monitor", "val/los"),
        ("plateau", "factor", 1.0),
        ("cosine", "warmup_epochs", -1.0),
        ("cosine", "final_share", 1.1),
        ("poly", "power", 0.0),
        ("one_cycle", "warmup_share", 1.0),
        ("one_cycle", "start_divisor", 0.9),
        ("one_cycle", "final_divisor", 0.9),
    ],
)
def test_a_wrong_value_is_refused_under_its_key(name: str, key: str, value: object) -> None:
    kind: Any = OptimizerParams if "learning_rate" in VALID[name] else SchedulerParams
    validate(VALID[name], kind, "params.yaml: section")
    with pytest.raises(UserError) as caught:
        validate(VALID[name] | {key: value}, kind, "params.yaml: section")
    assert str(caught.value).startswith(f"params.yaml: section.{key} = {value!r}")


def test_no_key_has_a_default() -> None:
    for name, values in VALID.items():
        kind: Any = OptimizerParams if "learning_rate" in values else SchedulerParams
        with pytest.raises(UserError) as caught:
            validate({"name": name}, kind, "section")
        assert {line.split()[0] for line in str(caught.value).splitlines()} == {f"section.{k}" for k in values} - {
            "section.name"
        }


def test_nesterov_without_momentum_is_refused() -> None:
    with pytest.raises(UserError, match=r"params\.yaml: optimizer\.nesterov"):
        validate(VALID["sgd"] | {"nesterov": True}, OptimizerParams, "params.yaml: optimizer")
