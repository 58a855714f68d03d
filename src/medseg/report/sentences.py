"""What the report says in sentences: the run's title, how its figures are computed, and what they do not show."""

from typing import Any

import pandas as pd

from medseg.data.task import TaskParams
from medseg.datasets import is_simulated, title_of
from medseg.evaluation.describe import (
    architecture_in_words,
    counted,
    counting_in_words,
    initial_weights_in_words,
    prediction_in_words,
    score,
)
from medseg.inference.settings import Counting, SegmenterDescription
from medseg.metrics.bootstrap import FEW_GROUPS, RESAMPLES
from medseg.metrics.calibration import BAND
from medseg.metrics.surface import Tolerance
from medseg.models.model_yaml import Training
from medseg.report.metric_text import MINUS

SCORED_ON_VAL = (
    "The epoch and every choice that was left to val were made on the same images that are scored, which flatters the "
    "figures."
)
STRENGTHS = ((0.1, "no relation"), (0.3, "a weak relation"), (0.5, "a moderate relation"), (1.0, "a strong relation"))


def title(parameters: dict[str, Any]) -> str:
    """Model and data set in words; a name that has none stands for itself."""
    model = parameters["model"]
    words = f"{architecture_in_words(model.get('arch', model['name']))} on {title_of(parameters['data']['name'])}"
    return words[:1].upper() + words[1:]


def start(encoder: str | None, training: Training) -> str:
    """The network's encoder, if it has one, and where its initial weights came from."""
    weights = initial_weights_in_words(training)
    return f"{encoder}, started from {weights}" if encoder else f"Started from {weights}"


def method(description: SegmenterDescription, manifest: pd.DataFrame) -> list[str]:
    """How the figures are computed, one thought each."""
    task = description.task
    steps = [
        f"{prediction_in_words(description.geometry, description.overlap)} {_found(description)} Prediction and "
        "truth are compared at the image's own resolution.",
        "Dice is 2 TP / (2 TP + FP + FN) and IoU is TP / (TP + FP + FN), where TP, FP and FN are the pixels rightly "
        "found, wrongly found and not found. Precision is TP / (TP + FP), recall is TP / (TP + FN), accuracy is the "
        "share of pixels on which both agree.",
        "The primary figures are means over images in which the truth marks something, each image counting the same. "
        "An image in which nothing of the truth was found counts as missed: its Dice, IoU, precision and recall are 0.",
        "Images in which the truth marks nothing have no Dice. They are judged apart, by the share of them in which "
        "anything was found, and by the area found.",
        "Pooled figures count the pixels of all images together, so large objects weigh more. They are given to "
        "compare with papers that report them.",
        *_surface_steps(description.scoring.tolerance),
        *_object_steps(description.scoring.counting),
        f"Intervals hold 95 %: percentile bootstrap with {RESAMPLES} resamples of whole groups (images of one patient "
        "and near-duplicates), as images of one group are not independent.",
        f"The epoch was chosen by its Dice on val{_chosen(description)} at the size of the network's samples.",
    ]
    if _has_windows(manifest):
        steps.insert(1, "Pixels count inside each image's annotated window alone; thumbnails show that window.")
    if task.has_classes:
        steps[-1:-1] = _class_steps(task)
    return steps


def limits(
    parameters: dict[str, Any], audit: dict[str, Any], metrics: dict[str, Any], table: pd.DataFrame
) -> list[str]:
    """What the figures do not show, from what is known of data and run."""
    found = [
        "The intervals show the chance of which images were scored. They do not show the chance of training: this is "
        f"one run with one seed ({parameters['seed']}), and another seed gives other figures.",
        "All splits come from one data set. Images from other devices, sites or patients may score lower.",
        "The truth masks are taken as they are; how far annotators would agree is not known here.",
    ]
    simulated = is_simulated(parameters["data"]["name"])
    if simulated:
        found.insert(0, "The images are simulated. No figure here says how well patients' images would be segmented.")
    if metrics["split"] == "val":
        found.insert(0, SCORED_ON_VAL)
    groups = table.loc[table["split"] == metrics["split"], "group"].nunique()
    if groups < FEW_GROUPS:
        found.append(
            f"The scored images form {counted(groups, 'group')}. With fewer than {FEW_GROUPS}, bootstrap intervals are "
            "too narrow; so are those of small strata."
        )
    else:
        found.append(f"Intervals of strata with fewer than {FEW_GROUPS} groups are too narrow.")
    unknown = int((table["patient"] == "").sum())
    if unknown and not simulated:
        found.append(
            f"The patient is not known for {unknown} of {counted(len(table), 'image')}. Near-duplicates are found by "
            "perceptual hash alone, so images of one patient may lie on both sides of the split."
        )
    if audit["straddling_groups"]:
        found.append(
            "Groups of near-duplicates or of one patient with images on both sides of the split: "
            f"{audit['straddling_groups']}. This flatters the figures."
        )
    return found


def calibration(ece: float | None, pixels: int) -> str:
    """What the reliability curve shows, and of which pixels."""
    return (
        f"Expected calibration error {score(ece)}, over {pixels:,} pixels: those of objects, annotated or found, and "
        f"those within {100 * BAND:g} % of the region's diagonal around them. Plain background far from any object, "
        "where every network is rightly sure, is left out. On the diagonal a probability of 0.8 is right eight times "
        "in ten; below it the network is too sure of foreground."
    )


