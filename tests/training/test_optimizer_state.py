"""A run that was saved and taken up ends bit for bit where one run would have; what can't go on says why."""

import tempfile
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn, optim
from torch.optim.lr_scheduler import ReduceLROnPlateau

from medseg.core.errors import UserError
from medseg.core.params import read_yaml
from medseg.training.optim import Schedule, build_optimizer, build_schedule
from medseg.training.optimizer_state import NUMBERS, TENSORS, load_state, save_state
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

Monitor = Literal["train/loss", "val/loss", "val/dice"]

CONSTANT = Constant(name="constant")
PLANNED: list[SchedulerParams] = [
    Cosine(name="cosine", warmup_epochs=0, final_share=0),
    Poly(name="poly", power=0.9),
    OneCycle(name="one_cycle", warmup_share=0.3, start_divisor=25, final_divisor=100),
]


def sgd(**changes: Any) -> Sgd:
    values = {"learning_rate": 0.1, "encoder_factor": 1.0, "momentum": 0.9, "nesterov": False, "weight_decay": 0.01}
    return Sgd(name="sgd", fused=True, **(values | changes))


ADAM = Adam(name="adam", fused=True, learning_rate=0.01, encoder_factor=1.0)
OPTIMIZERS: list[OptimizerParams] = [
    sgd(nesterov=True),
    sgd(encoder_factor=0.3, momentum=0.0),
    ADAM,
    AdamW(name="adamw", fused=True, learning_rate=0.01, encoder_factor=0.3, weight_decay=0.1),
    RmsProp(name="rmsprop", learning_rate=0.01, encoder_factor=0.3, smoothing=0.9, momentum=0.9),
]


def plateau(monitor: Monitor = "val/dice", patience: int = 1) -> Plateau:
    return Plateau(name="plateau", monitor=monitor, factor=0.3, patience=patience)


class Small(nn.Module):
    """Two convolutions with an activation between, the first called the encoder."""

    def __init__(self, width: int = 3) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.core = nn.ModuleDict({"encoder": nn.Conv2d(1, width, 3), "head": nn.Conv2d(width, 1, 1)})

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        hidden: torch.Tensor = self.core["head"](torch.tanh(self.core["encoder"](pixels)))
        return hidden


class Run:
    """A training run that can be saved after any of its epochs, each of two steps."""

    def __init__(self, optimizer: OptimizerParams, scheduler: SchedulerParams, width: int = 3) -> None:
        self.sections = optimizer, scheduler
        self.network = Small(width)
        self.optimizer: optim.Optimizer = build_optimizer(optimizer, self.network)
        self.schedule: Schedule | None = build_schedule(scheduler, self.optimizer, epochs=8, steps_per_epoch=2)

    def train(self, epochs: range, scores: list[float]) -> None:
        for epoch in epochs:
            for step in range(2):
                self._step(2 * epoch + step)
            if self.schedule is not None and isinstance(self.schedule.scheduler, ReduceLROnPlateau):
                self.schedule.scheduler.step(scores[epoch])

    def _step(self, number: int) -> None:
        pixels = torch.rand(2, 1, 5, 5, generator=torch.Generator().manual_seed(number))
        self.optimizer.zero_grad()
        (self.network(pixels) - 1).square().mean().backward()
        self.optimizer.step()

    def save(self, folder: Path) -> None:
        scheduler = None if self.schedule is None else self.schedule.scheduler.state_dict()
        save_state(folder, self.optimizer.state_dict(), scheduler, *self.sections)

    def take_up(self, folder: Path) -> None:
        load_state(folder, self.optimizer, self.schedule, *self.sections)

    def rates(self) -> list[float]:
        return [float(group["lr"]) for group in self.optimizer.param_groups]

    def everything(self) -> dict[str, Any]:
        scheduler = {} if self.schedule is None else self.schedule.scheduler.state_dict()
        return {
            "weights": [weight.tolist() for weight in self.network.parameters()],
            "state": plain(self.optimizer.state_dict()["state"]),
            "groups": self.optimizer.state_dict()["param_groups"],
            "scheduler": scheduler,
        }


def plain(state: dict[int, dict[str, torch.Tensor]]) -> dict[str, tuple[torch.dtype, Any]]:
    return {f"{n}.{key}": (value.dtype, value.tolist()) for n, kept in state.items() for key, value in kept.items()}


