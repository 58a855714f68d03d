"""The model card: what a stranger has to know before taking `models/segmenter` away.

Its sections follow Mitchell et al., "Model Cards for Model Reporting", FAT* 2019, section 4; what they hold is what
the CLAIM checklist asks of studies of AI in medical imaging (Tejani et al., Radiology: Artificial Intelligence 6(4),
2024): data and their partitions, model and training, how it was chosen, measures with their uncertainty, limits.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from medseg.core.files import write_text
from medseg.core.markdown import plain, table
from medseg.datasets import is_simulated, title_of
from medseg.evaluation.describe import (
    choices_in_words,
    counted,
    counting_in_words,
    initial_weights_in_words,
    network_in_words,
    prediction_in_words,
    score,
    spread,
)
from medseg.inference.settings import SegmenterDescription
from medseg.metrics.bootstrap import FEW_GROUPS, RESAMPLES

CARD = "README.md"
BY_STRATUM = ("dice", "iou", "hd95", "nsd")
SPLITS = ("train", "val", "test", "dropped")
NO_DEVICE = (
    "**Research software, no medical device.** Not to diagnose or to treat anybody, nor to stand in for the judgement "
    "of a clinician. No figure here says anything about a patient."
)
USAGE = """With `medseg` installed, FOLDER being the one that holds this card:

```
medseg predict IMAGES... --model FOLDER --out DIR    # masks, overlays, probabilities, contours, a table
medseg evaluate --model FOLDER --data DIR --out DIR --images 'images/{name}.png' --masks 'masks/{name}.png'
medseg export --model FOLDER --out segmenter.onnx      # one file that needs no PyTorch
```

