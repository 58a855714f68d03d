"""What the report says in sentences: the run's title, how its figures are computed, and what they do not show."""

from typing import Any

import pandas as pd

from medseg.description import Description
from medseg.geometry import Geometry, Patchify, Scale

DATA_IN_WORDS = {
    "phantom": "simulated breast ultrasound",
    "busi": "BUSI breast ultrasound",
    "isic2017": "ISIC 2017 skin lesions",
    "cryonuseg": "nuclei in CryoNuSeg tissue",
    "ucsb": "nuclei in UCSB breast tissue",
    "folder": "pictures from a folder",
}
MODEL_IN_WORDS = {"unet": "U-Net"}
WEIGHTS_IN_WORDS = {
    "packaged": "ImageNet weights from a package",
    "placed": "ImageNet weights from a placed file",
    "hub": "ImageNet weights from the hub",
    "random": "random weights",
}


def title(parameters: dict[str, Any]) -> str:
    """Model and data set in words; a name that has none stands for itself."""
    model, data = parameters["model"]["name"], parameters["data"]["name"]
    return f"{MODEL_IN_WORDS.get(model, model)} on {DATA_IN_WORDS.get(data, data)}"


def encoder(parameters: dict[str, Any], origin: str) -> str:
    """The network's encoder and where its first weights came from."""
    name = parameters["model"].get("encoder")
    weights = WEIGHTS_IN_WORDS[origin]
    return f"{name}, started from {weights}" if name else f"started from {weights}"


def method(description: Description, overlap: float, manifest: pd.DataFrame) -> list[str]:
    """How the figures are computed, one thought each."""
    steps = [
        f"{_prediction(description.geometry, overlap)} A pixel counts as found where its probability is at least "
        f"{description.threshold:g}. Prediction and truth are compared at the picture's own resolution.",
        "Dice is 2 TP / (2 TP + FP + FN) and IoU is TP / (TP + FP + FN), where TP, FP and FN are the pixels rightly "
        "found, wrongly found and not found. Precision is TP / (TP + FP), recall is TP / (TP + FN), accuracy is the "
        "share of pixels on which both agree.",
        "The primary figures are means over images in which the truth marks something, each image counting the same. "
        "An image in which nothing of the truth was found counts as missed: its Dice, IoU, precision and recall are 0.",
        "Images in which the truth marks nothing have no Dice. They are judged apart, by the share of them in which "
        "anything was found, and by the area found.",
        "Pooled figures count the pixels of all images together, so large objects weigh more. They are given to "
        "compare with papers that report them.",
        "The epoch was chosen by its Dice on val, pooled over pixels at the size of the network's samples.",
    ]
    if _has_windows(manifest):
        steps.insert(1, "Pixels count inside each picture's annotated window alone; thumbnails show that window.")
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
