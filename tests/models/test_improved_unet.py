"""Isensee's U-Net in two dimensions: its modules by an independent computation, its sizes, counts and outputs."""

from collections.abc import Iterator
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import pytest
import torch
from numpy.typing import NDArray
from scipy.signal import correlate2d
from torch import Tensor, nn

from medseg.models.improved_unet import DIVISOR, SMALLEST, ContextModule, ImprovedUnet, localisation_module

Module = TypeVar("Module", bound=nn.Module)
Maps = npt.NDArray[np.float64]  # (maps, H, W)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def network(channels: int = 1, classes: int = 1, dropout: float = 0.0) -> ImprovedUnet:
    return ImprovedUnet(channels, classes, 4, dropout)


def scrambled(module: Module) -> Module:
    """In double precision, every parameter drawn anew, so that no scale is 1 and no shift 0."""
    for parameter in module.double().parameters():
        nn.init.normal_(parameter, 0.3)
    return module


def convolved(maps: Maps, weight: Tensor) -> Maps:
    kernels = weight.detach().numpy()
    pairs = [[correlate2d(one, side, "same") for one, side in zip(maps, kernel, strict=True)] for kernel in kernels]
    summed: Maps = np.sum(pairs, axis=1)
    return summed


def normalised(maps: Maps, scale: Tensor, shift: Tensor) -> Maps:
    """Instance normalisation, then a leaky ReLU."""
    centred = maps - maps.mean(axis=(1, 2), keepdims=True)
    unit = centred / np.sqrt((centred**2).mean(axis=(1, 2), keepdims=True) + 1e-5)
    affine = unit * scale.detach().numpy()[:, None, None] + shift.detach().numpy()[:, None, None]
    leaky: NDArray[np.float64] = np.where(affine > 0, affine, 0.01 * affine)
    return leaky


def test_a_context_module_adds_two_normalised_convolutions_to_its_input() -> None:
    module = scrambled(ContextModule(3, 0.3)).eval()
    weights = dict(module.branch.named_parameters())
    pixels = torch.randn(2, 3, 6, 5, dtype=torch.float64)
    for given, found in zip(pixels.numpy(), module(pixels).detach().numpy(), strict=True):
        inner = convolved(normalised(given, weights["norm1.weight"], weights["norm1.bias"]), weights["conv1.weight"])
        outer = convolved(normalised(inner, weights["norm2.weight"], weights["norm2.bias"]), weights["conv2.weight"])
        np.testing.assert_allclose(found, given + outer, rtol=1e-10, atol=1e-10)


def test_a_localisation_module_mixes_then_halves() -> None:
    module = scrambled(localisation_module(2)).eval()
    weights = dict(module.named_parameters())
    pixels = torch.randn(1, 4, 5, 7, dtype=torch.float64)
    maps = pixels[0].numpy()
    for step in ("mix", "halve"):
        scale, shift = weights[f"{step}.norm.weight"], weights[f"{step}.norm.bias"]
        maps = normalised(convolved(maps, weights[f"{step}.conv.weight"]), scale, shift)
    assert maps.shape == (2, 5, 7)
    np.testing.assert_allclose(module(pixels)[0].detach().numpy(), maps, rtol=1e-10, atol=1e-10)


def test_a_level_halves_the_sides_and_activates_the_sum_of_its_context_module() -> None:
    level = scrambled(network(channels=3).context[1]).eval()
    weights, context = dict(level.named_parameters()), level.get_submodule("context")
    pixels = torch.randn(1, 4, 8, 6, dtype=torch.float64)
    halved = convolved(pixels[0].numpy(), weights["conv.weight"])[:, ::2, ::2]
    summed = context(torch.from_numpy(halved)[None])[0].detach().numpy()
    expected = normalised(summed, weights["norm.weight"], weights["norm.bias"])
    np.testing.assert_allclose(level(pixels)[0].detach().numpy(), expected, rtol=1e-10, atol=1e-10)


def test_up_sampling_repeats_pixels_then_halves_the_maps() -> None:
    upsampling = scrambled(network().upsampling[3])
    weights = dict(upsampling.named_parameters())
    pixels = torch.randn(1, 8, 3, 4, dtype=torch.float64)
    repeated = np.kron(pixels[0].numpy(), np.ones((2, 2)))
    scale, shift = weights["halve.norm.weight"], weights["halve.norm.bias"]
    expected = normalised(convolved(repeated, weights["halve.conv.weight"]), scale, shift)
    assert expected.shape == (4, 6, 8)
    np.testing.assert_allclose(upsampling(pixels)[0].detach().numpy(), expected, rtol=1e-10, atol=1e-10)


def test_the_smallest_image_leaves_two_pixels_each_way_at_the_lowest_level() -> None:
    features = torch.zeros(1, 1, SMALLEST, SMALLEST)
    for level in network().context:
        features = level(features)
    assert features.shape == (1, 4 * 16, 2, 2)
    assert SMALLEST == 2 * DIVISOR


def test_each_level_halves_the_sides_and_doubles_the_maps() -> None:
    features, shapes = torch.randn(1, 3, 64, 96), []
    for level in network(channels=3).context:
        features = level(features)
        shapes.append(tuple(features.shape[1:]))
    assert shapes == [(4, 64, 96), (8, 32, 48), (16, 16, 24), (32, 8, 12), (64, 4, 6)]