def uncertainty(correlation: float | None, images: int) -> str:
    """How far uncertainty tells which images go wrong."""
    if correlation is None:
        return "Whether uncertain images have a lower Dice can't be told: there are too few images, or all are alike."
    strength = next(words for limit, words in STRENGTHS if abs(correlation) <= limit)
    shown = f"{correlation:.2f}".replace("-", MINUS)
    rank = f"Spearman's rank correlation of uncertainty and Dice over {counted(images, 'image')} is {shown}, {strength}"
    if abs(correlation) <= STRENGTHS[0][0]:
        return f"{rank}: uncertainty does not tell here which images go wrong."
    if correlation > 0:
        return f"{rank}, and not the expected one: the more uncertain images have the higher Dice."
    return f"{rank}: the more uncertain an image, the lower its Dice."


def uncertainty_meaning(orientations: str) -> str:
    """What is shown as uncertainty."""
    ways = {
        "mirror": "as it is and mirrored left to right",
        "flips": "as it is and mirrored (4 ways)",
        "flips_and_turns": "mirrored and turned (up to 8 ways)",
    }
    return (
        "Uncertainty is the standard deviation of the foreground probability over the orientations in which the "
        f"image was predicted, {ways[orientations]}: from 0 to 0.5, in and around objects. It shows where the "
        "network contradicts itself, not where it is wrong for sure of itself."
    )


def call_rule(task: TaskParams) -> str:
    """How an image as a whole is given a class."""
    return (
        "An image is called the class that most of the pixels found in it have; of classes with equally many, the "
        f"first of {', '.join(task.class_names)}. An image in which nothing is found is called {task.names[0]}."
    )


def audit_rows(audit: dict[str, Any]) -> list[tuple[str, str]]:
    """The audit's counts, each with what it counts."""
    height, width, foreground = audit["sizes"]["height"], audit["sizes"]["width"], audit["foreground"]
    return [
        ("Images", str(audit["images"])),
        ("Files skipped as unusable", str(audit["skipped"])),
        ("Images dropped by the split", str(audit["dropped"])),
        ("Images with nothing annotated", str(audit["empty_masks"])),
        ("Masks that look inverted", str(audit["inverted_masks"])),
        ("Repeated files, same bytes", str(audit["repeated_files"])),
        ("Groups of near-duplicates or of one patient", str(audit["groups_of_several"])),
        ("Of these, on more than one side of the split", str(audit["straddling_groups"])),
        ("Of these, with different labels", str(audit["groups_with_several_labels"])),
        ("Width in pixels", f"{width['least']} to {width['most']}"),
        ("Height in pixels", f"{height['least']} to {height['most']}"),
        (
            "Annotated share of an image",
            f"mean {100 * foreground['mean']:.1f} %, most {100 * foreground['most']:.1f} %",
        ),
    ]


def _found(description: SegmenterDescription) -> str:
    threshold = description.chosen.choices.postprocess.threshold
    if not description.task.has_classes:
        return f"A pixel counts as found where its probability is at least {threshold:g}."
    return (
        f"A pixel counts as found where the probabilities of {' and '.join(description.task.class_names)} together are "
        f"at least {threshold:g}; its class is the most probable of these."
    )


def _chosen(description: SegmenterDescription) -> str:
    if not description.task.has_classes:
        return ", pooled over pixels"
    names = ", ".join(description.task.class_names)
    return f": the mean over {names} of each class's Dice, pooled over all pixels of val,"


def _class_steps(task: TaskParams) -> list[str]:
    return [
        "In the truth every annotated pixel has the class of its image's label. The primary figures ask only whether a "
        "pixel belongs to any class, as those of a network that knows foreground alone.",
        "Figures by class are means over the images of that class, in which only pixels found as that class count as "
        "found. A class's pooled Dice counts the pixels of all images, so pixels found as that class in images of "
        f"another class, or in those labelled {task.names[0]}, lower it.",
        call_rule(task),
    ]


def _surface_steps(tolerance: Tolerance) -> list[str]:
    return [
        "HD95 and ASSD are the 95th percentile and the mean of the distances between both outlines, in pixels of the "
        "image. Where nothing was found they are the diagonal of the scored region: a missed object is never left "
        "out.",
        f"Surface Dice is the share of both outlines that lies within {tolerance.pixels:g} px, or within "
        f"{100 * tolerance.diagonal:g} % of the region's diagonal, of the other. Area error is (found \N{MINUS SIGN} "
        "annotated) / annotated.",
    ]


def _object_steps(counting: Counting) -> list[str]:
    return [
        "Objects are connected pixels (8 neighbours). An object of the truth is detected where one that was found "
        "overlaps it with an IoU over 0.5; else it is missed. Objects found without such a partner are false. "
        "F1 is 2 detected / (objects of the truth + objects found).",
        f"For counts, objects of the truth: {counting_in_words(counting.truth)}; of the prediction: "
        f"{counting_in_words(counting.prediction)}.",
        "The strata small, medium and large are thirds of the scored images by the annotated share of their area.",
    ]


def _has_windows(manifest: pd.DataFrame) -> bool:
    rows = zip(manifest["region"], manifest["height"], manifest["width"], strict=True)
    return any(region != f"0:0:{height}:{width}" for region, height, width in rows)