def saved(folder: Path, optimizer: OptimizerParams, scheduler: SchedulerParams) -> Path:
    """The folder of a run of one epoch."""
    run = Run(optimizer, scheduler)
    run.train(range(1), [0.5])
    run.save(folder)
    return folder


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda params: params.name)
@settings(max_examples=12)
@given(
    schedule=st.sampled_from(["plateau", "constant"]), before=st.integers(0, 3), after=st.integers(0, 3), data=st.data()
)
def test_two_halves_equal_one_run_bit_for_bit(
    optimizer: OptimizerParams, schedule: str, before: int, after: int, data: st.DataObject
) -> None:
    monitors: list[Monitor] = ["train/loss", "val/loss", "val/dice"]
    scheduler = CONSTANT if schedule == "constant" else plateau(data.draw(st.sampled_from(monitors)))
    total = before + after
    scores = data.draw(st.lists(st.floats(0, 2), min_size=total, max_size=total))
    whole, first, second = (Run(optimizer, scheduler) for _ in range(3))
    whole.train(range(total), scores)
    first.train(range(before), scores)
    with tempfile.TemporaryDirectory() as folder:
        first.save(Path(folder))
        second.network.load_state_dict(first.network.state_dict())
        second.take_up(Path(folder))
    second.train(range(before, total), scores)
    assert second.everything() == whole.everything()


def test_without_the_state_the_second_half_goes_elsewhere() -> None:
    whole, second = (Run(ADAM, CONSTANT) for _ in range(2))
    whole.train(range(2), [])
    second.network.load_state_dict(whole.network.state_dict())
    whole.train(range(2, 4), [])
    second.train(range(2, 4), [])
    assert second.everything()["weights"] != whole.everything()["weights"]


def test_the_rate_goes_on_where_the_plateau_had_brought_it(tmp_path: Path) -> None:
    run = Run(sgd(encoder_factor=0.5), plateau(patience=0))
    run.train(range(2), [0.5, 0.5])
    assert run.rates() == pytest.approx([0.1 * 0.3, 0.05 * 0.3])
    run.save(tmp_path)
    other = Run(sgd(encoder_factor=0.5), plateau(patience=0))
    other.take_up(tmp_path)
    assert other.rates() == run.rates()


def test_patience_and_factor_may_change_and_the_new_ones_hold(tmp_path: Path) -> None:
    saved(tmp_path, sgd(), plateau(patience=5))
    patient = Plateau(name="plateau", monitor="val/dice", factor=0.5, patience=0)
    run = Run(sgd(), patient)
    run.take_up(tmp_path)
    run.train(range(1, 2), [0.0, 0.4])  # worse than the 0.5 of the first half
    assert run.rates() == [0.1 * 0.5]


@pytest.mark.parametrize(("monitor", "best"), [("val/dice", -torch.inf), ("val/loss", torch.inf)])
def test_a_plateau_that_saw_no_figure_keeps_its_infinity(tmp_path: Path, monitor: Monitor, best: float) -> None:
    Run(sgd(), plateau(monitor)).save(tmp_path)
    assert read_yaml(tmp_path / NUMBERS)["plateau"] == {"best": best, "bad_epochs": 0, "epochs": 0}
    run = Run(sgd(), plateau(monitor))
    run.take_up(tmp_path)
    assert run.schedule is not None
    assert run.schedule.scheduler.state_dict()["best"] == best


def test_equal_states_give_equal_bytes(tmp_path: Path) -> None:
    one, other = (saved(tmp_path / name, ADAM, plateau()) for name in ("one", "other"))
    assert sorted(path.name for path in one.iterdir()) == [TENSORS, NUMBERS]
    for name in (TENSORS, NUMBERS):
        assert (one / name).read_bytes() == (other / name).read_bytes()


def test_the_files_say_what_they_hold(tmp_path: Path) -> None:
    saved(tmp_path, Adam(name="adam", fused=True, learning_rate=0.01, encoder_factor=0.5), plateau())
    tensors = load_file(tmp_path / TENSORS)
    assert set(tensors) == {f"{n}.{name}" for n in range(4) for name in ("step", "exp_avg", "exp_avg_sq")}
    assert tensors["0.step"].item() == 2
    assert tensors["2.exp_avg"].shape == (3, 1, 3, 3)  # the encoder's kernel, after the head's two weights
    numbers = read_yaml(tmp_path / NUMBERS)
    assert numbers["optimizer"] == {"learning_rate": 0.01, "encoder_factor": 0.5, "name": "adam", "fused": True}
    assert numbers["groups"] == [{"weights": 2, "learning_rate": 0.01}, {"weights": 2, "learning_rate": 0.005}]
    assert numbers["plateau"] == {"best": 0.5, "bad_epochs": 0, "epochs": 1}


def test_weights_in_another_memory_format_are_saved_by_their_values(tmp_path: Path) -> None:
    weight = nn.Parameter(torch.rand(2, 3, 4, 5).contiguous(memory_format=torch.channels_last))
    params = sgd()
    optimizer = optim.SGD([weight], lr=0.1, momentum=0.9)
    weight.square().sum().backward()  # type: ignore[no-untyped-call]  # torch does not type it
    optimizer.step()
    save_state(tmp_path, optimizer.state_dict(), None, params, CONSTANT)
    assert torch.equal(load_file(tmp_path / TENSORS)["0.momentum_buffer"], optimizer.state[weight]["momentum_buffer"])


