"""`model.yaml`: all that is needed to rebuild a network. Imports no torch, so it is quick to read."""

from pathlib import Path
from typing import Literal, TypeVar

from pydantic import Field

from medseg.core.errors import UserError
from medseg.core.params import Section, Word, read_yaml, validate
from medseg.data.geometry import Geometry
from medseg.data.intensity import Range
from medseg.data.task import TaskParams
from medseg.models.params import ModelParams

DESCRIPTION = "model.yaml"
WEIGHTS = "weights.safetensors"  # beside it

InitialWeights = Literal["packaged", "placed", "hub", "random", "initial_network"]


class InitialNetwork(Section):
    """The network from which training started."""

    name: Word  # its folder in weights/
    weights_sha256: str = Field(min_length=64, max_length=64)
    continued: bool  # with its optimiser and scheduler, not only its weights
    epochs_before: int = Field(ge=0)  # after which order and transforms of samples continue; 0: not continued


class Training(Section):
    """How the weights were trained."""

    initial_weights: InitialWeights  # of the encoder where there is one; initial_network: all of them, from another run
    initial_network: InitialNetwork | None
    warnings: list[str]  # what a reader of this model's metrics should know
    best_epoch: int = Field(ge=1)  # counted from 1
    epochs: int = Field(ge=1)  # that were run
    val_dice: float = Field(ge=0, le=1)  # of the best epoch, pooled over pixels; the mean over classes
    samples: int = Field(ge=1)  # of data/augmented
    packages: dict[str, str]  # name to version


class Description(Section):
    """`model.yaml` of a network: evaluation and prediction read this, never `params.yaml`."""

    model: ModelParams
    channels: Literal[1, 3]
    task: TaskParams
    geometry: Geometry  # of the samples that it was trained on
    intensity: Range  # of the files' values, which became 0..255
    training: Training


Kind = TypeVar("Kind", bound=Description)


def check_model_folder(folder: Path) -> None:
    """Raise `UserError` where `folder` holds no `model.yaml`."""
    if not (folder / DESCRIPTION).is_file():
        raise UserError(f"{folder / DESCRIPTION}: no such file; `make repro` trains models/segmenter")


def read_description(folder: Path, kind: type[Kind]) -> Kind:
    """Read `model.yaml` of a model folder as `kind`. Raises `UserError` naming what is missing or wrong."""
    check_model_folder(folder)
    description: Kind = validate(read_yaml(folder / DESCRIPTION), kind, str(folder / DESCRIPTION))
    return description
