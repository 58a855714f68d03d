"""Labels of images become classes of pixels."""

import numpy as np
import pandas as pd
import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st

from medseg.core.errors import UserError
from medseg.core.params import validate
from medseg.data.task import Multiclass, TaskParams, check_labels, class_codes, class_names, logit_count

NAMES = st.lists(st.text(min_size=1), min_size=3, max_size=8, unique=True)


def images(**annotated: bool) -> pd.DataFrame:
    """One image per label."""
    return pd.DataFrame({"label": list(annotated), "annotated": list(annotated.values())})


WHOLE = images(normal=False, benign=True, malignant=True)


def test_background_is_0_and_classes_count_from_1_in_their_order() -> None:
    codes = class_codes(["malignant", "normal", "benign", "malignant"], tiny.LESIONS)
    assert codes.tolist() == [2, 0, 1, 2]
    assert codes.dtype == np.uint8


def test_a_binary_task_does_not_look_at_labels() -> None:
    assert class_codes(["normal", "", "anything"], tiny.BINARY).tolist() == [1, 1, 1]


@pytest.mark.parametrize(("task", "logits"), [(tiny.BINARY, 1), (tiny.LESIONS, 3)])
def test_there_is_a_logit_for_foreground_alone_or_one_for_each_class_and_background(
    task: TaskParams, logits: int
) -> None:
    assert logit_count(task) == logits


def test_classes_are_named_in_the_order_of_their_codes() -> None:
    assert class_names(tiny.BINARY) == ["foreground"]
    assert class_names(tiny.LESIONS) == ["benign", "malignant"]


@given(names=NAMES, data=st.data())
def test_codes_give_the_labels_back(names: list[str], data: st.DataObject) -> None:
    task = Multiclass(name="multiclass", background=names[0], labels=names[1:])
    labels = data.draw(st.lists(st.sampled_from(names)))
    codes = class_codes(labels, task)
    assert [[task.background, *class_names(task)][code] for code in codes] == labels
    assert codes.max(initial=0) < logit_count(task)


def test_a_label_that_is_no_class_is_named() -> None:
    with pytest.raises(UserError, match=r"task\.labels = .*'cyst'"):
        class_codes(["benign", "cyst"], tiny.LESIONS)


def test_images_that_fit_the_task_pass_and_val_may_lack_a_class() -> None:
    check_labels(tiny.LESIONS, WHOLE, images(normal=False, benign=True))


def test_a_class_without_marks_in_one_image_passes() -> None:
    check_labels(tiny.LESIONS, images(benign=False, malignant=True), WHOLE)


@pytest.mark.parametrize(
    ("train", "val", "fault"),
    [
        (images(benign=True, malignant=True, cyst=True), WHOLE, "'cyst'"),
        (WHOLE, images(cyst=True), "'cyst'"),
        (images(benign=True, normal=False), WHOLE, "'malignant'"),
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
        check_labels(tiny.LESIONS, train, val)


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
    assert class_codes(["253"], task).tolist() == [254]
