"""What our own networks with batch normalisation have in common."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from medseg.models import segnet, unet_plain
from medseg.models.segnet import Segnet
from medseg.models.unet_plain import UnetPlain

Build = Callable[[int, int, int], nn.Module]  # channels, classes, features of the first level


@pytest.fixture(params=[Segnet, UnetPlain])
def build(request: pytest.FixtureRequest) -> Build:
    torch.manual_seed(0)
    made: Build = request.param
    return made


def test_biases_start_at_zero_and_normalisation_as_it_is(build: Build) -> None:
    for name, values in build(3, 3, 2).named_parameters():
        if name.endswith("bias"):
            assert (values == 0).all(), name
        elif "norm" in name:
            assert (values == 1).all(), name


@pytest.mark.parametrize(("build", "divisor"), [(Segnet, segnet.DIVISOR), (UnetPlain, unet_plain.DIVISOR)])
def test_pictures_of_a_batch_are_independent_in_evaluation_and_not_in_training(build: Build, divisor: int) -> None:
    torch.manual_seed(0)
    network = build(1, 1, 4)
    pictures = torch.randn(3, 1, 2 * divisor, 2 * divisor)  # 2x2 pixels at the bottom: one value has no variance
    for _ in range(3):
        network(pictures)
    alone, together = network(pictures[:1]), network(pictures)[:1]
    assert not torch.allclose(alone, together, atol=1e-2)
    network.eval()
    torch.testing.assert_close(network(pictures[:1]), network(pictures)[:1])


def test_one_seed_gives_one_network(build: Build) -> None:
    states = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        states.append(build(3, 1, 2).state_dict())
    one, again, other = states
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not torch.equal(one["head.weight"], other["head.weight"])
