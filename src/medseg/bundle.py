"""A model on disk: `weights.safetensors`, and `model.yaml` with all that rebuilds the network and says what it needs.

No pickle is read or written.
"""

from pathlib import Path
from typing import Literal

import yaml
from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from medseg.errors import UserError
from medseg.geometry import Geometry
from medseg.models import ModelParams, Network, build_model
from medseg.outputs import write_text
from medseg.params import Section, read_yaml, validate

WEIGHTS = "weights.safetensors"
DESCRIPTION = "model.yaml"


class Training(Section):
    """How the weights came to be."""

    encoder_weights: Literal["packaged", "placed", "hub", "random"]
    warnings: list[str]  # what a reader of any figure of this model should know
    best_epoch: int = Field(ge=1)  # counted from 1
    epochs: int = Field(ge=1)  # that were run
    val_dice: float = Field(ge=0, le=1)  # of the best epoch, pooled over pixels
    samples: int = Field(ge=1)  # that an epoch saw
    packages: dict[str, str]  # name to version


class Description(Section):
    """`model.yaml`: evaluation and prediction read this, never `params.yaml`."""

    model: ModelParams
    channels: Literal[1, 3]
    classes: int = Field(ge=1)
    geometry: Geometry  # of the samples that it was trained on
    threshold: float = Field(gt=0, lt=1)  # a pixel is foreground where its probability is at least this
    training: Training


def save_bundle(folder: Path, network: Network, description: Description) -> None:
    """Write the model to `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({key: tensor.cpu().contiguous() for key, tensor in network.state_dict().items()}, folder / WEIGHTS)
    write_text(folder / DESCRIPTION, yaml.safe_dump(description.model_dump(), sort_keys=False))


def read_description(folder: Path) -> Description:
    """Read `model.yaml` of a model folder. Raises `UserError` naming what is missing or wrong."""
    description: Description = validate(read_yaml(folder / DESCRIPTION), Description, str(folder / DESCRIPTION))
    return description


def load_bundle(folder: Path) -> tuple[Network, Description]:
    """Rebuild a model folder's network, in evaluation mode. Raises `UserError` where a part is missing or unfit."""
    description = read_description(folder)
    network = build_model(description.model, description.channels, description.classes)
    path = folder / WEIGHTS
    try:
        network.load_state_dict(load_file(path))
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: not readable as weights: {error}") from error
    except RuntimeError as error:
        raise UserError(f"{path}: does not fit the network of {DESCRIPTION}: {error}") from error
    return network.eval(), description
