"""The state of optimiser and schedule on disk, from which a later run continues: `train.continue_from`.

`training.yaml` holds the two sections, the learning rate of each group and the plateau's counts;
`optimizer.safetensors` holds the optimiser's moments of every weight. No pickle is read or written.
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
from medseg.training.optim import Schedule
from medseg.training.params import Constant, OptimizerParams, Plateau, SchedulerParams

NUMBERS = "training.yaml"
TENSORS = "optimizer.safetensors"
STEP = "step"  # torch's name of the one tensor in an optimiser's state that is a single number
ANEW = "use train.init_from, which takes the weights alone"


class Group(Section):
    """A parameter group."""

    weights: int = Field(ge=0)  # tensors in it
    learning_rate: float = Field(ge=0)  # the current one


class Progress(Section):
    """State of a plateau schedule."""

    best: float = Field(allow_inf_nan=True)  # metric so far; infinite before the first epoch
    bad_epochs: int = Field(ge=0)  # in a row
    epochs: int = Field(ge=0)  # seen


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

    The two states are `state_dict()`s of what was built from the two sections; None of a constant rate. Equal states
    give equal bytes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_tensors(optimizer_state, folder / TENSORS)
    groups = [
        Group(weights=len(group["params"]), learning_rate=float(group["lr"]))
        for group in optimizer_state["param_groups"]
    ]
    plateau = None
    if scheduler_state is not None and isinstance(scheduler, Plateau):
        counts = {"bad_epochs": scheduler_state["num_bad_epochs"], "epochs": scheduler_state["last_epoch"]}
        plateau = Progress(best=float(scheduler_state["best"]), **counts)
    state = State(optimizer=optimizer, scheduler=scheduler, groups=groups, plateau=plateau)
    write_text(folder / NUMBERS, yaml.safe_dump(state.model_dump(), sort_keys=False))


def write_tensors(optimizer_state: dict[str, Any], path: Path) -> None:
    """Write the tensors of an optimiser's `state_dict()` as NUMBER.NAME, by the number of the weight."""
    tensors = {
        f"{number}.{name}": tensor for number, kept in optimizer_state["state"].items() for name, tensor in kept.items()
    }
    save_tensors(tensors, path)


def load_state(
    folder: Path,
    optimizer: optim.Optimizer,
    schedule: Schedule | None,
    optimizer_params: OptimizerParams,
    scheduler_params: SchedulerParams,
) -> None:
    """Load the state in `folder` into `optimizer` and `schedule`, freshly built from the two sections.

    Learning rates are the saved ones. The optimiser's section must equal that of the saved state, and so must the
    schedule's name and monitored metric; a plateau's factor and patience may differ. Raises `UserError` where a file is
    missing, unreadable or of another network, where a section differs, and for schedules that depend on the length of
    the run.
    """
    _check_exists(folder / NUMBERS)
    saved: State = validate(read_yaml(folder / NUMBERS), State, str(folder / NUMBERS))
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
    """Set the optimiser's tensors, as `read_tensors` returns them, and the learning rate of each group."""
    groups = optimizer.state_dict()["param_groups"]
    moved = [{**group, "lr": rate} for group, rate in zip(groups, rates, strict=True)]
    optimizer.load_state_dict({"state": tensors, "param_groups": moved})


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
    """Return the tensors by the number of their weight, counted through all groups as torch does, and by name.

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
        # A fused optimiser requires the weight's memory format (channels_last). A copy is also independent of the file,
        # which may be replaced.
        place = tensor if name == STEP else known[number]
        state.setdefault(int(number), {})[name] = torch.empty_like(place, device="cpu", dtype=tensor.dtype).copy_(
            tensor
        )
    return state
