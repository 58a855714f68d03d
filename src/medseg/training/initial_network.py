"""Starting from an initial network: the model folder `weights/NAME` of an earlier run."""

import hashlib
from pathlib import Path

from medseg.core.errors import UserError
from medseg.models.checkpoint import load_weights
from medseg.models.model_yaml import WEIGHTS, Description, InitialNetwork, read_description
from medseg.models.network import Network


def load_initial_network(network: Network, name: str, placed: Path, continued: bool) -> InitialNetwork:
    """Load all weights of the model folder `placed`/NAME into `network`.

    Raises `UserError` where there is no such folder, or naming the first layer that does not fit.
    """
    folder = placed / name
    if not folder.is_dir():
        raise UserError(
            f"{folder}: no initial network there; bring one: dvc get . models/network --rev EXPERIMENT -o {folder}; "
            f"dvc add {folder}; git add {folder}.dvc {placed}/.gitignore"
        )
    description = read_description(folder, Description)
    load_weights(network, folder, f"does not fit params.yaml: model (the initial network is {description.model.name})")
    previous = description.training
    epochs = previous.best_epoch + (previous.initial_network.epochs_before if previous.initial_network else 0)
    return InitialNetwork(
        name=name,
        weights_sha256=hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest(),
        continued=continued,
        epochs_before=epochs if continued else 0,
    )
