"""The task: what a pixel can be, and all that follows from it (names, codes, logits, activation, colours, checks).

Nothing outside this module asks which task it is.
"""

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from medseg.core.errors import UserError
from medseg.core.params import Section
from medseg.data.colours import CLASSES, PREDICTION, Colour

if TYPE_CHECKING:  # records are read without loading these
    import pandas as pd
    from torch import Tensor

    from medseg.data.image import Image

Label = Annotated[str, Field(min_length=1)]

FOREGROUND = "foreground"
UNANNOTATED = 255  # where a class code would stand: nothing is known of the pixel, so no loss or metric counts it
EMPTY = "empty"  # an image in which nothing is annotated or found, in a binary task


class Task(Section):
    """What every task says of itself. Codes of classes are 1, 2, ... and 0 is the background."""

    @property
    @abstractmethod
    def has_classes(self) -> bool:
        """Whether foreground is of several classes."""

    @property
    @abstractmethod
    def logits(self) -> int:
        """Channels of the network's output."""

    @property
    @abstractmethod
    def names(self) -> list[str]:
        """What an image as a whole can be, by code: the name of the background first, then the classes."""

    @property
    def class_names(self) -> list[str]:
        """The classes that an annotated pixel can have, in the order of their codes 1, 2, ..."""
        return self.names[1:]

    @property
    @abstractmethod
    def colours(self) -> list[Colour]:
        """The colour in which predictions of each class are drawn."""

    @abstractmethod
    def codes(self, labels: Iterable[str]) -> NDArray[np.uint8]:
        """The code of the annotated pixels of images with these labels.

        Raises `UserError` for a label that is no class of the task.
        """

    @abstractmethod
    def probabilities(self, logits: "Tensor") -> "Tensor":
        """Logits (N, `logits`, H, W) to probabilities of the same shape, 0..1."""

    @abstractmethod
    def actual_name(self, label: str, annotated: bool) -> str:
        """Which of `names` an image is, from its label and whether anything is annotated in it."""

    def check_manifest(self, table: "pd.DataFrame") -> None:
        """Raise `UserError` where labels, annotations and splits of the manifest do not fit the task.

        So it is told before any sample is made; of a test set without annotations nothing is asked.
        """
        annotated = table.assign(annotated=table["foreground"] > 0)
        train = annotated["split"] == "train"
        self.check_training(annotated[train], annotated[annotated["split"].isin(["val", "test"])])

    @abstractmethod
    def check_training(self, train: "pd.DataFrame", val: "pd.DataFrame") -> None:
        """Raise `UserError` where the samples' labels do not fit the task.

        Tables have the columns label and annotated (whether anything is).
        """

    @abstractmethod
    def check_scored(self, images: Sequence["Image"]) -> None:
        """Raise `UserError` that names the first image whose label or annotation does not fit the task."""

    @abstractmethod
    def check_external(self, labels: Iterable[str]) -> None:
        """Raise `UserError` where labels of an external data set are no classes of the task."""


class Binary(Task):
    """Foreground against background, whatever an image's label; one logit per pixel."""

    name: Literal["binary"]

    @property
    def has_classes(self) -> bool:
        """No."""
        return False

    @property
    def logits(self) -> int:
        """One, that of foreground."""
        return 1

    @property
    def names(self) -> list[str]:
        """`empty` and `foreground`."""
        return [EMPTY, FOREGROUND]

    @property
    def colours(self) -> list[Colour]:
        """Red."""
        return [PREDICTION]

    def codes(self, labels: Iterable[str]) -> NDArray[np.uint8]:
        """1 for all."""
        return np.array([1 for _ in labels], np.uint8)

    def probabilities(self, logits: "Tensor") -> "Tensor":
        """The sigmoid: the probability of foreground."""
        return logits.sigmoid()

    def actual_name(self, label: str, annotated: bool) -> str:  # noqa: ARG002  # the label says nothing here
        """`foreground` where anything is annotated."""
        return FOREGROUND if annotated else EMPTY

    def check_training(self, train: "pd.DataFrame", val: "pd.DataFrame") -> None:  # noqa: ARG002
        """Any label will do; something is annotated in train."""
        if not train["annotated"].to_numpy(dtype=bool).any():
            raise UserError(
                "no training sample has an annotated pixel, so there is nothing to learn: are the masks what you mean, "
                "and do they survive the section prepare (see plots/prepare/samples.png)?"
            )

    def check_scored(self, images: Sequence["Image"]) -> None:
        """Any label will do."""

    def check_external(self, labels: Iterable[str]) -> None:
        """Any label will do."""


