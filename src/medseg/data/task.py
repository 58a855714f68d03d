"""What a pixel can be: foreground or not, or a class of lesion, taken from the image's label in the manifest."""

from collections.abc import Iterable
from typing import Annotated, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field, model_validator

from medseg.core.errors import UserError
from medseg.core.params import Section

Label = Annotated[str, Field(min_length=1)]

FOREGROUND = "foreground"


class Binary(Section):
    """Foreground against background, whatever an image's label; one logit per pixel."""

    name: Literal["binary"]


class Multiclass(Section):
    """Every annotated pixel of an image has the class of the image's label; one logit per class, background first."""

    name: Literal["multiclass"]
    background: Label  # label of images in which nothing is annotated
    labels: Annotated[list[Label], Field(min_length=2, max_length=254)]  # classes 1, 2, ...

    @model_validator(mode="after")
    def _are_distinct(self) -> "Multiclass":
        names = [self.background, *self.labels]
        if len(set(names)) < len(names):
            raise ValueError(f"background and labels must all differ, not {', '.join(names)}")
        return self


TaskParams = Annotated[Binary | Multiclass, Field(discriminator="name")]


def logit_count(task: TaskParams) -> int:
    """How many channels a network puts out: 1 for foreground alone, else one per class and one for background."""
    return 1 if isinstance(task, Binary) else 1 + len(task.labels)


def class_names(task: TaskParams) -> list[str]:
    """The classes that an annotated pixel can have, in the order of their codes 1, 2, ..."""
    return [FOREGROUND] if isinstance(task, Binary) else list(task.labels)


def class_codes(labels: Iterable[str], task: TaskParams) -> NDArray[np.uint8]:
    """The code of the annotated pixels of images with these labels: 1 for all in a binary task; 0 for the background.

    Raises `UserError` for a label that is no class of the task.
    """
    if isinstance(task, Binary):
        return np.array([1 for _ in labels], np.uint8)
    codes = {name: code for code, name in enumerate([task.background, *task.labels])}
    labels = list(labels)
    if unknown := sorted(set(labels) - set(codes)):
        raise UserError(
            f"params.yaml: task.labels = {task.labels}: the data also hold the label '{unknown[0]}'; add it, or make "
            "it task.background if nothing is annotated in its images"
        )
    return np.array([codes[label] for label in labels], np.uint8)


def check_labels(task: Multiclass, train: pd.DataFrame, val: pd.DataFrame) -> None:
    """Check the images of both splits, tables with the columns label and annotated (whether anything is).

    Raises `UserError` for a label that is no class, a background image with annotated pixels, or a class that no
    training image has; val may lack one.
    """
    for images in (train, val):
        codes = class_codes(images["label"], task)
        if images["annotated"].to_numpy(dtype=bool)[codes == 0].any():
            raise UserError(
                f"params.yaml: task.background = '{task.background}': images with this label have annotated pixels; "
                "list it in task.labels"
            )
    known = set(train["label"])
    if absent := [label for label in task.labels if label not in known]:
        raise UserError(
            f"params.yaml: task.labels holds '{absent[0]}', which no training image has; "
            f"the labels are {', '.join(sorted(known))}"
        )
