"""U-Net: its size, its count of parameters, its wiring against NumPy, its initialisation."""

import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import assert_plain_start, unsettle
from numpy.typing import NDArray
from scipy.signal import correlate2d
from scipy.stats import kstest
from torch import Tensor, nn

from medseg.models.unet_plain import DIVISOR, UnetPlain

Array = NDArray[np.float64]
EPSILON = 1e-5  # batch normalisation adds it to the variance


def build(channels: int, classes: int, init_features: int, seed: int = 0) -> UnetPlain:
    torch.manual_seed(seed)
    return UnetPlain(channels, classes, init_features)


def count(channels: int, classes: int, init_features: int) -> int:
    """Parameters, of a network without storage."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in UnetPlain(channels, classes, init_features).parameters())


def test_sides_that_the_divisor_does_not_divide_are_refused() -> None:
    with pytest.raises(RuntimeError):
        build(1, 1, 1).eval()(torch.zeros(1, 1, DIVISOR, DIVISOR + DIVISOR // 2))


@settings(max_examples=10)
@given(channels=st.integers(1, 4), classes=st.integers(1, 5), features=st.integers(1, 80))
def test_parameters_follow_the_closed_formula(channels: int, classes: int, features: int) -> None:
    first = 9 * (channels * features + features**2)
    down = 9 * (1 + 2) * 2 * (1 + 4 + 16 + 64) * features**2  # w to 2w, 2w to 2w; w = 1, 2, 4, 8 features
    up = (4 * 2 + 9 * (2 + 1)) * (1 + 4 + 16 + 64) * features**2  # transposed 2w to w; 2w to w, w to w
    biases = (1 + 2 + 4 + 8) * features + classes  # of transposed convolutions and head
    norms = 4 * (2 * (1 + 2 + 4 + 8) + 16) * features  # two a block, each scale and shift
    assert count(channels, classes, features) == first + down + up + biases + norms + features * classes


def test_parameters_are_those_of_the_published_networks() -> None:
    assert count(3, 1, 32) == 7_763_041  # Buda et al.'s network for brain MRI, on PyTorch's hub
    assert count(1, 2, 64) == 31_036_546  # the paper's channels and classes, with batch normalisation


def test_parameters_without_batch_normalisation_are_the_papers() -> None:
    """Its scales dropped and its shifts taken as the convolutions' biases, what is left is the paper's network."""
    with torch.device("meta"):
        network = UnetPlain(3, 2, 64)
    scales = sum(module.weight.numel() for module in network.modules() if isinstance(module, nn.BatchNorm2d))
    assert count(3, 2, 64) - scales == 31_031_810  # as Keras's plain U-Nets of 3 channels and 2 classes print it


def incoming(layer: nn.Module) -> int:
    """How many values one output of a convolution is computed from, found by differentiating it."""
    assert isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)
    values = torch.zeros(1, layer.in_channels, 5, 5, requires_grad=True)
    layer(values)[0, 0, 2, 2].backward()
    assert values.grad is not None
    return int(values.grad.count_nonzero())


def convolutions(network: nn.Module) -> dict[str, nn.Conv2d | nn.ConvTranspose2d]:
    return {
        name: module for name, module in network.named_modules() if isinstance(module, nn.Conv2d | nn.ConvTranspose2d)
    }


def fit(layer: nn.Conv2d | nn.ConvTranspose2d) -> float:
    """The p-value of the weights (at most 20,000) under the paper's Gaussian."""
    weights = layer.weight.detach().flatten()[:20_000].numpy()
    return float(kstest(weights / np.sqrt(2 / incoming(layer)), "norm").pvalue)


def test_weights_start_as_the_paper_draws_them() -> None:
    network = build(3, 3, 32)
    layers = convolutions(network)
    assert len(layers) == 2 * 9 + 4 + 1
    for name, layer in layers.items():
        assert fit(layer) > 0.001, name
        assert layer.weight.std().item() == pytest.approx(
            np.sqrt(2 / incoming(layer)), rel=3 / layer.weight.numel() ** 0.5
        )


def test_weights_as_pytorch_draws_them_would_not_pass() -> None:
    for name, layer in convolutions(build(3, 3, 32)).items():
        layer.reset_parameters()
        assert fit(layer) < 1e-4, name


def test_only_the_layers_without_normalisation_have_biases() -> None:
    network = build(1, 1, 1)
    biased = {name for name, layer in convolutions(network).items() if layer.bias is not None}
    assert biased == {"upsampling.0", "upsampling.1", "upsampling.2", "upsampling.3", "head"}
    assert_plain_start(network)


