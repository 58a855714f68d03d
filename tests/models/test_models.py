"""One interface for all networks: pixels of any size in, logits of that size out."""

import pytest
import tiny
import torch
from torch import Tensor, nn
from torch.nn import functional

from medseg.core.errors import UserError
from medseg.core.params import validate
from medseg.models.network import Network, build_model
from medseg.models.params import ModelParams


class Recorder(nn.Module):
    """Hands on its input and remembers it."""

    seen: Tensor

    def forward(self, pixels: Tensor) -> Tensor:
        self.seen = pixels
        return pixels


@pytest.fixture(scope="module")
def grey() -> Network:
    torch.manual_seed(0)
    return build_model(tiny.unet(), 1, 1).eval()


def test_pixels_are_scaled_then_normalised_by_channel() -> None:
    core = Recorder()
    network = Network(core, 1, [0.5, 0.25, 0.0], [0.5, 1.0, 2.0])
    network(torch.tensor([255, 51, 0], dtype=torch.uint8).view(1, 3, 1, 1))
    assert core.seen.flatten().tolist() == pytest.approx([1.0, -0.05, 0.0])


def test_padding_repeats_the_edge_and_is_cut_off() -> None:
    core = Recorder()
    image = torch.arange(6.0).view(1, 1, 2, 3) * 51
    logits = Network(core, 4, [0.0], [1.0])(image)
    padded = torch.tensor([[0, 1, 2, 2], [3, 4, 5, 5], [3, 4, 5, 5], [3, 4, 5, 5]]) / 5
    torch.testing.assert_close(core.seen[0, 0], padded)
    assert torch.equal(logits, core.seen[..., :2, :3])


def test_an_image_padded_by_hand_gives_the_same_logits(grey: Network) -> None:
    image = torch.randint(0, 256, (1, 1, 30, 45)).float()
    by_hand = functional.pad(image, (0, 64 - 45, 0, 32 - 30), mode="replicate")
    torch.testing.assert_close(grey(image), grey(by_hand)[..., :30, :45])


def test_integers_and_floats_are_the_same_pixels(grey: Network) -> None:
    image = torch.randint(0, 256, (1, 1, 32, 32), dtype=torch.uint8)
    assert torch.equal(grey(image), grey(image.float()))


def test_normalisation_is_no_weight(grey: Network) -> None:
    assert all(key.startswith("core.") for key in grey.state_dict())


@pytest.mark.parametrize("key", ["input_mean", "input_std"])
def test_a_list_that_does_not_fit_the_channels_names_its_key(key: str) -> None:
    with pytest.raises(UserError, match=rf"model\.{key} holds 3 values, prepare\.channels is 1"):
        build_model(tiny.unet(**{key: [0.5, 0.5, 0.5]}), 1, 1)


@pytest.mark.parametrize("std", [[-0.5], [0.5, 0.0, 0.5]])
def test_a_standard_deviation_of_nothing_is_refused(std: list[float]) -> None:
    with pytest.raises(UserError, match=r"model\.input_std"):
        validate(tiny.unet().model_dump() | {"input_std": std}, ModelParams, "model")


@pytest.mark.parametrize(
    ("encoder", "near"),
    [("resnet81", "resnet18"), ("tu-resnt18", "tu-resnet18")],
)
def test_an_unknown_encoder_is_named_with_its_neighbours(encoder: str, near: str) -> None:
    with pytest.raises(UserError, match=rf"model\.encoder = '{encoder}': no such encoder; similar names: .*{near}"):
        build_model(tiny.unet(encoder=encoder), 1, 1)


def test_an_encoder_that_no_unet_can_use_is_named_with_the_reason() -> None:
    with pytest.raises(UserError, match=r"model\.encoder = 'tu-vit_tiny_patch16_224': does not fit "):
        build_model(tiny.unet(encoder="tu-vit_tiny_patch16_224"), 3, 1)
