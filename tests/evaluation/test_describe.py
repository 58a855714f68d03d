"""A model in words."""

from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import tiny

from medseg.data.geometry import Geometry, Patchify, Resize, Scale
from medseg.datasets import title_of
from medseg.evaluation.describe import (
    ABSENT,
    MODEL_IN_WORDS,
    WEIGHTS_IN_WORDS,
    counted,
    counting_in_words,
    initial_weights_in_words,
    network_in_words,
    prediction_in_words,
    score,
    spread,
)
from medseg.metrics.counting import CountingParams
from medseg.models.model_yaml import InitialNetwork, InitialWeights
from medseg.models.params import Encoded, Library


def test_every_network_and_origin_of_weights_has_words(project: Path) -> None:
    models = {path.stem for path in (project / "conf" / "model").glob("*.yaml")} - {"library"}
    assert models | set(get_args(Library.model_fields["arch"].annotation)) == set(MODEL_IN_WORDS)
    assert set(get_args(InitialWeights)) - {"initial_network"} == set(WEIGHTS_IN_WORDS)


def test_what_has_no_words_stands_for_itself() -> None:
    assert title_of("busi") == "BUSI breast ultrasound"
    assert title_of("mine") == "mine"


def test_a_network_is_named_with_its_encoder() -> None:
    unet = tiny.unet()
    assert network_in_words(unet) == f"U-Net over the encoder {tiny.SMALL_ENCODER}"
    library = Library(name="library", arch="fpn", **unet.model_dump(include=set(Encoded.model_fields)))
    assert network_in_words(library) == f"FPN over the encoder {tiny.SMALL_ENCODER}"


def test_first_weights_tell_the_former_network() -> None:
    training = tiny.description().training
    assert initial_weights_in_words(training) == "random weights"
    initial_network = InitialNetwork(name="mine", weights_sha256="0" * 64, continued=False, epochs_before=0)
    started = training.model_copy(update={"initial_weights": "initial_network", "initial_network": initial_network})
    assert initial_weights_in_words(started) == "weights of an initial network, mine"
    continued = started.model_copy(
        update={"initial_network": initial_network.model_copy(update={"continued": True, "epochs_before": 30})}
    )
    assert initial_weights_in_words(continued).endswith(
        "mine, continued after 30 epochs with its optimiser and schedule"
    )


@pytest.mark.parametrize(
    ("geometry", "words"),
    [
        (Resize(name="resize", channels=1, height=96, width=128, aspect="keep"), "resized to 128x96 (aspect kept, pa"),
        (Scale(name="scale", channels=3, factor=0.5), "scaled by 0.5, predicted"),
        (Patchify(name="patchify", channels=3, patch=64, stride=32, border="pad"), "64x64 that overlap by 25 %"),
    ],
)
def test_prediction_is_told_by_geometry(geometry: Geometry, words: str) -> None:
    assert words in prediction_in_words(geometry, 0.25)


@pytest.mark.parametrize(
    ("smallest", "split", "words"),
    [
        (10, False, "those of fewer than 10 pixels dropped, touching ones counted as one"),
        (0, True, "none dropped, touching ones told apart by watershed (depth 1.5 pixels)"),
    ],
)
def test_a_rule_of_counting_in_words(smallest: int, split: bool, words: str) -> None:
    assert counting_in_words(CountingParams(smallest=smallest, split=split, depth=1.5)) == words


@pytest.mark.parametrize("undefined", [None, float("nan"), np.float64("nan")])
def test_what_is_not_defined_is_a_dash(undefined: float | None) -> None:
    assert score(undefined) == score(undefined, "+.1f") == ABSENT == "\N{EN DASH}"


def test_a_figure_has_three_decimals_unless_told_otherwise() -> None:
    assert (score(0), score(0.12345), score(-0.25, "+.1f"), score(3.04, "+.1f")) == ("0.000", "0.123", "-0.2", "+3.0")


def test_a_mean_stands_with_its_interval() -> None:
    assert spread(0.5, 0.25, 0.75) == "0.500 (0.250 to 0.750)"
    assert spread(0.5, None, float("nan")) == f"0.500 ({ABSENT} to {ABSENT})"


def test_one_of_a_kind_is_singular() -> None:
    assert (counted(1, "image"), counted(2, "image"), counted(0, "image")) == ("1 image", "2 images", "0 images")