def counted(channels: int, classes: int, features: int) -> int:
    """The number of parameters, layer by layer."""
    maps = [features, 2 * features, 4 * features, 8 * features, 16 * features]
    strided = sum(9 * source * target for source, target in zip([channels, *maps], maps, strict=False))
    modules = sum(2 * (9 * m * m + 2 * m) for m in maps)  # two convolutions, two normalisations
    sums = sum(2 * m for m in maps)  # the normalisation after a context module
    halvings = sum(9 * 2 * m * m + 2 * m for m in maps[:4])  # after up-scaling
    localisation = sum(9 * 4 * m * m + 4 * m + 2 * m * m + 2 * m for m in maps[1:4])
    final = 9 * 4 * features**2 + 4 * features
    segmentation = classes * (4 * features + 2 * features + 2 * features + 3)
    return strided + modules + sums + halvings + localisation + final + segmentation


@pytest.mark.parametrize(
    ("channels", "classes", "features", "count"), [(3, 1, 16, 3_186_483), (1, 1, 16, 3_186_195), (3, 4, 8, 798_180)]
)
def test_the_number_of_parameters_is_that_of_its_layers(channels: int, classes: int, features: int, count: int) -> None:
    built = ImprovedUnet(channels, classes, features, 0.3)
    assert sum(parameter.numel() for parameter in built.parameters()) == counted(channels, classes, features) == count


def test_forward_sums_the_segmentation_layers_up_scaled() -> None:
    built = network(classes=2).double().eval()
    parts: list[Maps] = []
    for layer in built.segmentation:
        layer.register_forward_hook(lambda _module, _given, logits: parts.append(logits.detach().numpy()))
    pixels = torch.randn(2, 1, 32, 48, dtype=torch.float64)
    total = built(pixels).detach().numpy()
    quarter, half, full = parts
    assert [part.shape[2:] for part in parts] == [(8, 12), (16, 24), (32, 48)]
    expected = full + np.kron(half, np.ones((2, 2))) + np.kron(quarter, np.ones((4, 4)))
    np.testing.assert_allclose(total, expected, rtol=1e-12, atol=1e-12)


def test_the_first_head_is_the_output_and_the_others_are_the_coarser_layers() -> None:
    built = network(classes=3, dropout=0.3).eval()
    parts: list[Maps] = []
    pixels = torch.randn(2, 1, 48, 32)
    output = built(pixels)
    for layer in built.segmentation:
        layer.register_forward_hook(lambda _module, _given, logits: parts.append(logits.detach().numpy()))
    first, half, quarter = built.heads(pixels)
    assert torch.equal(first, output)
    np.testing.assert_array_equal(half.detach().numpy(), np.kron(parts[1], np.ones((2, 2))))
    np.testing.assert_array_equal(quarter.detach().numpy(), np.kron(parts[0], np.ones((4, 4))))


def test_dropout_acts_in_training_only() -> None:
    built, pixels = network(dropout=0.5), torch.randn(1, 1, 32, 32)
    assert not torch.equal(built(pixels), built(pixels))
    built.eval()
    assert torch.equal(built(pixels), built(pixels))


def test_dropout_falls_on_single_values_between_the_convolutions() -> None:
    until_dropout = ContextModule(8, 0.3).branch[:4]
    dropped = (until_dropout(torch.randn(4, 8, 32, 32)) == 0).float().mean(dim=(2, 3))
    assert dropped.mean().item() == pytest.approx(0.3, abs=0.015)  # 32768 values: six standard deviations
    assert 0.2 < dropped.min() < dropped.max() < 0.4  # no map is dropped as a whole


def test_samples_of_a_batch_do_not_see_each_other_even_in_training() -> None:
    built, pixels = network().double().train(), torch.randn(3, 1, 32, 32, dtype=torch.float64)
    alone = torch.cat([built(one[None]) for one in pixels])
    torch.testing.assert_close(built(pixels), alone, rtol=1e-9, atol=1e-9)


def convolutions(module: nn.Module) -> Iterator[nn.Conv2d]:
    return (layer for layer in module.modules() if isinstance(layer, nn.Conv2d))


def test_weights_start_from_he_s_normal_distribution() -> None:
    for layer in convolutions(ImprovedUnet(3, 2, 16, 0.3)):
        weight = layer.weight.detach()
        variance = 2 / weight[0].numel()
        deviations = (weight.var().item() / variance - 1) / (2 / weight.numel()) ** 0.5
        assert abs(deviations) < 5, layer
        assert abs(weight.mean().item()) < 5 * (variance / weight.numel()) ** 0.5, layer


def test_scales_start_from_1_and_shifts_and_biases_from_0() -> None:
    built = network()
    normalisations = [layer for layer in built.modules() if isinstance(layer, nn.InstanceNorm2d)]
    assert len(normalisations) == 5 * 3 + 4 + 3 * 2 + 1
    assert all((layer.weight == 1).all() and (layer.bias == 0).all() for layer in normalisations)
    biases = [layer.bias for layer in convolutions(built) if layer.bias is not None]
    assert len(biases) == 3
    assert not any(bias.any() for bias in biases)


def test_the_names_of_the_weights_say_where_they_act() -> None:
    names = set(network().state_dict())
    assert {name.split(".")[0] for name in names} == {"context", "upsampling", "localisation", "final", "segmentation"}
    assert {name for name in names if name.startswith("context.4.")} == {
        "context.4.conv.weight",
        "context.4.context.branch.norm1.weight",
        "context.4.context.branch.norm1.bias",
        "context.4.context.branch.conv1.weight",
        "context.4.context.branch.norm2.weight",
        "context.4.context.branch.norm2.bias",
        "context.4.context.branch.conv2.weight",
        "context.4.norm.weight",
        "context.4.norm.bias",
    }
