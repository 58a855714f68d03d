"""What each choice of the section `evaluate` brought on val, and which were set instead."""

from dataclasses import dataclass
from typing import Any

from medseg.evaluation.tuning import ChoiceParams
from medseg.inference.settings import Chosen, Option
from medseg.report.metric_text import signed

IN_WORDS = {
    "test_time_augmentation": "Test-time augmentation",
    "threshold": "Threshold",
    "crf": "Dense CRF",
    "fill_holes": "Holes filled",
    "smallest_object": "Smallest object kept, px",
    "largest_component": "Largest object alone kept",
}
SIMPLEST = {
    "test_time_augmentation": "none",
    "threshold": "0.5",
    "crf": "never",
    "fill_holes": "never",
    "smallest_object": "0",
    "largest_component": "never",
}


@dataclass(frozen=True)
class Decision:
    """One choice; where it was set, not chosen, `option` is None."""

    name: str
    simplest: str
    used: str
    option: Option | None

    @property
    def gain(self) -> str:
        """How much higher Dice on val is with the best other value than with the simplest, signed."""
        if self.option is None:
            return ""
        return signed(round(self.option.other - self.option.simplest, 6))


def decisions(chosen: Chosen, parameters: dict[str, Any]) -> list[Decision]:
    """All choices in the order of choosing; `parameters` is the section evaluate, which says what was set."""
    by_key = {option.option.removesuffix(".use"): option for option in chosen.options}
    settings = {key: parameters[key] for key in ChoiceParams.model_fields} | {"crf": parameters["crf"]["use"]}
    return [
        Decision(IN_WORDS[key], SIMPLEST[key], _used(key, by_key.get(key), settings), by_key.get(key))
        for key in IN_WORDS
    ]


def _used(key: str, option: Option | None, settings: dict[str, Any]) -> str:
    if option is not None:
        return option.chosen
    return SIMPLEST[key] if settings[key] == "val" else str(settings[key])
