"""Labels of images become classes of pixels."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st

from medseg.core.errors import UserError
from medseg.core.params import validate
from medseg.data.colours import CLASSES, PREDICTION
from medseg.data.image import Image
from medseg.data.task import Multiclass, TaskParams
from medseg.datasets.record import Region

NAMES = st.lists(st.text(min_size=1), min_size=3, max_size=8, unique=True)


def images(**annotated: bool) -> pd.DataFrame:
    """One image per label."""
    return pd.DataFrame({"label": list(annotated), "annotated": list(annotated.values())})


WHOLE = images(normal=False, benign=True, malignant=True)


def test_binary_has_one_logit_and_does_not_look_at_labels() -> None:
    task = tiny.BINARY
    assert (task.has_classes, task.logits, task.names, task.class_names) == (
        False,
        1,
        ["empty", "foreground"],
        ["foreground"],
    )
    assert task.codes(["normal", "", "anything"]).tolist() == [1, 1, 1]
    assert [task.actual_name("benign", annotated) for annotated in (False, True)] == ["empty", "foreground"]
    assert task.colours == [PREDICTION]
    task.check_training(images(a=True), images(b=False))
    task.check_external(["anything"])


def test_multiclass_has_a_logit_for_the_background_and_one_per_class() -> None:
    task = tiny.LESIONS
    assert (task.has_classes, task.logits, task.names, task.class_names) == (
        True,
        3,
        ["normal", "benign", "malignant"],
        ["benign", "malignant"],
    )
    codes = task.codes(["malignant", "normal", "benign", "malignant"])
    assert codes.tolist() == [2, 0, 1, 2]
    assert codes.dtype == np.uint8
    assert task.actual_name("benign", annotated=False) == "benign"


def test_colours_of_classes_repeat_where_there_are_more_classes() -> None:
    labels = [str(number) for number in range(len(CLASSES) + 2)]
    assert Multiclass(name="multiclass", background="none", labels=labels).colours == [*CLASSES, *CLASSES[:2]]


@pytest.mark.parametrize("logits", [1, 3])
def test_probabilities_keep_the_shape_and_sum_to_1_over_several_channels(logits: int) -> None:
    task: TaskParams = tiny.BINARY if logits == 1 else tiny.LESIONS
    scores = torch.randn(2, logits, 4, 5, generator=torch.Generator().manual_seed(0))
    probabilities = task.probabilities(scores)
    assert probabilities.shape == scores.shape
    if logits == 1:
        torch.testing.assert_close(probabilities, 1 / (1 + torch.exp(-scores)))
    else:
        torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(2, 4, 5))


@given(names=NAMES, data=st.data())
def test_codes_give_the_labels_back(names: list[str], data: st.DataObject) -> None:
    task = Multiclass(name="multiclass", background=names[0], labels=names[1:])
    labels = data.draw(st.lists(st.sampled_from(names)))
    codes = task.codes(labels)
    assert [task.names[code] for code in codes] == labels
    assert codes.max(initial=0) < task.logits


def test_a_label_that_is_no_class_is_named() -> None:
    with pytest.raises(UserError, match=r"task\.labels = .*'cyst'"):
        tiny.LESIONS.codes(["benign", "cyst"])


def test_images_that_fit_the_task_pass_and_val_may_lack_a_class() -> None:
    tiny.LESIONS.check_training(WHOLE, images(normal=False, benign=True))


def test_an_image_of_a_class_may_hold_no_annotated_pixel() -> None:
    tiny.LESIONS.check_training(pd.concat([images(benign=False), WHOLE]), WHOLE)


@pytest.mark.parametrize(
    ("train", "val", "fault"),
    [
        (images(benign=True, malignant=True, cyst=True), WHOLE, "'cyst'"),
        (WHOLE, images(cyst=True), "'cyst'"),
        (images(benign=True, normal=False), WHOLE, "'malignant'"),
        (images(benign=False, malignant=True), WHOLE, "'benign'"),
        (
            images(normal=True, benign=True, malignant=True),
            WHOLE,
            r"task\.background = 'normal'",
        ),
        (WHOLE, images(normal=True), r"task\.background = 'normal'"),
    ],
)
def test_images_that_contradict_the_task_are_told(train: pd.DataFrame, val: pd.DataFrame, fault: str) -> None:
    with pytest.raises(UserError, match=fault):
        tiny.LESIONS.check_training(train, val)


def image(label: str, foreground: float) -> Image:
    return Image(
        root=Path("data"),
        file="a.png",
        name="a",
        masks=("m.png",),
        label=label,
        group="g",
        split="test",
        height=4,
        width=4,
        region=Region(0, 0, 4, 4),
        foreground=foreground,
        sha256="0" * 64,
        phash="0" * 16,
        patient="",
    )


def test_a_scored_image_must_fit_the_task() -> None:
    tiny.BINARY.check_scored([image("cyst", 0.5)])
    tiny.LESIONS.check_scored([image("benign", 0.5), image("benign", 0.0), image("normal", 0.0)])
    with pytest.raises(UserError, match=r"a\.png: its label 'cyst'"):
        tiny.LESIONS.check_scored([image("benign", 0.5), image("cyst", 0.5)])
    with pytest.raises(UserError, match=r"a\.png: .*task\.background"):
        tiny.LESIONS.check_scored([image("normal", 0.5)])


def test_labels_of_external_data_must_be_classes() -> None:
    tiny.LESIONS.check_external(["normal", "malignant"])
    with pytest.raises(UserError, match="--label: 'cyst'"):
        tiny.LESIONS.check_external(["benign", "cyst"])


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"labels": ["benign", "benign"]}, "benign"),
        ({"labels": ["benign", "normal"]}, "normal"),
        ({"labels": ["benign"]}, r"task\.labels"),
        ({"labels": ["benign", ""]}, r"task\.labels\.1"),
        ({"labels": [str(number) for number in range(255)]}, r"task\.labels"),
    ],
)
def test_a_task_that_makes_no_sense_is_refused(change: dict[str, object], fault: str) -> None:
    with pytest.raises(UserError, match=fault):
        validate(tiny.LESIONS.model_dump() | change, TaskParams, "task")


def test_as_many_classes_as_a_byte_can_count() -> None:
    task = Multiclass(name="multiclass", background="none", labels=[str(number) for number in range(254)])
    assert task.codes(["253"]).tolist() == [254]
