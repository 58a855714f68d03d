"""A model written to disk is the same model when it is read."""

from pathlib import Path

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file

from medseg.core.errors import UserError
from medseg.inference.settings import SegmenterDescription
from medseg.models.checkpoint import load_bundle, save_bundle
from medseg.models.model_yaml import DESCRIPTION, WEIGHTS, Description, InitialNetwork
from medseg.models.network import Network, build_model


@pytest.fixture(scope="module")
def network() -> Network:
    torch.manual_seed(0)
    built = build_model(tiny.unet(), 1, 1)
    built(torch.rand(4, 1, 32, 32) * 255)  # moves the running means, so that evaluation mode tells
    return built.eval()


@pytest.fixture
def folder(network: Network, tmp_path: Path) -> Path:
    save_bundle(tmp_path / "bundle", network, tiny.segmenter(threshold=0.4))
    return tmp_path / "bundle"


def test_what_comes_back_gives_the_same_logits(network: Network, folder: Path) -> None:
    loaded, description = load_bundle(folder, SegmenterDescription)
    image = torch.randint(0, 256, (2, 1, 33, 40), dtype=torch.uint8)
    assert not loaded.training
    assert torch.equal(loaded(image), network(image))
    assert description == tiny.segmenter(threshold=0.4)


def test_a_bundle_is_two_files_and_no_pickle(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == [DESCRIPTION, WEIGHTS]
    assert len(load_file(folder / WEIGHTS)) > 0  # safetensors can hold no code


def test_equal_models_give_equal_bytes(folder: Path, tmp_path: Path) -> None:
    save_bundle(tmp_path / "again", *load_bundle(folder, SegmenterDescription))
    for name in (WEIGHTS, DESCRIPTION):
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()


def test_the_normalisation_comes_from_the_description(network: Network, tmp_path: Path) -> None:
    model = tiny.unet(input_mean=[0.25])
    save_bundle(tmp_path, network, tiny.description(model=model))
    loaded, _ = load_bundle(tmp_path, Description)
    assert loaded.mean.item() == 0.25


def test_several_classes_and_the_initial_network_come_back(tmp_path: Path) -> None:
    plain = tiny.description(task=tiny.LESIONS)
    initial_network = InitialNetwork(name="first", weights_sha256="0" * 64, continued=True, epochs_before=30)
    training = plain.training.model_copy(
        update={"initial_weights": "initial_network", "initial_network": initial_network}
    )
    description = plain.model_copy(update={"training": training})
    built = build_model(tiny.unet(), 1, 3).eval()
    save_bundle(tmp_path, built, description)
    loaded, read = load_bundle(tmp_path, Description)
    image = torch.zeros(1, 1, 32, 32)
    assert read == description
    assert loaded(image).shape == (1, 3, 32, 32)
    assert torch.equal(loaded(image), built(image))


def test_weights_for_fewer_classes_than_described_are_told(network: Network, tmp_path: Path) -> None:
    save_bundle(tmp_path, network, tiny.description(task=tiny.LESIONS))
    with pytest.raises(UserError, match=rf"{WEIGHTS}: .*segmentation_head"):
        load_bundle(tmp_path, Description)


@pytest.mark.parametrize("name", [WEIGHTS, DESCRIPTION])
def test_a_missing_part_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(UserError, match=name):
        load_bundle(folder, SegmenterDescription)


@pytest.mark.parametrize("left", [0, 1000])
def test_cut_weights_are_named(folder: Path, left: int) -> None:
    path = folder / WEIGHTS
    path.write_bytes(path.read_bytes()[:left])
    with pytest.raises(UserError, match=WEIGHTS):
        load_bundle(folder, SegmenterDescription)


def test_weights_of_another_shape_are_named(folder: Path) -> None:
    text = (folder / DESCRIPTION).read_text().replace("  - 16\n  - 16\n", "  - 16\n  - 24\n", 1)
    (folder / DESCRIPTION).write_text(text)
    with pytest.raises(UserError, match=rf"{WEIGHTS}: .*{DESCRIPTION}"):
        load_bundle(folder, SegmenterDescription)


def test_a_layer_too_few_is_named(folder: Path) -> None:
    state = load_file(folder / WEIGHTS)
    del state["core.segmentation_head.0.bias"]
    save_file(state, folder / WEIGHTS)
    with pytest.raises(UserError, match=r"segmentation_head\.0\.bias"):
        load_bundle(folder, SegmenterDescription)


def test_a_wrong_description_names_key_and_file(folder: Path) -> None:
    path = folder / DESCRIPTION
    path.write_text(path.read_text().replace("threshold: 0.4", "threshold: 4.0"))
    with pytest.raises(UserError, match=rf"{DESCRIPTION}\.chosen\.choices\.postprocess\.threshold = 4\.0"):
        load_bundle(folder, SegmenterDescription)


def test_a_network_that_nothing_was_chosen_for_is_no_segmenter(network: Network, tmp_path: Path) -> None:
    save_bundle(tmp_path, network, tiny.description())
    with pytest.raises(UserError, match=rf"{DESCRIPTION}\.overlap"):
        load_bundle(tmp_path, SegmenterDescription)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_named(folder: Path, value: float) -> None:
    state = load_file(folder / WEIGHTS)
    state["core.segmentation_head.0.bias"].fill_(value)
    save_file(state, folder / WEIGHTS)
    with pytest.raises(UserError, match=r"segmentation_head\.0\.bias"):
        load_bundle(folder, SegmenterDescription)


def test_weights_of_whole_numbers_are_named(folder: Path) -> None:
    state = load_file(folder / WEIGHTS)
    state["core.segmentation_head.0.bias"] = state["core.segmentation_head.0.bias"].int()
    save_file(state, folder / WEIGHTS)
    with pytest.raises(UserError, match=r"segmentation_head\.0\.bias"):
        load_bundle(folder, SegmenterDescription)
