"""Starting from an initial network: a model folder `weights/NAME`, brought there from an earlier run."""

import hashlib
from pathlib import Path

from medseg.core.errors import UserError
from medseg.models.checkpoint import load_weights
from medseg.models.model_yaml import WEIGHTS, Description, InitialNetwork, Training, read_description
from medseg.models.network import Network


def load_initial_network(network: Network, name: str, placed: Path, continued: bool) -> InitialNetwork:
    """Fill `network` with the weights of the model folder `placed`/NAME, all of them.

    Raises `UserError` where there is no such folder, and naming the first layer that does not fit where the former
    network was another one.
    """
    folder = placed / name
    if not folder.is_dir():
        raise UserError(
            f"{folder}: no initial network there; bring one: dvc get . models/network --rev EXPERIMENT -o {folder}; "
            f"dvc add {folder}; git add {folder}.dvc {placed}/.gitignore"
        )
    description = read_description(folder, Description)
    load_weights(network, folder, f"does not fit params.yaml: model (the initial network is {description.model.name})")
    return InitialNetwork(
        name=name,
        weights_sha256=hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest(),
        continued=continued,
        epochs_before=_epochs_before(description.training) if continued else 0,
    )


def _epochs_before(training: Training) -> int:
    """Epochs up to the kept one, with those of the runs that it continued."""
    return training.best_epoch + (training.initial_network.epochs_before if training.initial_network else 0)
