"""The state of optimiser and schedule on disk, with which a later run goes on: `train.continue_from`.

`training.yaml` holds the two sections, the rate of each group and the plateau's counts, `optimizer.safetensors` the
running means of every weight. No pickle is read or written.
"""

from pathlib import Path
from typing import Any

import torch
import yaml
from pydantic import Field, ValidationInfo, field_validator
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, optim

from medseg.core.errors import UserError
from medseg.core.files import write_text
from medseg.core.params import Section, read_yaml, validate
from medseg.models.checkpoint import save_tensors
from medseg.training.optim import Constant, OptimizerParams, Plateau, Schedule, SchedulerParams

NUMBERS = "training.yaml"
TENSORS = "optimizer.safetensors"
STEP = "step"  # torch's name of the one tensor in an optimiser's state that is a single number
ANEW = "use train.init_from, which takes the weights alone"


class Group(Section):
    """One group of weights."""

    weights: int = Field(ge=0)  # tensors in it
    learning_rate: float = Field(ge=0)  # where it stood


class Progress(Section):
    """How far a plateau had come."""

    best: float = Field(allow_inf_nan=True)  # figure so far; infinite before the first
    bad_epochs: int = Field(ge=0)  # in a row, up to now
    epochs: int = Field(ge=0)  # that it saw


class State(Section):
    """`training.yaml`."""

    optimizer: OptimizerParams
    scheduler: SchedulerParams
    groups: list[Group]
    plateau: Progress | None  # None: another scheduler

    @field_validator("plateau")
    @classmethod
    def _belongs(cls, plateau: Progress | None, others: ValidationInfo) -> Progress | None:
        if "scheduler" in others.data and isinstance(others.data["scheduler"], Plateau) != (plateau is not None):
            raise ValueError("must be there where the scheduler is a plateau, and only there")
        return plateau


