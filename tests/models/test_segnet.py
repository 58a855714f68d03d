"""SegNet: its unpooling against PyTorch's, its wiring against NumPy, its count of parameters, its initialisation."""

import re
from collections.abc import Iterator

import numpy as np
import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import assert_plain_start, unsettle
from numpy.typing import NDArray
from scipy.signal import correlate2d
from scipy.stats import kstest
from torch import Tensor, nn
from torch.nn import functional

from medseg.models.segnet import DIVISOR, Segnet, unpool

Array = NDArray[np.float64]
EPSILON = 1e-5  # batch normalisation adds it to the variance


@pytest.fixture
def deterministic() -> Iterator[None]:
    """Operations without a deterministic kernel raise."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(before)


def build(channels: int, classes: int, init_features: int, seed: int = 0) -> Segnet:
    torch.manual_seed(seed)
    return Segnet(channels, classes, init_features)


def empty(channels: int, classes: int, init_features: int) -> Segnet:
    """A network without storage."""
    with torch.device("meta"):
        return Segnet(channels, classes, init_features)


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def convolutions(network: nn.Module) -> dict[str, nn.Conv2d]:
    return {name: module for name, module in network.named_modules() if isinstance(module, nn.Conv2d)}


def pooled(maps: Tensor) -> tuple[Tensor, Tensor]:
    maxima, indices = functional.max_pool2d(maps, 2, return_indices=True)
    return maxima, indices


def test_unpooling_leaves_zeros_beside_infinity() -> None:
    _, indices = pooled(torch.tensor([[0.0, 0], [1, 0]]).view(1, 1, 2, 2))
    assert unpool(torch.full((1, 1, 1, 1), torch.inf), indices)[0, 0].tolist() == [[0, 0], [torch.inf, 0]]


@settings(max_examples=50)
@given(
    sizes=st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 9), st.integers(1, 9)),
    levels=st.integers(1, 100),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
    seed=st.integers(0, 10_000),
)
def test_unpooling_and_its_gradient_equal_pytorchs(
    sizes: tuple[int, int, int, int], levels: int, dtype: torch.dtype, seed: int
) -> None:
    """Few `levels` make ties, which the pooling settles."""
    generator = torch.Generator().manual_seed(seed)
    number, maps, height, width = sizes
    image = torch.randint(0, levels, (number, maps, 2 * height, 2 * width), generator=generator).to(dtype)
    _, indices = pooled(image)
    values = torch.randn(sizes, generator=generator).to(dtype)
    weights = torch.randn(image.shape, generator=generator).to(dtype)
    (ours, our_gradient), (theirs, their_gradient) = (
        with_gradient(values, indices, weights, is_ours) for is_ours in (True, False)
    )
    assert ours.dtype == dtype
    assert torch.equal(ours, theirs)
    assert torch.equal(our_gradient, their_gradient)


def with_gradient(values: Tensor, indices: Tensor, weights: Tensor, is_ours: bool) -> tuple[Tensor, Tensor]:
    """The unpooled values, and the gradient of their weighted sum with respect to the values."""
    leaf = values.clone().requires_grad_()
    spread = unpool(leaf, indices) if is_ours else nn.MaxUnpool2d(2)(leaf, indices)
    spread.backward(weights)
    assert leaf.grad is not None
    return spread.detach(), leaf.grad


@pytest.mark.usefixtures("deterministic")
def test_training_needs_no_operation_without_a_deterministic_kernel() -> None:
    maxima, indices = pooled(torch.randn(1, 1, 4, 4))
    with pytest.raises(RuntimeError, match="deterministic"):
        nn.MaxUnpool2d(2)(maxima, indices)
    gradients = []
    for _ in range(2):
        network = build(1, 1, 2)
        network(torch.linspace(-1, 1, 2 * 64 * 64).view(2, 1, 64, 64)).square().mean().backward()
        gradients.append([parameter.grad for parameter in network.parameters()])
    assert all(
        one is not None and other is not None and torch.equal(one, other) for one, other in zip(*gradients, strict=True)
    )


def test_sides_that_the_divisor_does_not_divide_are_refused() -> None:
    with pytest.raises(RuntimeError):
        build(1, 1, 1).eval()(torch.zeros(1, 1, DIVISOR, DIVISOR + DIVISOR // 2))


def test_one_smallest_image_can_be_trained_on() -> None:
    assert build(1, 1, 2).train()(torch.randn(1, 1, DIVISOR, DIVISOR)).shape == (1, 1, DIVISOR, DIVISOR)


@settings(max_examples=10)
@given(channels=st.integers(1, 4), classes=st.integers(1, 5), features=st.integers(1, 80))
def test_parameters_follow_the_closed_formula(channels: int, classes: int, features: int) -> None:
    inner = 9 * (1 + (2 + 4) + (8 + 2 * 16) + (32 + 2 * 64) + 3 * 64) * features**2  # all but the outermost convolution
    outer = 9 * features * (channels + classes) + classes
    encoder = 2 * 1 + 2 * 2 + 3 * 4 + 3 * 8 + 3 * 8  # multiples of `features` that are normalised
    decoder = 3 * 8 + (2 * 8 + 4) + (2 * 4 + 2) + (2 + 1) + 1
    norms = 2 * (encoder + decoder) * features  # scale and shift
    assert count(empty(channels, classes, features)) == 2 * inner + outer + norms


def test_the_encoder_has_the_convolutions_of_vgg16() -> None:
    with torch.device("meta"):
        vgg16 = timm.create_model("vgg16", pretrained=False)
    theirs = [layer.weight.shape for layer in convolutions(vgg16).values() if layer.kernel_size == (3, 3)]
    ours = [layer.weight.shape for layer in convolutions(empty(3, 2, 64).encoder).values()]
    assert len(ours) == 13
    assert ours == theirs


def test_the_decoder_mirrors_the_encoder() -> None:
    network = empty(7, 7, 64)
    encoder = [(layer.in_channels, layer.out_channels) for layer in convolutions(network.encoder).values()]
    stages = [list(convolutions(stage).values()) for stage in reversed(network.decoder)]
    decoder = [(layer.in_channels, layer.out_channels) for stage in stages for layer in stage]
    decoder.append((network.head.in_channels, network.head.out_channels))
    assert decoder == [(after, before) for before, after in reversed(encoder)]


def test_parameters_are_those_of_the_published_network() -> None:
    """The authors' own model (CamVid, 11 classes) has a bias in every convolution, ours in the last alone."""
    network = empty(3, 11, 64)
    biases = sum(layer.out_channels for layer in convolutions(network).values() if layer.bias is None)
    assert count(network) == 29_441_419
    assert count(network) + biases == 29_449_355
    assert count(network) == pytest.approx(29.46e6, rel=0.001)  # as ENet's authors count it, arXiv:1606.02147
    assert count(network.encoder) == pytest.approx(14.7e6, rel=0.002)  # the paper, section 3