def test_names_of_weights_say_path_level_and_layer() -> None:
    names = list(build(1, 1, 1).state_dict())
    block = r"(contracting|expanding)\.[0-4]\.(conv[12]\.weight|norm[12]\.\w+)"
    pattern = re.compile(rf"{block}|upsampling\.[0-3]\.(weight|bias)|head\.(weight|bias)")
    assert [name for name in names if not pattern.fullmatch(name)] == []


def test_a_block_sums_neighbours_and_pads_with_zeros() -> None:
    """Two convolutions, the first a sum over 3x3 pixels, the second twice the pixel above minus 9."""
    block = build(1, 1, 1).eval().contracting[0]
    weights = block.state_dict()
    weights["conv1.weight"].fill_(1)
    weights["conv2.weight"].zero_()[0, 0, 0, 1] = 2
    weights["norm2.bias"].fill_(-9)
    expected = [[0, 0, 0, 0], [0, 3, 3, 0], [3, 9, 9, 3], [3, 9, 9, 3]]  # the sums are 4, 6, 6, 4; 6, 9, 9, 6; ...
    torch.testing.assert_close(block(torch.ones(1, 1, 4, 4))[0, 0], torch.tensor(expected).float(), atol=5e-4, rtol=0)


def test_the_network_computes_what_numpy_computes() -> None:
    network = build(2, 3, 2).double().eval()
    unsettle(network)
    image = torch.randn(1, 2, 32, 48, dtype=torch.float64)
    expected = numpy_unet({name: values.numpy() for name, values in network.state_dict().items()}, image[0].numpy())
    np.testing.assert_allclose(network(image)[0].detach().numpy(), expected, rtol=1e-9, atol=1e-9)


def numpy_unet(weights: dict[str, Array], image: Array) -> Array:
    """Logits (classes, H, W) of an image (C, H, W), step by step from the paper's figure 1."""
    levels = [numpy_block(weights, "contracting.0", image)]
    for level in range(1, 5):
        levels.append(numpy_block(weights, f"contracting.{level}", numpy_pool(levels[-1])))
    maps = levels.pop()
    for level, kept in reversed(list(enumerate(levels))):
        raised = np.zeros_like(kept)
        kernel = weights[f"upsampling.{level}.weight"]  # (in, out, 2, 2)
        for row, column in np.ndindex(2, 2):
            raised[:, row::2, column::2] = np.tensordot(kernel[:, :, row, column].T, maps, axes=1)
        raised += weights[f"upsampling.{level}.bias"][:, None, None]
        maps = numpy_block(weights, f"expanding.{level}", np.concatenate([kept, raised]))
    logits: Array = np.tensordot(weights["head.weight"][:, :, 0, 0], maps, axes=1)
    return logits + weights["head.bias"][:, None, None]


def numpy_block(weights: dict[str, Array], name: str, maps: Array) -> Array:
    for step in (1, 2):
        kernels = weights[f"{name}.conv{step}.weight"]
        sums = np.stack(
            [sum(correlate2d(m, k, mode="same") for m, k in zip(maps, kernel, strict=True)) for kernel in kernels]
        )
        mean, variance, scale, shift = (
            weights[f"{name}.norm{step}.{key}"][:, None, None]
            for key in ("running_mean", "running_var", "weight", "bias")
        )
        maps = np.maximum((sums - mean) / np.sqrt(variance + EPSILON) * scale + shift, 0)
    return maps


def numpy_pool(maps: Array) -> Array:
    return np.maximum(
        np.maximum(maps[:, ::2, ::2], maps[:, ::2, 1::2]), np.maximum(maps[:, 1::2, ::2], maps[:, 1::2, 1::2])
    )


def test_a_pixel_reaches_188_rows_and_columns() -> None:
    """A NaN spreads to all that depends on it: two pixels a block at each level, and whole windows of the pooling.

    From pixel 112 by hand, down: 110-114, 53-59, 24-31, 10-17, 3-10; up: 4-23, 6-49, 10-101, 18-205.
    """
    network = build(1, 1, 1).double().eval()
    image = torch.zeros(1, 1, 224, 224, dtype=torch.float64)
    image[..., 112, 112] = torch.nan
    reached: Tensor = network(image)[0, 0].isnan()
    expected = torch.zeros(224, 224, dtype=torch.bool)
    expected[18:206, 18:206] = True
    assert torch.equal(reached, expected)
