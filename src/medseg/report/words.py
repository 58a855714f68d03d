"""What the report says in sentences: the run's title, how its figures are computed, and what they do not show."""

from typing import Any

import pandas as pd

from medseg.classes import Multiclass
from medseg.description import Training
from medseg.geometry import Geometry, Patchify, Scale
from medseg.segmenter import SegmenterDescription

DATA_IN_WORDS = {
    "phantom": "simulated breast ultrasound",
    "busi": "BUSI breast ultrasound",
    "isic2017": "ISIC 2017 skin lesions",
    "cryonuseg": "nuclei in CryoNuSeg tissue",
    "ucsb": "nuclei in UCSB breast tissue",
    "folder": "pictures from a folder",
}
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


def title(parameters: dict[str, Any]) -> str:
    """Model and data set in words; a name that has none stands for itself."""
    model, data = parameters["model"], parameters["data"]["name"]
    name = model.get("arch", model["name"])
    words = f"{MODEL_IN_WORDS.get(name, name)} on {DATA_IN_WORDS.get(data, data)}"
    return words[:1].upper() + words[1:]


def start(encoder: str | None, training: Training) -> str:
    """The network's encoder, if it has one, and where its first weights came from."""
    weights = _first_weights(training)
    return f"{encoder}, started from {weights}" if encoder else f"Started from {weights}"


def method(description: SegmenterDescription, manifest: pd.DataFrame) -> list[str]:
    """How the figures are computed, one thought each."""
    task = description.task
    steps = [
        f"{_prediction(description.geometry, description.overlap)} {_found(description)} Prediction and "
        "truth are compared at the picture's own resolution.",
        "Dice is 2 TP / (2 TP + FP + FN) and IoU is TP / (TP + FP + FN), where TP, FP and FN are the pixels rightly "
        "found, wrongly found and not found. Precision is TP / (TP + FP), recall is TP / (TP + FN), accuracy is the "
        "share of pixels on which both agree.",
        "The primary figures are means over images in which the truth marks something, each image counting the same. "
        "An image in which nothing of the truth was found counts as missed: its Dice, IoU, precision and recall are 0.",
        "Images in which the truth marks nothing have no Dice. They are judged apart, by the share of them in which "
        "anything was found, and by the area found.",
        "Pooled figures count the pixels of all images together, so large objects weigh more. They are given to "
        "compare with papers that report them.",
        f"The epoch was chosen by its Dice on val{_chosen(description)} at the size of the network's samples.",
    ]
    if _has_windows(manifest):
        steps.insert(1, "Pixels count inside each picture's annotated window alone; thumbnails show that window.")
    if isinstance(task, Multiclass):
        steps[-1:-1] = _class_steps(task)
    return steps


def limits(
    parameters: dict[str, Any], audit: dict[str, Any], metrics: dict[str, Any], table: pd.DataFrame
) -> list[str]:
    """What the figures do not show, from what is known of data and run."""
    found = [
        f"One training run, scored on {counted(metrics['images'] + metrics['empty']['images'], 'image')}: the figures "
        "carry chance that is not shown.",
        "All splits come from one data set. Pictures from other devices, sites or patients may score lower.",
        "The truth masks are taken as they are; how far annotators would agree is not known here.",
    ]
    simulated = parameters["data"]["name"] == "phantom"
    if simulated:
        found.insert(
            0, "The pictures are simulated. No figure here says how well patients' pictures would be segmented."
        )
    if metrics["split"] == "val":
        found.insert(0, "The best epoch was chosen on the same images that are scored, which flatters the figures.")
    unknown = int((table["patient"] == "").sum())
    if unknown and not simulated:
        found.append(
            f"The patient is not known for {unknown} of {counted(len(table), 'picture')}. Near-duplicates are found by "
            "perceptual hash alone, so pictures of one patient may lie on both sides of the split."
        )
    if audit["straddling_groups"]:
        found.append(
            "Groups of near-duplicates or of one patient with pictures on both sides of the split: "
            f"{audit['straddling_groups']}. This flatters the figures."
        )
    return found


