"""All that turns a network into a predictor, as `model.yaml` of `models/segmenter` records it."""

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
    """What was chosen, for `model.yaml`: all that leads from a network's probabilities to a mask."""

    test_time_augmentation: Augmentation
    crf: CrfParams | None  # None: not used
    postprocess: Postprocess


class Option(Section):
    """What one choice brought on val, beside the choices made before it and those that were not val's to make.

    Dice is the mean over the images of val whose truth is not empty, foreground of any class against background.
    """

    option: str  # its key in the section evaluate
    simplest: float = Field(ge=0, le=1)  # Dice with its simplest value: 0.5, none, never, 0
    other: float = Field(ge=0, le=1)  # Dice with the best of its other values
    tried: str  # that value
    chosen: str


class Chosen(Section):
    """The choices, and how they came to be."""

    choices: Choices
    options: list[Option]  # in the order of choosing; empty where val chose nothing
    images: int = Field(ge=0)  # of val with foreground that they were chosen on; 0 where val chose nothing
    warnings: list[str]


class Counting(Section):
    """What counts as one object where objects are counted, touching ones told apart."""

    truth: CountingParams
    prediction: CountingParams  # as of the truth, or what came nearest to the counts of the truth on val


class Scoring(Section):
    """By which rules masks are scored."""

    tolerance: Tolerance
    counting: Counting
    uncertainty: Augmentation  # the orientations over which the map of uncertainty is taken


class SegmenterDescription(Description):
    """`model.yaml` of a segmenter: that of its network, how masks are made, and how they are scored."""

    overlap: float = Field(ge=0, lt=0.95)  # of neighbouring tiles, as a share of their side
    chosen: Chosen
    scoring: Scoring
