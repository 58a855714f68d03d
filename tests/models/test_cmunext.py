"""CMUNeXt: its blocks by an independent computation, the published sizes, its outputs."""

from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy.signal import correlate2d
from scipy.special import erf
from torch import Tensor, nn

from medseg.core.params import read_yaml, validate
from medseg.models.cmunext import DIVISOR, Cmunext, cmunext_block, skip_fusion
from medseg.models.params import Cmunext as Params

CARD = Path(__file__).parents[2] / "conf/model/cmunext.yaml"
SMALL = ([8, 16, 32, 64, 128], [1, 1, 1, 1, 1], [3, 3, 7, 7, 9])
BASE = ([16, 32, 128, 160, 256], [1, 1, 1, 3, 1], [3, 3, 7, 7, 7])
LARGE = ([32, 64, 128, 256, 512], [1, 1, 1, 6, 3], [3, 3, 7, 7, 7])

Module = TypeVar("Module", bound=nn.Module)
Maps = npt.NDArray[np.float64]  # (maps, H, W)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def _deterministic() -> Iterator[None]:
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(before)


def network(channels: int = 1, classes: int = 1) -> Cmunext:
    return Cmunext(channels, classes, [4, 6, 8, 10, 12], [1, 2, 1, 1, 1], [3, 5, 7, 9, 1])


def scrambled(module: Module) -> Module:
    """In double precision and for prediction, with every weight and every running statistic drawn anew."""
    for parameter in module.double().parameters():
        nn.init.normal_(parameter, 0.3)
    for name, statistic in module.named_buffers():
        if name.endswith("running_mean"):
            nn.init.normal_(statistic)
        if name.endswith("running_var"):
            nn.init.uniform_(statistic, 0.5, 2)
    return module.eval()


def activated(maps: Maps, state: dict[str, Tensor], name: str) -> Maps:
    """Convolution in groups, GELU, then batch normalisation."""
    layer = part(state, name)
    convolved = convolution(maps, layer)
    return normalised(convolved * (1 + erf(convolved / np.sqrt(2))) / 2, layer)


def part(state: dict[str, Tensor], name: str) -> dict[str, Maps]:
    return {key.removeprefix(f"{name}."): value.numpy() for key, value in state.items() if key.startswith(f"{name}.")}


