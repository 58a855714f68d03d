"""Starting from an initial network: the model folder `weights/NAME` of an earlier run."""

import hashlib
from pathlib import Path

import pandas as pd

from medseg.core.errors import UserError
from medseg.data.training_images import no_images, read_overlap, read_training_images
from medseg.datasets.layout import shortened
from medseg.models.checkpoint import load_weights
from medseg.models.model_yaml import WEIGHTS, Description, InitialNetwork, read_description
from medseg.models.network import Network


def load_initial_network(network: Network, name: str, placed: Path, continued: bool) -> InitialNetwork:
    """Load all weights of the model folder `placed`/NAME into `network`.

    Raises `UserError` where there is no such folder, or naming the first layer that does not fit.
    """
    folder = _folder(name, placed)
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


def images_of_initial_network(name: str | None, placed: Path) -> pd.DataFrame:
    """The images that trained or tuned the initial network and those that it started from; none where `name` is None.

    The table of `data.training_images`. Raises `UserError` where the network or its table is missing.
    """
    return read_training_images(_folder(name, placed)) if name else no_images()


def overlap_warnings(name: str | None, overlap: Path, refuse: bool) -> list[str]:
    """What a reader of scores should know of images of val and test that the initial network `name` has seen.

    `overlap` is the table of `data.training_images.overlap_of_networks`. Raises `UserError` where there are such images
    and `refuse` is true.
    """
    found = read_overlap(overlap, name) if name else None
    if found is None or found.empty:
        return []
    told = " and ".join(_told(split, part) for split, part in found.groupby("split"))
    if refuse:
        raise UserError(
            f"params.yaml: train.init_from or train.continue_from = {name}: that network has seen {told}, so scores on "
            "them would be optimistically biased; keep the split that it was trained with, or take another network "
            "(train.initial_overlap=warn goes on, and says so in model.yaml, model card and report)"
        )
    return [f"the initial network {name} has seen {told}, so scores on them are optimistically biased"]


def _told(split: object, part: pd.DataFrame) -> str:
    images = "1 image" if len(part) == 1 else f"{len(part)} images"
    pairs = zip(part["file"], part["reason"], strict=True)
    return f"{images} of {split} ({shortened(f'{file}: {reason}' for file, reason in pairs)})"


def _folder(name: str, placed: Path) -> Path:
    folder = placed / name
    if not folder.is_dir():
        raise UserError(
            f"{folder}: no initial network there; bring one: dvc get . models/network --rev EXPERIMENT -o {folder}; "
            f"dvc add {folder}; git add {folder}.dvc {placed}/.gitignore"
        )
    return folder
