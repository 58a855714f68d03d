"""A model folder: `weights.safetensors`, and `model.yaml` with all that is needed to rebuild the network.

No pickle is read or written.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path

import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from medseg.core.errors import UserError
from medseg.core.files import write_text
from medseg.models.model_yaml import DESCRIPTION, Description, Kind, read_description
from medseg.models.model_yaml import WEIGHTS as WEIGHTS
from medseg.models.network import Network, build_model


def save_bundle(folder: Path, network: Network, description: Description) -> None:
    """Write the model to `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    save_tensors(network.state_dict(), folder / WEIGHTS)
    write_text(folder / DESCRIPTION, yaml.safe_dump(description.model_dump(), sort_keys=False))


def load_bundle(folder: Path, kind: type[Kind]) -> tuple[Network, Kind]:
    """Return the network of a model folder, in evaluation mode, and its description.

    Raises `UserError` where a file is missing or does not fit.
    """
    description = read_description(folder, kind)
    network = build_model(description.model, description.channels, description.task.logits)
    load_weights(network, folder, f"does not fit the network of {DESCRIPTION}")
    return network.eval(), description


def load_weights(network: Network, folder: Path, fault: str) -> None:
    """Load all weights of a model folder into `network`.

    Raises `UserError` where the file is missing or unreadable, where a layer has another dtype or values that are not
    finite, and, with the words of `fault`, where a layer has another shape or is missing.
    """
    path = folder / WEIGHTS
    if path.exists() and not path.is_file():
        raise UserError(f"{path}: no plain file")
    try:
        found = load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: not readable as weights: {error}") from error
    wanted = network.state_dict()
    for layer in [*wanted, *found]:
        here, there = (_shape(state.get(layer)) for state in (wanted, found))
        if here != there:
            raise UserError(f"{path}: {fault}: layer {layer} has {there} in the file, {here} in the network")
        if wanted[layer].is_floating_point() != found[layer].is_floating_point():
            raise UserError(f"{path}: layer {layer} holds {found[layer].dtype}, {wanted[layer].dtype} in the network")
        if not found[layer].isfinite().all():
            raise UserError(f"{path}: layer {layer} holds NaN or infinity")
    network.load_state_dict(found)


def _shape(tensor: Tensor | None) -> str:
    return "no place" if tensor is None else f"shape {tuple(tensor.shape)}"


_NUMBER = re.compile(r"os error (\d+)")


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write tensors of any device, by name. Raises `OSError` where the disk is full, as other writes do."""
    try:
        save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, path)
    except SafetensorError as error:
        if found := _NUMBER.search(str(error)):
            number = int(found[1])
            raise OSError(number, os.strerror(number), str(path)) from error
        raise