def convolution(maps: Maps, layer: dict[str, Maps]) -> Maps:
    kernels = layer["conv.weight"]
    reach = kernels.shape[1]  # maps that one group sees
    made = len(kernels) * reach // len(maps)  # maps that one group makes
    outputs = []
    for number, kernel in enumerate(kernels):
        seen = maps[number // made * reach :][:reach]
        outputs.append(sum(correlate2d(one, side, "same") for one, side in zip(seen, kernel, strict=True)))
    convolved: Maps = np.stack(outputs) + by_map(layer["conv.bias"])
    return convolved


def normalised(maps: Maps, layer: dict[str, Maps]) -> Maps:
    """Batch normalisation by the running statistics."""
    unit = (maps - by_map(layer["norm.running_mean"])) / np.sqrt(by_map(layer["norm.running_var"]) + 1e-5)
    scaled: Maps = unit * by_map(layer["norm.weight"]) + by_map(layer["norm.bias"])
    return scaled


def by_map(values: Maps) -> Maps:
    return values[:, None, None]


@pytest.mark.parametrize("kernel", [3, 7])
def test_a_block_adds_a_depthwise_convolution_then_widens_and_narrows(kernel: int) -> None:
    block = scrambled(cmunext_block(3, kernel))
    pixels = torch.randn(1, 3, 9, 8, dtype=torch.float64)
    state = block.state_dict()
    maps = pixels[0].numpy()
    maps = maps + activated(maps, state, "depthwise.branch")
    maps = activated(maps, state, "pointwise.expand")
    assert maps.shape == (12, 9, 8)
    maps = activated(maps, state, "pointwise.contract")
    np.testing.assert_allclose(block(pixels)[0].detach().numpy(), maps, rtol=1e-10, atol=1e-10)


def test_skip_fusion_works_on_each_half_alone_then_widens_and_narrows() -> None:
    fusion = scrambled(skip_fusion(2))
    pixels = torch.randn(1, 4, 6, 7, dtype=torch.float64)
    state = fusion.state_dict()
    maps = activated(pixels[0].numpy(), state, "grouped")
    maps = activated(maps, state, "pointwise.expand")
    assert maps.shape == (8, 6, 7)
    maps = activated(maps, state, "pointwise.contract")
    np.testing.assert_allclose(fusion(pixels)[0].detach().numpy(), maps, rtol=1e-10, atol=1e-10)


def test_the_stem_is_a_convolution_normalised_then_rectified() -> None:
    built = scrambled(network(channels=3))
    pixels = torch.randn(1, 3, 6, 7, dtype=torch.float64)
    layer = part(built.state_dict(), "stem")
    expected = np.maximum(normalised(convolution(pixels[0].numpy(), layer), layer), 0)
    np.testing.assert_allclose(built.stem(pixels)[0].detach().numpy(), expected, rtol=1e-10, atol=1e-10)


def test_up_scaling_is_bilinear_between_the_centres_of_pixels() -> None:
    upscaled = network().upsampling[0].get_submodule("upscale")(torch.tensor([[[[0.0, 4.0], [8.0, 12.0]]]]))
    assert upscaled[0, 0].tolist() == [[0, 1, 3, 4], [2, 3, 5, 6], [6, 7, 9, 10], [8, 9, 11, 12]]


def test_the_levels_have_the_widths_and_depths_asked_for() -> None:
    shapes: list[tuple[int, ...]] = []
    built = network()
    for level in built.encoder:
        level.register_forward_hook(lambda _module, _given, features: shapes.append(tuple(features.shape[1:])))
    built(torch.randn(2, 1, 2 * DIVISOR, 4 * DIVISOR))
    assert shapes == [(4, 32, 64), (6, 16, 32), (8, 8, 16), (10, 4, 8), (12, 2, 4)]
    blocks = [level.get_submodule("blocks") for level in built.encoder]
    assert [len(list(each.children())) for each in blocks] == [1, 2, 1, 1, 1]
    kernels = [each.get_submodule("0.depthwise.branch.conv") for each in blocks]
    assert [layer.kernel_size for layer in kernels if isinstance(layer, nn.Conv2d)] == [(k, k) for k in (3, 5, 7, 9, 1)]


def test_each_level_sees_the_greatest_of_four_pixels_of_the_level_above() -> None:
    built = network()
    seen: dict[str, Maps] = {}
    built.encoder[0].register_forward_hook(lambda _m, _given, features: seen.update(above=features.detach().numpy()))
    built.encoder[1].register_forward_hook(lambda _m, given, _features: seen.update(below=given[0].detach().numpy()))
    built(torch.randn(2, 1, 32, 32))
    np.testing.assert_array_equal(seen["below"], seen["above"].reshape(2, 4, 16, 2, 16, 2).max(axis=(3, 5)))


@pytest.mark.parametrize(
    ("sizes", "published", "count"), [(SMALL, 0.42, 417_505), (BASE, 3.15, 3_149_185), (LARGE, 8.29, 8_286_721)]
)
def test_the_number_of_parameters_is_the_published_one(
    sizes: tuple[list[int], list[int], list[int]], published: float, count: int
) -> None:
    built = Cmunext(3, 1, *sizes)
    assert sum(parameter.numel() for parameter in built.parameters()) == counted(3, 1, *sizes) == count
    assert round(count / 1e6, 2) == published


def counted(channels: int, classes: int, widths: list[int], depths: list[int], kernels: list[int]) -> int:
    """The number of parameters, layer by layer, each convolution with its bias and its normalisation."""
    sources = [widths[0], *widths[:-1]]
    pairs = list(zip(sources, widths, strict=True))
    stem = widened(channels, widths[0])
    blocks = sum(
        depth * ((kernel**2 + 3) * source + bottleneck(source, source))
        for depth, kernel, source in zip(depths, kernels, sources, strict=True)
    )
    down = sum(widened(source, target) for source, target in pairs)
    up = sum(widened(target, source) for source, target in pairs[1:])
    fusion = sum(2 * maps * (9 * maps + 3) + bottleneck(2 * maps, maps) for maps in widths[:4])
    return stem + blocks + down + up + fusion + classes * (widths[0] + 1)


def widened(source: int, target: int) -> int:
    return target * (9 * source + 3)


def bottleneck(source: int, target: int) -> int:
    return 4 * target * (source + 3) + target * (4 * target + 3)


def test_the_card_holds_the_published_base_size() -> None:
    params: Params = validate(read_yaml(CARD), Params, "model")
    assert (params.widths, params.depths, params.kernels) == BASE


@pytest.mark.usefixtures("_deterministic")
def test_up_scaling_takes_the_deterministic_way_off_the_cpu() -> None:
    pixels = torch.zeros(2, 1, 32, 32, device="meta")
    functions = backward_functions(network().to("meta")(pixels))
    assert not [name for name in functions if name.startswith("Upsample")]


def backward_functions(output: Tensor) -> set[str]:
    """The names of all functions in the graph behind `output`."""
    seen, todo = set(), [output.grad_fn]
    while todo:
        node = todo.pop()
        if node is not None and node not in seen:
            seen.add(node)
            todo += [source for source, _ in node.next_functions]
    return {node.name() for node in seen}


def test_scales_start_from_1_and_shifts_from_0() -> None:
    normalisations = [layer for layer in network().modules() if isinstance(layer, nn.BatchNorm2d)]
    assert len(normalisations) == 1 + 6 * 3 + 5 + 4 + 4 * 3  # stem, blocks, steps down, steps up, fusions
    assert all((layer.weight == 1).all() and (layer.bias == 0).all() for layer in normalisations)


def test_the_names_of_the_weights_say_where_they_act() -> None:
    names = {name.rsplit(".", 1)[0] for name, _ in network().named_parameters()}
    assert {name.split(".")[0] for name in names} == {"stem", "encoder", "upsampling", "fusion", "head"}
    assert {name for name in names if name.startswith("encoder.1.blocks.1.")} == {
        f"encoder.1.blocks.1.{part}.{layer}"
        for part in ("depthwise.branch", "pointwise.expand", "pointwise.contract")
        for layer in ("conv", "norm")
    }