class Multiclass(Task):
    """Every annotated pixel of an image has the class of the image's label; one logit per class, background first."""

    name: Literal["multiclass"]
    background: Label  # label of images in which nothing is annotated
    labels: Annotated[list[Label], Field(min_length=2, max_length=254)]  # classes 1, 2, ...

    @model_validator(mode="after")
    def _are_distinct(self) -> "Multiclass":
        if len(set(self.names)) < len(self.names):
            raise ValueError(f"background and labels must all differ, not {', '.join(self.names)}")
        return self

    @property
    def has_classes(self) -> bool:
        """Yes."""
        return True

    @property
    def logits(self) -> int:
        """One per class and one for the background, which comes first."""
        return len(self.names)

    @property
    def names(self) -> list[str]:
        """The label of the background, then those of the classes."""
        return [self.background, *self.labels]

    @property
    def colours(self) -> list[Colour]:
        """From the seventh class on they repeat."""
        return [CLASSES[code % len(CLASSES)] for code in range(len(self.labels))]

    def codes(self, labels: Iterable[str]) -> NDArray[np.uint8]:
        """The place of each label in `names`."""
        known = {name: code for code, name in enumerate(self.names)}
        labels = list(labels)
        if unknown := sorted(set(labels) - set(known)):
            raise UserError(
                f"params.yaml: task.labels = {self.labels}: the data also hold the label '{unknown[0]}'; add it, or "
                "make it task.background if nothing is annotated in its images"
            )
        return np.array([known[label] for label in labels], np.uint8)

    def probabilities(self, logits: "Tensor") -> "Tensor":
        """The softmax over background and classes."""
        return logits.softmax(dim=1)

    def actual_name(self, label: str, annotated: bool) -> str:  # noqa: ARG002  # the label alone says it
        """The image's label."""
        return label

    def check_training(self, train: "pd.DataFrame", val: "pd.DataFrame") -> None:
        """Labels are classes, background images hold no annotated pixel, each class is annotated in train."""
        for images in (train, val):
            codes = self.codes(images["label"])
            if images["annotated"].to_numpy(dtype=bool)[codes == 0].any():
                raise UserError(
                    f"params.yaml: task.background = '{self.background}': images with this label have annotated "
                    "pixels; list it in task.labels"
                )
        known = set(train["label"][train["annotated"].to_numpy(dtype=bool)])
        if absent := [label for label in self.labels if label not in known]:
            raise UserError(
                f"params.yaml: task.labels holds '{absent[0]}', of which no training image has an annotated pixel; "
                f"annotated are {', '.join(sorted(known)) or 'none'}"
            )

    def check_scored(self, images: Sequence["Image"]) -> None:
        """Labels are classes of the network, and background images hold no annotated pixel."""
        for image in images:
            if image.label not in self.names:
                raise UserError(
                    f"{image.file}: its label '{image.label}' is no class of the network, which knows "
                    f"{', '.join(self.names)}; see the section task"
                )
            if image.label == self.background and image.foreground > 0:
                raise UserError(
                    f"{image.file}: something is annotated in it, but its label '{image.label}' is task.background; "
                    "list the label in task.labels and train again"
                )

    def check_external(self, labels: Iterable[str]) -> None:
        """Labels are classes of the network."""
        if unknown := sorted(set(labels) - set(self.names)):
            raise UserError(
                f"--label: '{unknown[0]}' is no class of the network, which knows {', '.join(self.names)}; "
                "--label gives images one of these, such as --label '{folder}' with --images '{folder}/{name}.png'"
            )


TaskParams = Annotated[Binary | Multiclass, Field(discriminator="name")]
