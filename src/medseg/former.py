"""Starting from a former network: a model folder `weights/NAME`, brought there from an earlier run."""

import hashlib
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file

from medseg.bundle import WEIGHTS
from medseg.description import Former, Training, read_description
from medseg.errors import UserError
from medseg.models.network import Network


def load_former(network: Network, name: str, placed: Path, continued: bool) -> Former:
    """Fill `network` with the weights of the model folder `placed`/NAME, all of them.

    Raises `UserError` where there is no such folder, and naming the first layer that does not fit where the former
    network was another one.
    """
    folder = placed / name
    if not folder.is_dir():
        raise UserError(
            f"{folder}: no former network there; bring one: dvc get . models/network --rev EXPERIMENT -o {folder}, "
            f"then dvc add {folder}"
        )
    path = folder / WEIGHTS
    description = read_description(folder)
    try:
        former = load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: not readable as weights: {error}") from error
    wanted = network.state_dict()
    for layer in [*wanted, *former]:
        here, there = (_shape(state.get(layer)) for state in (wanted, former))
        if here != there:
            raise UserError(
                f"{path}: does not fit params.yaml: model: layer {layer} has {there} in the former network "
                f"({description.model.name}), {here} in the new one"
            )
    network.load_state_dict(former)
    return Former(
        name=name,
        weights_sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        continued=continued,
        epochs_behind=_epochs_behind(description.training) if continued else 0,
    )


def _epochs_behind(training: Training) -> int:
    """Epochs up to the kept one, with those of the runs that it continued."""
    return training.best_epoch + (training.former.epochs_behind if training.former else 0)


def _shape(tensor: object) -> str:
    return f"shape {tuple(tensor.shape)}" if hasattr(tensor, "shape") else "no place"
