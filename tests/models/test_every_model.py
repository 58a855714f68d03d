"""What every kind of network must do, checked through `build_model` on small ones."""

from pathlib import Path
from typing import get_args

import pytest
import tiny
import torch
from model_sections import SECTIONS, images, settled
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional

from medseg.core.errors import UserError
from medseg.core.params import validate
from medseg.models.network import Network, build_model
from medseg.models.params import ModelParams

SIZES = [(1, 1), (33, 47), (64, 96), (7, 40)]
STEPS = 80  # of Adam, within which four images are learnt by heart
RATES = {"pspnet": 0.01, "segnet": 0.01}  # learning rates, 0.005 for all others
AT_32_PIXELS = {
    "cmunext",
    "improved_unet",
    "unet",
    "unet_plain",
    "unetplusplus",
}  # coarser logits, or features that need more


LEARNERS = sorted(SECTIONS.keys() - {"upernet"})  # the library's UPerNet is 512 maps wide: half a second a step


def section(kind: str, **changes: object) -> dict[str, object]:
    return SECTIONS[kind] | changes


def build(kind: str, channels: int = 1, classes: int = 1, seed: int = 0) -> Network:
    torch.manual_seed(seed)
    return build_model(validate(section(kind), ModelParams, "params.yaml: model"), channels, classes)


@pytest.fixture(params=sorted(SECTIONS))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)  # small networks lose by more


def test_every_kind_of_network_is_among_them() -> None:
    union = get_args(get_args(ModelParams)[0])
    kinds = {name for params in union for name in get_args(params.model_fields["name"].annotation)}
    assert {values["name"] for values in SECTIONS.values()} == kinds


@pytest.mark.parametrize("training", [False, True])
def test_logits_have_the_size_of_the_image(kind: str, training: bool) -> None:
    channels, classes = (1, 3) if training else (3, 1)
    network = build(kind, channels, classes).train(training)
    for size in SIZES:
        logits = network(images(2, channels, *size))
        assert logits.shape == (2, classes, *size)
        assert logits.dtype == torch.float32
        assert torch.isfinite(logits).all()


def test_a_gradient_reaches_every_weight_in_training(kind: str) -> None:
    network = build(kind)
    logits = network(images(4, 1, 64, 64))
    (logits * torch.randn(logits.shape)).sum().backward()
    trained = {name: weight.grad for name, weight in network.named_parameters() if weight.requires_grad}
    assert [name for name, gradient in trained.items() if gradient is None or not gradient.any()] == []
    assert all(torch.isfinite(gradient).all() for gradient in trained.values() if gradient is not None)


def test_one_seed_builds_one_network_and_another_another(kind: str) -> None:
    first, again, other = (build(kind, seed=seed).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not all(torch.equal(first[key], other[key]) for key in first)


def test_a_network_at_rest(kind: str, tmp_path: Path) -> None:
    """Saved weights give the same logits, images of a batch do not see each other, heads are the image's size."""
    network = settled(build(kind, classes=2))
    kept, one, other = (images(1, 1, 33, 47, seed=seed) for seed in (0, 1, 2))
    beside_one, beside_other = (network(torch.cat([beside, kept])) for beside in (one, other))
    assert torch.equal(beside_one[1], beside_other[1])
    assert not torch.equal(beside_one[0], beside_other[0])

    batch = torch.cat([one, kept])
    heads = network.heads(batch)
    assert [head.shape for head in heads] == [(2, 2, 33, 47)] * network.head_count
    assert torch.equal(heads[0], beside_one)

    save_file(network.state_dict(), tmp_path / "weights.safetensors")
    restored = build(kind, classes=2, seed=1)
    restored.load_state_dict(load_file(tmp_path / "weights.safetensors"))
    assert torch.equal(restored.eval()(batch), beside_one)

    frozen = [weight for weight in network.parameters() if not weight.requires_grad]
    assert bool(frozen) == (kind == "pspnet")  # the stages of its encoder behind the third
    for weight in frozen:
        weight.data.add_(1)
    assert torch.equal(network(batch), beside_one)


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[] if kind == "unet" else pytest.mark.slow) for kind in LEARNERS]
)
def test_four_images_are_learnt_by_heart(kind: str) -> None:
    side = 32 if kind in AT_32_PIXELS else 64
    samples = [tiny.square(seed, side, side) for seed in range(4)]
    batch = torch.stack([torch.from_numpy(image).permute(2, 0, 1) for image, _ in samples])
    truth = torch.stack([torch.from_numpy(mask).float()[None] for _, mask in samples])
    network = build(kind)
    optimizer = torch.optim.Adam(network.parameters(), lr=RATES.get(kind, 0.005))
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = functional.binary_cross_entropy_with_logits(network(batch), truth)
        torch.autograd.backward(loss)
        optimizer.step()
    assert dice(network.eval()(batch) > 0, truth > 0) > 0.95


def dice(predicted: Tensor, truth: Tensor) -> float:
    """The mean over the images."""
    common, both = ((predicted & truth).sum((1, 2, 3)), predicted.sum((1, 2, 3)) + truth.sum((1, 2, 3)))
    return float((2 * common / both).mean())


@pytest.mark.parametrize(
    ("of", "change", "key"),
    [
        ("unet", {"decoder_channels": [8] * 4}, "decoder_channels"),
        ("unet", {"encoder_weights": "imagnet"}, "encoder_weights"),
        ("unet", {"input_mean": []}, "input_mean"),
        ("pspnet", {"dropout": 1.0}, "dropout"),
        ("fpn", {"arch": "fpm"}, "arch"),
        ("unet_plain", {"init_features": 0}, "init_features"),
        ("unet_plain", {"encoder": "resnet18"}, "encoder"),
        ("improved_unet", {"dropout": -0.1}, "dropout"),
        ("cmunext", {"depths": [1, 1, 0, 1, 1]}, r"depths\.2"),
        ("cmunext", {"kernels": [3, 3, 7, 7, 33]}, r"kernels\.4"),
        ("cmunext", {"kernels": [3, 4, 7, 7, 7]}, "kernels"),
        ("segnet", {"name": "segnets"}, "name"),
    ],
)
def test_wrong_values_name_the_key(of: str, change: dict[str, object], key: str) -> None:
    with pytest.raises(UserError, match=rf"params\.yaml: model\.{key}"):
        validate(section(of, **change), ModelParams, "params.yaml: model")


def test_every_key_that_is_missing_is_named() -> None:
    for values in SECTIONS.values():
        for key in values:
            with pytest.raises(UserError, match=rf"^params\.yaml: model\.{key} is missing$"):
                validate({name: values[name] for name in values if name != key}, ModelParams, "params.yaml: model")
