"""The settings of prediction, as `model.yaml` of `models/segmenter` records them."""

from typing import Literal

from pydantic import Field

from medseg.core.params import Section
from medseg.inference.crf import CrfParams
from medseg.inference.postprocess import Postprocess
from medseg.metrics.counting import CountingParams
from medseg.metrics.surface import Tolerance
from medseg.models.model_yaml import Description

Augmentation = Literal["none", "mirror", "flips", "flips_and_turns"]


class Choices(Section):
    """The settings between a network's probabilities and a mask."""

    test_time_augmentation: Augmentation
    crf: CrfParams | None  # None: not used
    postprocess: Postprocess


class Option(Section):
    """One setting that was chosen on the validation set, given the settings chosen before it and the fixed ones.

    Dice is the mean over validation images with foreground, of any class against background.
    """

    option: str  # the setting's key in the section evaluate
    simplest: float = Field(ge=0, le=1)  # Dice with its simplest value: 0.5, none, never, 0
    other: float = Field(ge=0, le=1)  # Dice with the best of its other values: by its lead less the lead's error
    tried: str  # that other value
    error: float = Field(ge=0)  # standard error over groups of the difference of both; a lead within it is not taken
    chosen: str  # the value that was chosen


class Chosen(Section):
    """The settings and how they were chosen."""

    choices: Choices
    options: list[Option]  # in the order of choosing; empty where all settings were fixed
    images: int = Field(ge=0)  # validation images with foreground; 0 where all settings were fixed
    groups: int = Field(ge=0)  # of these images
    warnings: list[str]


class Counting(Section):
    """The rules by which objects are counted: which are too small, and whether touching ones are separated."""

    truth: CountingParams
    prediction: CountingParams  # that of the truth, or the one that counted best on the validation set


class Scoring(Section):
    """The rules by which masks are scored."""

    tolerance: Tolerance
    counting: Counting
    uncertainty: Augmentation  # the orientations of the uncertainty map


class SegmenterDescription(Description):
    """`model.yaml` of `models/segmenter`: the network's description, the settings of prediction and of scoring."""

    overlap: float = Field(ge=0, lt=0.95)  # of neighbouring tiles, as a fraction of their side
    chosen: Chosen
    scoring: Scoring
