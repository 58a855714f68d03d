"""A model and its figures in words, for those who read of it in a report or a model card."""

import math

from medseg.data.geometry import Geometry, Patchify, Scale
from medseg.inference.settings import Augmentation, Choices
from medseg.metrics.counting import CountingParams
from medseg.models.model_yaml import Training
from medseg.models.params import Encoded, Library, ModelParams

ABSENT = "\N{EN DASH}"  # for a figure that is not defined
MODEL_IN_WORDS = {
    "unet": "U-Net",
    "unet_plain": "plain U-Net",
    "segnet": "SegNet",
    "pspnet": "PSPNet",
    "improved_unet": "Improved U-Net",
    "cmunext": "CMUNeXt",
    "unetplusplus": "U-Net++",
    "manet": "MA-Net",
    "linknet": "LinkNet",
    "fpn": "FPN",
    "pan": "PAN",
    "deeplabv3": "DeepLabV3",
    "deeplabv3plus": "DeepLabV3+",
    "upernet": "UPerNet",
    "segformer": "SegFormer",
}
WEIGHTS_IN_WORDS = {
    "packaged": "ImageNet weights from a package",
    "placed": "ImageNet weights from a placed file",
    "hub": "ImageNet weights from the hub",
    "random": "random weights",
}
ORIENTATIONS_IN_WORDS: dict[Augmentation, str] = {
    "none": "no",
    "mirror": "mean over the image and its mirror image",
    "flips": "mean over 4 flips",
    "flips_and_turns": "mean over 8 flips and quarter turns",
}


def architecture_in_words(name: str) -> str:
    """An architecture by `model.name`, or by `model.arch` for those of the library; else the name itself."""
    return MODEL_IN_WORDS.get(name, name)


def network_in_words(model: ModelParams) -> str:
    """The network's architecture, with its encoder where it has one."""
    words = architecture_in_words(model.arch if isinstance(model, Library) else model.name)
    return f"{words} over the encoder {model.encoder}" if isinstance(model, Encoded) else words


def initial_weights_in_words(training: Training) -> str:
    """Where the weights came from that training started with."""
    initial_network = training.initial_network
    if initial_network is None:
        return WEIGHTS_IN_WORDS[training.initial_weights]
    weights = f"weights of an initial network, {initial_network.name}"
    if not initial_network.continued:
        return weights
    return (
        f"{weights}, continued after {counted(initial_network.epochs_before, 'epoch')} with its optimiser and schedule"
    )


def prediction_in_words(geometry: Geometry, overlap: float) -> str:
    """How an image of any size becomes probabilities, as a sentence."""
    if isinstance(geometry, Patchify):
        return (
            f"Each image is predicted in patches of {geometry.patch}x{geometry.patch} that overlap by "
            f"{100 * overlap:g} %, and the probabilities are joined."
        )
    if isinstance(geometry, Scale):
        return f"Each image is scaled by {geometry.factor:g}, predicted, and its probabilities are scaled back."
    shape = "aspect kept, padded" if geometry.aspect == "keep" else "aspect not kept"
    return (
        f"Each image is resized to {geometry.width}x{geometry.height} ({shape}), predicted, and its probabilities "
        "are resized back."
    )


def choices_in_words(choices: Choices) -> dict[str, str]:
    """Every step from a network's probabilities to a mask, in the order in which it is done, and how it is set."""
    crf, last = choices.crf, choices.postprocess
    return {
        "Test-time augmentation": ORIENTATIONS_IN_WORDS[choices.test_time_augmentation],
        "Dense CRF": "no" if crf is None else f"{counted(crf.iterations, 'iteration')} of mean-field inference",
        "Threshold": f"{last.threshold:g}",
        "Holes filled": "yes" if last.fill_holes else "no",
        "Objects dropped": f"of fewer than {last.smallest_object} pixels" if last.smallest_object > 1 else "none",
        "Largest object alone": "yes" if last.largest_component else "no",
    }


def counting_in_words(rule: CountingParams) -> str:
    """What counts as one object, as part of a sentence."""
    dropped = f"those of fewer than {rule.smallest} pixels dropped" if rule.smallest > 1 else "none dropped"
    if not rule.split:
        return f"{dropped}, touching ones counted as one"
    return f"{dropped}, touching ones told apart by watershed (depth {rule.depth:g} pixels)"


def score(value: float | None, form: str = ".3f") -> str:
    """A figure with three decimals, or as `form` says; a dash where it is not defined: None or NaN."""
    return ABSENT if value is None or math.isnan(value) else f"{value:{form}}"


def spread(mean: float | None, low: float | None, high: float | None) -> str:
    """A mean with its interval, each as `score` writes it: `0.812 (0.790 to 0.833)`."""
    return f"{score(mean)} ({score(low)} to {score(high)})"


def counted(number: int, noun: str) -> str:
    """A number with its noun: `1 image`, `2 images`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