def call_rule(task: Multiclass) -> str:
    """How a picture as a whole is given a class."""
    return (
        "A picture is called the class that most of the pixels found in it have; of classes with equally many, the "
        f"first of {', '.join(task.labels)}. A picture in which nothing is found is called {task.background}."
    )


def audit_rows(audit: dict[str, Any]) -> list[tuple[str, str]]:
    """The audit's counts, each with what it counts."""
    height, width, foreground = audit["sizes"]["height"], audit["sizes"]["width"], audit["foreground"]
    return [
        ("Pictures", str(audit["pictures"])),
        ("Files skipped as unusable", str(audit["skipped"])),
        ("Pictures dropped by the split", str(audit["dropped"])),
        ("Pictures with nothing marked", str(audit["empty_masks"])),
        ("Repeated files, same bytes", str(audit["repeated_files"])),
        ("Groups of near-duplicates or of one patient", str(audit["groups_of_several"])),
        ("Of these, on more than one side of the split", str(audit["straddling_groups"])),
        ("Of these, with different labels", str(audit["groups_with_several_labels"])),
        ("Width in pixels", f"{width['least']} to {width['most']}"),
        ("Height in pixels", f"{height['least']} to {height['most']}"),
        ("Marked share of a picture", f"mean {100 * foreground['mean']:.1f} %, most {100 * foreground['most']:.1f} %"),
    ]


def counted(number: int, noun: str) -> str:
    """A number with its noun: `1 image`, `2 images`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _first_weights(training: Training) -> str:
    former = training.former
    if former is None:
        return WEIGHTS_IN_WORDS[training.first_weights]
    weights = f"weights of a former network, {former.name}"
    if not former.continued:
        return weights
    return f"{weights}, continued after {counted(former.epochs_behind, 'epoch')} with its optimiser and schedule"


def _found(description: SegmenterDescription) -> str:
    if not isinstance(description.task, Multiclass):
        return f"A pixel counts as found where its probability is at least {description.chosen.choices.postprocess.threshold:g}."
    return (
        f"A pixel counts as found where the probabilities of {' and '.join(description.task.labels)} together are at "
        f"least {description.chosen.choices.postprocess.threshold:g}; its class is the most probable of these."
    )


def _chosen(description: SegmenterDescription) -> str:
    if not isinstance(description.task, Multiclass):
        return ", pooled over pixels"
    return f": the mean over {', '.join(description.task.labels)} of each class's Dice, pooled over all pixels of val,"


def _class_steps(task: Multiclass) -> list[str]:
    return [
        "In the truth every marked pixel has the class of its picture's label. The primary figures ask only whether a "
        "pixel belongs to any class, as those of a network that knows foreground alone.",
        "Figures by class are means over the pictures of that class, in which only pixels found as that class count as "
        "found. A class's pooled Dice counts the pixels of all pictures, so pixels found as that class in pictures of "
        f"another class, or in those labelled {task.background}, lower it.",
        call_rule(task),
    ]


def _prediction(geometry: Geometry, overlap: float) -> str:
    if isinstance(geometry, Patchify):
        return (
            f"Each picture is predicted in patches of {geometry.patch}x{geometry.patch} that overlap by "
            f"{100 * overlap:g} %, and the probabilities are joined."
        )
    if isinstance(geometry, Scale):
        return f"Each picture is scaled by {geometry.factor:g}, predicted, and its probabilities are scaled back."
    shape = "aspect kept, padded" if geometry.aspect == "keep" else "aspect not kept"
    return (
        f"Each picture is resized to {geometry.width}x{geometry.height} ({shape}), predicted, and its probabilities "
        "are resized back."
    )


def _has_windows(manifest: pd.DataFrame) -> bool:
    rows = zip(manifest["region"], manifest["height"], manifest["width"], strict=True)
    return any(region != f"0:0:{height}:{width}" for region, height, width in rows)