def test_what_was_loaded_does_not_hang_on_the_file(tmp_path: Path) -> None:
    run = Run(ADAM, CONSTANT)
    run.take_up(saved(tmp_path, ADAM, CONSTANT))
    before = run.everything()
    size = (tmp_path / TENSORS).stat().st_size
    with (tmp_path / TENSORS).open("r+b") as file:
        file.write(b"\xff" * size)
    assert run.everything() == before


def refused(folder: Path, optimizer: OptimizerParams, scheduler: SchedulerParams, width: int = 3) -> str:
    """The message, after a check that nothing was changed."""
    run = Run(optimizer, scheduler, width)
    before = run.everything()
    with pytest.raises(UserError) as caught:
        run.take_up(folder)
    assert run.everything() == before
    return str(caught.value)


def test_another_optimiser_is_refused(tmp_path: Path) -> None:
    message = refused(saved(tmp_path, sgd(), CONSTANT), ADAM, CONSTANT)
    assert message.startswith("params.yaml: optimizer.name = 'adam'")


@pytest.mark.parametrize(("key", "value"), [("learning_rate", 0.2), ("weight_decay", 0.5)])
def test_another_value_of_the_optimiser_is_refused(tmp_path: Path, key: str, value: float) -> None:
    message = refused(saved(tmp_path, sgd(), CONSTANT), sgd(**{key: value}), CONSTANT)
    assert message.startswith(f"params.yaml: optimizer.{key} = {value}")


@pytest.mark.parametrize(
    ("was", "now", "named"),
    [
        (CONSTANT, plateau(), "scheduler.name = 'plateau'"),
        (plateau(), PLANNED[0], "scheduler.name = 'cosine'"),
        (plateau(), plateau("val/loss"), "scheduler.monitor = 'val/loss'"),
    ],
)
def test_another_schedule_is_refused(tmp_path: Path, was: SchedulerParams, now: SchedulerParams, named: str) -> None:
    message = refused(saved(tmp_path, sgd(), was), sgd(), now)
    assert message.startswith(f"params.yaml: {named}")


@pytest.mark.parametrize("planned", PLANNED, ids=lambda params: params.name)
def test_a_schedule_that_planned_its_length_cannot_go_on(tmp_path: Path, planned: SchedulerParams) -> None:
    saved(tmp_path, sgd(), planned)
    for now in (planned, CONSTANT):
        message = refused(tmp_path, sgd(), now)
        assert message.startswith(f"{tmp_path}: ")
        assert f"scheduler.name = '{planned.name}'" in message


@pytest.mark.parametrize("name", [NUMBERS, TENSORS])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    saved(tmp_path, sgd(), CONSTANT)
    (tmp_path / name).unlink()
    assert refused(tmp_path, sgd(), CONSTANT).startswith(f"{tmp_path / name}: ")


@pytest.mark.parametrize("kept", [0, -1])
def test_a_cut_file_is_named(tmp_path: Path, kept: int) -> None:
    path = saved(tmp_path, sgd(), CONSTANT) / TENSORS
    path.write_bytes(path.read_bytes()[:kept])
    assert refused(tmp_path, sgd(), CONSTANT).startswith(f"{path}: ")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"groups": None}, "groups"),
        ({"optimizer": {"name": "sgd"}}, "optimizer.learning_rate"),
        ({"plateau": {"best": 0.5, "bad_epochs": 0, "epochs": 1}}, "plateau"),
    ],
)
def test_a_wrong_number_is_named(tmp_path: Path, changes: dict[str, object], named: str) -> None:
    path = saved(tmp_path, sgd(), CONSTANT) / NUMBERS
    path.write_text(yaml.safe_dump(read_yaml(path) | changes))
    assert f"{path}.{named}" in refused(tmp_path, sgd(), CONSTANT)


def test_another_number_of_groups_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, sgd(), CONSTANT) / NUMBERS
    halves = [{"weights": 2, "learning_rate": 0.1}] * 2
    path.write_text(yaml.safe_dump(read_yaml(path) | {"groups": halves}))
    assert refused(tmp_path, sgd(), CONSTANT).startswith(f"{path}: ")


def test_a_network_of_other_shapes_is_refused(tmp_path: Path) -> None:
    saved(tmp_path, sgd(), CONSTANT)
    message = refused(tmp_path, sgd(), CONSTANT, width=4)
    assert f"{tmp_path / TENSORS}: 0.momentum_buffer" in message


def test_a_tensor_of_no_weight_is_refused(tmp_path: Path) -> None:
    saved(tmp_path, sgd(), CONSTANT)
    save_file({"9.momentum_buffer": torch.zeros(1)}, tmp_path / TENSORS)
    assert refused(tmp_path, sgd(), CONSTANT).startswith(f"{tmp_path / TENSORS}: ")