def save_state(
    folder: Path,
    optimizer_state: dict[str, Any],
    scheduler_state: dict[str, Any] | None,
    optimizer: OptimizerParams,
    scheduler: SchedulerParams,
) -> None:
    """Write to `folder` what `load_state` needs.

    The two states are `state_dict()`s of what was built from the two sections, as a Lightning checkpoint holds them
    under `optimizer_states` and `lr_schedulers`; there is none of a constant rate. Equal states give equal bytes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_tensors(optimizer_state, folder / TENSORS)
    groups = [
        Group(weights=len(group["params"]), learning_rate=float(group["lr"]))
        for group in optimizer_state["param_groups"]
    ]
    plateau = _progress(scheduler_state) if scheduler_state is not None and isinstance(scheduler, Plateau) else None
    state = State(optimizer=optimizer, scheduler=scheduler, groups=groups, plateau=plateau)
    write_text(folder / NUMBERS, yaml.safe_dump(state.model_dump(), sort_keys=False))


def write_tensors(optimizer_state: dict[str, Any], path: Path) -> None:
    """Write the running means of an optimiser's `state_dict()`: to each weight its number and the tensors' names."""
    tensors = {
        f"{number}.{name}": tensor for number, kept in optimizer_state["state"].items() for name, tensor in kept.items()
    }
    save_tensors(tensors, path)


def _progress(state: dict[str, Any]) -> Progress:
    return Progress(best=float(state["best"]), bad_epochs=state["num_bad_epochs"], epochs=state["last_epoch"])


def load_state(
    folder: Path,
    optimizer: optim.Optimizer,
    schedule: Schedule | None,
    optimizer_params: OptimizerParams,
    scheduler_params: SchedulerParams,
) -> None:
    """Bring `optimizer` and `schedule`, freshly built from the two sections, to the state that `folder` holds.

    The rates are the saved ones. The optimiser's section must be the one that the state was made with, since its
    values shaped it; so must the schedule's kind and figure, while a plateau's factor and patience may be others.
    Raises `UserError` where a file is missing, unreadable or another network's, where a section is another, and for
    schedules that planned the length of their run.
    """
    saved = _read_numbers(folder / NUMBERS)
    _check_schedule(folder, saved.scheduler, scheduler_params)
    _check_equal(folder, "optimizer", saved.optimizer.model_dump(), optimizer_params.model_dump())
    _check_groups(folder / NUMBERS, saved.groups, optimizer)
    rates = [group.learning_rate for group in saved.groups]
    restore_optimizer(optimizer, read_tensors(folder / TENSORS, optimizer), rates)
    if schedule is not None and saved.plateau is not None:
        schedule.scheduler.load_state_dict(
            {
                "best": saved.plateau.best,
                "num_bad_epochs": saved.plateau.bad_epochs,
                "last_epoch": saved.plateau.epochs,
                "_last_lr": rates,
            }
        )


def restore_optimizer(optimizer: optim.Optimizer, tensors: dict[int, dict[str, Tensor]], rates: list[float]) -> None:
    """Give the optimiser what `read_tensors` read of its running means, and each of its groups its rate."""
    groups = optimizer.state_dict()["param_groups"]
    moved = [{**group, "lr": rate} for group, rate in zip(groups, rates, strict=True)]
    optimizer.load_state_dict({"state": tensors, "param_groups": moved})


def _read_numbers(path: Path) -> State:
    _check_exists(path)
    state: State = validate(read_yaml(path), State, str(path))
    return state


def _check_exists(path: Path) -> None:
    if not path.is_file():
        raise UserError(f"{path}: no such file, and training can't be continued without it: {ANEW}")


def _check_schedule(folder: Path, was: SchedulerParams, now: SchedulerParams) -> None:
    if not isinstance(was, Plateau | Constant):
        raise UserError(
            f"{folder}: was trained with scheduler.name = {was.name!r}, which plans the whole length of a run and "
            f"can't be continued, as plateau and constant can: {ANEW}"
        )
    kept = {"name", "monitor"}
    _check_equal(folder, "scheduler", was.model_dump(include=kept), now.model_dump(include=kept))


def _check_equal(folder: Path, section: str, was: dict[str, Any], now: dict[str, Any]) -> None:
    for key in ("name", *was):
        if was[key] != now[key]:
            raise UserError(
                f"params.yaml: {section}.{key} = {now[key]!r}, {folder} was trained with {was[key]!r}: "
                f"set it to that, or {ANEW}"
            )


def _check_groups(path: Path, saved: list[Group], optimizer: optim.Optimizer) -> None:
    was = [group.weights for group in saved]
    now = [len(group["params"]) for group in optimizer.param_groups]
    if was != now:
        raise UserError(f"{path}: holds groups of {was} weights, the network's are {now}: it belongs to another one")


def read_tensors(path: Path, optimizer: optim.Optimizer) -> dict[int, dict[str, Tensor]]:
    """The tensors by the number of their weight, as torch counts weights through all groups, and by name.

    Raises `UserError` where the file is missing, unreadable, or of other weights than the optimiser's.
    """
    _check_exists(path)
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: not readable as an optimiser's state: {error}") from error
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    known = {str(number): weight.detach() for number, weight in enumerate(weights)}
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        number, _, name = key.partition(".")
        if number not in known:
            raise UserError(f"{path}: holds {key}, the network has {len(weights)} weights: it belongs to another one")
        shape = () if name == STEP else tuple(known[number].shape)
        if tensor.shape != shape:
            raise UserError(
                f"{path}: {key} has the shape {tuple(tensor.shape)}, the network's weight {shape}: it belongs to "
                "another network"
            )
        # A fused optimiser takes it for granted that its means lie in memory as the weight does (channels_last). A copy
        # is also apart from the file, which may be replaced.
        place = tensor if name == STEP else known[number]
        state.setdefault(int(number), {})[name] = torch.empty_like(place, device="cpu", dtype=tensor.dtype).copy_(
            tensor
        )
    return state