`medseg evaluate` scores it on images and masks of your own, with what was chosen here. Do that before you believe it
on images from elsewhere. `model.yaml` rebuilds the model and holds all choices, `weights.safetensors` its weights."""

Metrics = Mapping[str, Any]


def write_card(
    folder: Path, description: SegmenterDescription, audit: Metrics, metrics: Metrics, figures: pd.DataFrame
) -> None:
    """Write `README.md` into a segmenter's folder.

    `audit` is what `audit.audit` gives, `metrics` what `summary.summarise` does, `figures` what `summary.summary_table`
    does. The text holds no clock, path, revision or machine: equal inputs give equal bytes.
    """
    write_text(folder / CARD, card_text(description, audit, metrics, figures))


def card_text(description: SegmenterDescription, audit: Metrics, metrics: Metrics, figures: pd.DataFrame) -> str:
    """The card as Markdown; all that stems from data is escaped."""
    data = plain(title_of(audit["data"]))
    sections = {
        "Warnings": _warnings(description),
        "Model": [_model(description)],
        "Intended use": _intended_use(data),
        "Data": _data(audit, data),
        "How a mask is made, and how that was chosen": _protocol(description, metrics["split"]),
        "Figures": list(_figures(description, metrics, figures)),
        "Limits": [_bullets(_limits(audit, metrics, figures))],
        "How to use it": [USAGE],
    }
    head = [f"# Model card: {plain(network_in_words(description.model))}, {data}", f"> {NO_DEVICE}", _short(metrics)]
    body = [part for title, parts in sections.items() if parts for part in (f"## {title}", *parts)]
    return "\n\n".join([*head, *body]) + "\n"


def _short(metrics: Metrics) -> str:
    dice, iou = (spread(*(metrics[f"{name}{part}"] for part in ("", "_low", "_high"))) for name in ("dice", "iou"))
    return (
        f"In short: Dice {dice} and IoU {iou}, means with 95 % intervals over {counted(metrics['images'], 'image')} "
        f"of {metrics['split']} in which something is annotated; missed altogether: {metrics['missed']}."
    )


def _warnings(description: SegmenterDescription) -> list[str]:
    warnings = [*description.training.warnings, *description.chosen.warnings]
    return [_bullets(plain(warning) for warning in warnings)] if warnings else []


def _model(description: SegmenterDescription) -> str:
    training, model = description.training, description.model
    colours = "grey" if description.channels == 1 else "RGB"
    mean, deviation = (" ".join(f"{value:g}" for value in values) for values in (model.input_mean, model.input_std))
    rows = {
        "Network": plain(network_in_words(model)),
        "Initial weights": plain(initial_weights_in_words(training)),
        "Training": f"{counted(training.epochs, 'epoch')} of {training.samples} samples; the weights are those of "
        f"epoch {training.best_epoch}. Loss, optimiser, augmentation and seed stand in the run's params.yaml",
        "Input": f"an image of any size, 8 bits a channel, grey or colour; taken as {colours} (channels: "
        f"{description.channels}), scaled to 0..1, mean {mean} and standard deviation {deviation} taken out",
        "Size": prediction_in_words(description.geometry, description.overlap),
        "Output": _output(description),
        "Made with": ", ".join(f"{plain(name)} {plain(version)}" for name, version in training.packages.items()),
    }
    return _listing("part", "what it is", rows.items())


def _output(description: SegmenterDescription) -> str:
    task = description.task
    if not task.has_classes:
        return "at the image's own resolution: the probability of foreground, and a mask of 0 and 1"
    codes = ", ".join(f"{code} {plain(name)}" for code, name in enumerate(task.class_names, start=1))
    return (
        f"at the image's own resolution: a probability for each class, and a mask of codes: 0 background, {codes}. "
        "In training, everything annotated in an image had the class of the image's label"
    )


def _intended_use(data: str) -> list[str]:
    return [
        f"For research on segmentation, on images like those that it was trained on and scored on: {data}. For "
        "researchers who can judge a mask by eye and a figure by its interval.",
        "Not for diagnosis, treatment, triage or any decision on a person; not for images from other devices, of "
        "other organs or in other stains unless it was scored on such images first (`medseg evaluate`, below).",
    ]


def _data(audit: Metrics, data: str) -> list[str]:
    splits = [split for split in SPLITS if split in audit["splits"]]
    by_split = audit["labels_by_split"]
    rows = [
        [plain(label), *(str(by_split[split].get(label, 0)) for split in splits), str(number)]
        for label, number in audit["labels"].items()
    ]
    rows.append(["all", *(str(audit["splits"][split]) for split in splits), str(audit["images"])])
    head = f"Data set {plain(audit['data'])}: {data}. Images by label and split:"
    return [head, table(["label", *splits, "all"], rows), _bullets(_audit_facts(audit))]


def _audit_facts(audit: Metrics) -> list[str]:
    height, width, foreground = audit["sizes"]["height"], audit["sizes"]["width"], audit["foreground"]
    return [
        f"Images in which nothing is annotated: {audit['empty_masks']}. Annotated share of an image: mean "
        f"{100 * foreground['mean']:.1f} %, most {100 * foreground['most']:.1f} %.",
        f"Width {width['least']} to {width['most']}, height {height['least']} to {height['most']} pixels.",
        f"Groups of several images (near-duplicates by perceptual hash, or one known patient): "
        f"{audit['groups_of_several']}. Of these on more than one side of the split: {audit['straddling_groups']}; "
        f"with different labels: {audit['groups_with_several_labels']}.",
        f"Masks that look inverted: {audit['inverted_masks']}.",
        f"Repeated files, same bytes: {audit['repeated_files']}. Skipped as unusable: {audit['skipped']}. Dropped by "
        f"the split: {audit['dropped']}.",
    ]


def _protocol(description: SegmenterDescription, split: str) -> list[str]:
    training, chosen = description.training, description.chosen
    steps = [[step, setting] for step, setting in choices_in_words(chosen.choices).items()]
    pooled = "mean over classes, each pooled" if description.task.has_classes else "pooled"
    epoch = (
        f"The epoch was chosen by its Dice on val, {pooled} over pixels at the size of the network's samples: "
        f"{training.val_dice:.3f} in epoch {training.best_epoch}."
    )
    if split == "test":
        epoch += " Test chose nothing: it was read once, after all choices."
    if not chosen.options:
        return [epoch, _listing("step", "setting", steps), "All steps were set beforehand; val chose none of them."]
    options = [
        [plain(option.option), score(option.simplest), score(option.other), option.tried, option.chosen]
        for option in chosen.options
    ]
    how = (
        f"Chosen one after the other on the {counted(chosen.images, 'image')} of val in which something is annotated, "
        "by their mean Dice; a step is taken only if it raises that Dice. These Dice flatter: they are of the images "
        "that chose. What is not listed was set beforehand."
    )
    columns = ["choice", "Dice, simplest value", "Dice, best other", "that value", "chosen"]
    return [epoch, _listing("step", "setting", steps), how, table(columns, options)]


def _figures(description: SegmenterDescription, metrics: Metrics, figures: pd.DataFrame) -> Iterator[str]:
    """The section's paragraphs and tables."""
    tolerance = description.scoring.tolerance
    names = _figure_names(tolerance.pixels, tolerance.diagonal)
    yield _meaning(metrics)
    of_all = _rows(figures, "all")
    yield table(
        ["figure", "mean", "95 % interval", "images", "groups"],
        [
            [heading, score(row["mean"]), _bounds(row["low"], row["high"]), str(row["images"]), str(row["groups"])]
            for heading, row in ((heading, of_all[name]["all"]) for name, heading in names.items() if name in of_all)
        ],
    )
    for kind, title in (("label", "label"), ("size", "size: thirds of the images by the share that is annotated")):
        if rows := _stratum_rows(figures, kind):
            yield f"By {title}:"
            yield table([kind, "images", "groups", "missed", *(names[name] for name in BY_STRATUM)], rows)
    if description.task.has_classes:
        yield "By class; pooled, a class's Dice counts the pixels of all images:"
        yield _classes(metrics)
    yield _bullets(_further(description, metrics, figures))