def fit(layer: nn.Conv2d) -> float:
    """The p-value of the weights (at most 20,000) under the Gaussian of He et al."""
    weights = layer.weight.detach().flatten()[:20_000].numpy()
    return float(kstest(weights / np.sqrt(2 / (9 * layer.in_channels)), "norm").pvalue)


def test_weights_start_as_he_et_al_draw_them() -> None:
    layers = convolutions(build(3, 3, 16))
    assert len(layers) == 26
    for name, layer in layers.items():
        assert fit(layer) > 0.001, name
        std = np.sqrt(2 / (9 * layer.in_channels))
        assert layer.weight.std().item() == pytest.approx(std, rel=3 / layer.weight.numel() ** 0.5), name


def test_weights_as_pytorch_draws_them_would_not_pass() -> None:
    for name, layer in convolutions(build(3, 3, 16)).items():
        layer.reset_parameters()
        assert fit(layer) < 1e-4, name


def test_only_the_head_has_a_bias() -> None:
    network = build(1, 1, 1)
    assert [name for name, layer in convolutions(network).items() if layer.bias is not None] == ["head"]
    assert_plain_start(network)


def test_names_of_weights_say_path_stage_and_layer() -> None:
    weights = build(1, 1, 2).state_dict()
    pattern = re.compile(r"(encoder|decoder)\.[0-4]\.(conv[123]\.weight|norm[123]\.\w+)|head\.(weight|bias)")
    assert [name for name in weights if not pattern.fullmatch(name)] == []
    assert [len(weights[f"encoder.{stage}.conv2.weight"]) for stage in range(5)] == [2, 4, 8, 16, 16]
    assert [weights[f"decoder.{stage}.conv1.weight"].shape[1] for stage in range(5)] == [2, 4, 8, 16, 16]


def test_the_network_computes_what_numpy_computes() -> None:
    network = build(2, 3, 2).double().eval()
    unsettle(network)
    image = torch.randn(1, 2, 32, 64, dtype=torch.float64)
    expected = numpy_segnet({name: values.numpy() for name, values in network.state_dict().items()}, image[0].numpy())
    np.testing.assert_allclose(network(image)[0].detach().numpy(), expected, rtol=1e-9, atol=1e-9)


def numpy_segnet(weights: dict[str, Array], maps: Array) -> Array:
    """Logits (classes, H, W) of an image (C, H, W), step by step from the paper's figure 2."""
    kept = []
    for stage, depth in enumerate((2, 2, 3, 3, 3)):
        for number in range(1, depth + 1):
            maps = numpy_layer(weights, f"encoder.{stage}", number, maps)
        maps, places = numpy_pool(maps)
        kept.append(places)
    for stage, depth in reversed(list(enumerate((1, 2, 3, 3, 3)))):
        spread = np.zeros((len(maps), 2 * maps.shape[1], 2 * maps.shape[2]))
        for place, value in zip(kept[stage], maps.flat, strict=True):
            spread[place] = value
        maps = spread
        for number in range(1, depth + 1):
            maps = numpy_layer(weights, f"decoder.{stage}", number, maps)
    return numpy_convolution(weights["head.weight"], maps) + weights["head.bias"][:, None, None]


def numpy_pool(maps: Array) -> tuple[Array, list[tuple[int, int, int]]]:
    """The maxima of the 2x2 windows and the place (map, row, column) of each, the first of equals."""
    places = []
    for number, row, column in np.ndindex(len(maps), maps.shape[1] // 2, maps.shape[2] // 2):
        window = maps[number, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
        down, right = divmod(int(window.argmax()), 2)
        places.append((number, 2 * row + down, 2 * column + right))
    maxima = np.array([maps[place] for place in places])
    return maxima.reshape(len(maps), maps.shape[1] // 2, maps.shape[2] // 2), places


def numpy_layer(weights: dict[str, Array], stage: str, number: int, maps: Array) -> Array:
    """A convolution with batch normalisation and ReLU."""
    mean, variance, scale, shift = (
        weights[f"{stage}.norm{number}.{key}"][:, None, None]
        for key in ("running_mean", "running_var", "weight", "bias")
    )
    sums = numpy_convolution(weights[f"{stage}.conv{number}.weight"], maps)
    result: Array = np.maximum((sums - mean) / np.sqrt(variance + EPSILON) * scale + shift, 0)
    return result


def numpy_convolution(kernels: Array, maps: Array) -> Array:
    return np.stack(
        [sum(correlate2d(m, k, mode="same") for m, k in zip(maps, kernel, strict=True)) for kernel in kernels]
    )
