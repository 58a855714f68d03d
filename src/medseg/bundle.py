"""A model on disk: `weights.safetensors`, and `model.yaml` with all that rebuilds the network and says what it needs.

No pickle is read or written.
"""

from pathlib import Path

import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from medseg.classes import logit_count
from medseg.description import DESCRIPTION, Description, read_description
from medseg.errors import UserError
from medseg.models.network import Network, build_model
from medseg.outputs import write_text

WEIGHTS = "weights.safetensors"


def save_bundle(folder: Path, network: Network, description: Description) -> None:
    """Write the model to `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({key: tensor.cpu().contiguous() for key, tensor in network.state_dict().items()}, folder / WEIGHTS)
    write_text(folder / DESCRIPTION, yaml.safe_dump(description.model_dump(), sort_keys=False))


def load_bundle(folder: Path) -> tuple[Network, Description]:
    """Rebuild a model folder's network, in evaluation mode. Raises `UserError` where a part is missing or unfit."""
    description = read_description(folder)
    network = build_model(description.model, description.channels, logit_count(description.task))
    path = folder / WEIGHTS
    try:
        network.load_state_dict(load_file(path))
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: not readable as weights: {error}") from error
    except RuntimeError as error:
        raise UserError(f"{path}: does not fit the network of {DESCRIPTION}: {error}") from error
    return network.eval(), description