def _figure_names(pixels: float, diagonal: float) -> dict[str, str]:
    return {
        "dice": "Dice",
        "iou": "IoU",
        "precision": "Precision",
        "recall": "Recall",
        "specificity": "Specificity",
        "area_error": "Area error, share of the truth",
        "area_error_absolute": "Area error, without its sign",
        "hd95": "HD95, pixels",
        "assd": "ASSD, pixels",
        "nsd": f"NSD at {pixels:g} pixels",
        "nsd_relative": f"NSD at {100 * diagonal:g} % of the diagonal",
        "objects_f1": "F1 of objects",
        "objects_iou": "IoU of matched objects",
        "contours_absolute_error": "Contours, miscounted by",
        "counted_absolute_error": "Objects, miscounted by",
        "counted_relative_error": "Objects, miscounted by, share of the truth",
        "class_dice": "Dice, only the right class counting",
        "class_iou": "IoU, only the right class counting",
    }


def _meaning(metrics: Metrics) -> str:
    scored = f"Scored on {metrics['split']}"
    if metrics["split"] == "val":
        scored += ", because this protocol has no test set: on the images that chose, which flatters"
    return (
        f"{scored}, at each image's own resolution, inside the annotated region. Means are over the images in "
        "which something is annotated; those in which nothing is have figures of their own. A missed image scores 0 "
        "and, as HD95 and ASSD, the diagonal; none is left out. HD95 and ASSD are those of medpy, NSD (normalised "
        "surface Dice) that of DeepMind's surface-distance; objects match where their IoU is over 0.5. Intervals: "
        f"bootstrap over groups, {RESAMPLES} resamples."
    )


def _further(description: SegmenterDescription, metrics: Metrics, figures: pd.DataFrame) -> Iterator[str]:
    counting, objects = description.scoring.counting, metrics["objects"]
    yield _empties(metrics, figures)
    yield (
        f"Objects: {objects['objects']} in the truth, {objects['found']} found; {objects['detected']} matched, "
        f"{objects['missed']} missed, {objects['false']} false."
    )
    yield (
        f"Objects are counted so: of the truth {counting_in_words(counting.truth)}; of the prediction "
        f"{counting_in_words(counting.prediction)}."
    )
    yield (
        f"Calibration: the expected error of a probability (ECE, 15 bins) is {score(metrics['ece'])}, over the "
        "pixels in and around objects, annotated or found."
    )
    if (correlation := metrics["uncertainty"]["rank_correlation"]) is not None:
        yield (
            "Uncertainty (standard deviation of the probability over orientations of the image) and Dice: rank "
            f"correlation {correlation:.2f}; the nearer to -1, the better it tells bad masks."
        )
    pooled = metrics["pooled"]
    yield (
        f"Pooled over the pixels of all images, to compare with papers: Dice {score(pooled['dice'])}, IoU "
        f"{score(pooled['iou'])}."
    )
    calls = metrics["image_labels"]
    yield (
        f"Called what they are, each image as a whole: {calls['right']} of {calls['images']} "
        f"({100 * calls['accuracy']:.1f} %)."
    )


def _empties(metrics: Metrics, figures: pd.DataFrame) -> str:
    empty = metrics["empty"]
    if not empty["images"]:
        return "No image was scored in which nothing is annotated: how often the model finds what is not there is open."
    rows = _rows(figures, "empty")
    found, area = rows["false_positive"]["empty"], rows["false_positive_area"]["empty"]
    return (
        f"Images in which nothing is annotated: {empty['images']}. Share of them in which something was found: "
        f"{spread(found['mean'], found['low'], found['high'])}; share of their area: {area['mean']:.2g}."
    )


def _classes(metrics: Metrics) -> str:
    rows = [
        [plain(name), str(found["images"]), *(score(found[key]) for key in ("dice", "iou", "pooled_dice"))]
        for name, found in metrics["classes"].items()
    ]
    return table(["class", "images", "Dice", "IoU", "pooled Dice"], rows)


def _limits(audit: Metrics, metrics: Metrics, figures: pd.DataFrame) -> Iterator[str]:
    groups = int(_rows(figures, "all")["dice"]["all"]["groups"])
    if is_simulated(audit["data"]):
        yield "**The images are simulated.** No figure here says how well patients' images would be segmented."
    if metrics["split"] == "val":
        yield "**Scored on val**, which chose epoch and threshold: the figures flatter. There is no test set."
    if audit["straddling_groups"]:
        yield (
            f"Groups on more than one side of the split: {audit['straddling_groups']}. What was scored may have "
            "near-duplicates, or other images of its patient, in train or val, which flatters."
        )
    if groups < FEW_GROUPS:
        yield f"Scored on {counted(groups, 'group')}: below about {FEW_GROUPS}, intervals are too narrow."
    yield "One training run: intervals are over images and hold nothing of how another run would turn out."
    yield "One data set: images from other devices, sites or patients may score lower; none are scored here."
    yield (
        "Near-duplicates are found by perceptual hash; where the patient is not known, images of one patient may lie "
        "on both sides of the split."
    )
    yield (
        "Nothing is recorded of the age, sex, skin or disease of those imaged, nor of the devices: whether the model "
        "serves some worse than others was not measured."
    )
    yield "The masks of the truth are taken as they are; how far annotators would agree is not known here."
    yield "The licences of the images and of the initial weights bind the use of this model; they are not held here."


def _stratum_rows(figures: pd.DataFrame, kind: str) -> list[list[str]]:
    rows = _rows(figures, kind)
    return [
        [plain(stratum), *(str(row[key]) for key in ("images", "groups", "missed"))]
        + [spread(*(rows[name][stratum][key] for key in ("mean", "low", "high"))) for name in BY_STRATUM]
        for stratum, row in rows.get("dice", {}).items()
    ]


def _rows(figures: pd.DataFrame, kind: str) -> dict[str, dict[str, dict[str, Any]]]:
    """The figures of one kind of stratum, by figure and stratum."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for row in figures[figures["by"] == kind].to_dict("records"):
        found.setdefault(str(row["metric"]), {})[str(row["stratum"])] = {str(key): value for key, value in row.items()}
    return found


def _listing(what: str, content: str, rows: Iterable[Sequence[str]]) -> str:
    return table([what, content], rows, numbers=())


def _bullets(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _bounds(low: float | None, high: float | None) -> str:
    return f"{score(low)} to {score(high)}"
