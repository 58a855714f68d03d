"""A run in words: every sentence and phrase that the report, the model card and the command line share, once.

Sentences are plain text; whoever writes Markdown or HTML escapes them.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from medseg.data.geometry import Geometry, Patchify, Scale
from medseg.data.task import TaskParams
from medseg.datasets import is_simulated
from medseg.evaluation.choice_rule import MIN_GROUPS
from medseg.evaluation.formatting import counted, percent, score, signed, spread
from medseg.inference.settings import Augmentation, Choices, Chosen, Counting, Option, SegmenterDescription
from medseg.metrics import registry
from medseg.metrics.calibration import RULED_OUT
from medseg.metrics.counting import CountingParams
from medseg.metrics.intervals import LEAST_GROUPS, LEAST_GROUPS_OF_MEDIAN, RESAMPLES, SEED, Ends, Estimate
from medseg.metrics.surface import Tolerance
from medseg.models.model_yaml import Training
from medseg.models.params import Encoded, Library, ModelParams

SPLITS = ("train", "val", "test", "dropped")  # in the order of tables

ARCHITECTURES = {
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
INITIAL_WEIGHTS = {
    "packaged": "ImageNet weights from a package",
    "placed": "ImageNet weights from a placed file",
    "hub": "ImageNet weights from the hub",
    "random": "random weights",
}
AUGMENTATIONS: dict[Augmentation, str] = {
    "none": "no",
    "mirror": "mean over the image and its mirror image",
    "flips": "mean over 4 flips",
    "flips_and_turns": "mean over 8 flips and quarter turns",
}
# The choices in the order in which they are made: key in the section evaluate, name, and simplest value.
CHOICES = (
    ("test_time_augmentation", "Test-time augmentation", "none"),
    ("threshold", "Threshold", "0.5"),
    ("crf", "Dense CRF", "never"),
    ("fill_holes", "Holes filled", "never"),
    ("smallest_object", "Smallest object kept, pixels", "0"),
    ("largest_component", "Only the largest object kept", "never"),
)
STRENGTHS = ((0.1, "no relation"), (0.3, "a weak relation"), (0.5, "a moderate relation"), (1.0, "a strong relation"))

NOT_A_DEVICE = "Research software, not a medical device. Not for diagnosis or treatment."
SCORED_ON_VAL = (
    "There is no test set: the epoch and every choice left to val were made on the images that are scored, so the "
    "scores are optimistically biased."
)
CHOICES_ON_VAL = (
    "Chosen one after the other by mean Dice on the validation set; a value is taken only if it leads the simplest by "
    "more than one standard error of the difference over groups. "
    "These Dice are optimistically biased: they are of the images that chose."
)
MISSED = (
    "Missed: images in which something is annotated and no pixel of it was found, whatever else was. They stay in "
    "every mean: overlap and normalised surface Dice 0, distances the diagonal of the region."
)
ENDS_BRIEFLY = "95 % interval, or range"  # over the column of `formatting.ends`
ENDS = (
    f"Beside a mean stands its 95 % interval; of fewer than {LEAST_GROUPS} groups the range of the groups' means, "
    "which is called range and is no interval. Beside a distance or an error, which has no bound, stands the median "
    f"over groups, with its 95 % interval from {LEAST_GROUPS_OF_MEDIAN} groups on."
)
NO_EMPTY_IMAGES = "Images with nothing annotated: none among those scored, so false alarms are not measured."
SIZE_STRATA = "Small, medium and large are thirds of the scored images by the annotated share of their area."


def architecture(model: ModelParams) -> str:
    """The network's architecture; one that is not known here stands for itself."""
    name = model.arch if isinstance(model, Library) else model.name
    return ARCHITECTURES.get(name, name)


def network(model: ModelParams) -> str:
    """The network's architecture, with its encoder where it has one."""
    return (
        f"{architecture(model)} over the encoder {model.encoder}" if isinstance(model, Encoded) else architecture(model)
    )


def network_briefly(model: Mapping[str, Any]) -> str:
    """The section `model`, of a record too: architecture and encoder, or width.

    `unet resnet18`, `unetplusplus resnet18`, `segnet 32`, `cmunext 16-32-128-160-256`.
    """
    name = model.get("arch", model["name"])
    if "encoder" in model:
        return f"{name} {model['encoder']}"
    widths = model["widths"] if "widths" in model else [model["init_features"]]
    return f"{name} {'-'.join(str(width) for width in widths)}"


def samples_briefly(prepare: Mapping[str, Any]) -> str:
    """The section `prepare`, of a record too: `96x96 grey`, `128x128 RGB patches`, `x0.5 RGB`."""
    colour = "grey" if prepare["channels"] == 1 else "RGB"
    match prepare["name"]:
        case "resize":
            return f"{prepare['width']}x{prepare['height']} {colour}"
        case "patchify":
            return f"{prepare['patch']}x{prepare['patch']} {colour} patches"
        case _:
            return f"x{prepare['factor']:g} {colour}"


def initial_weights(training: Training) -> str:
    """Where the weights came from that training started with."""
    initial = training.initial_network
    if initial is None:
        return INITIAL_WEIGHTS[training.initial_weights]
    weights = f"weights of the initial network {initial.name}"
    if not initial.continued:
        return weights
    return f"{weights}, continued after {counted(initial.epochs_before, 'epoch')} with its optimiser and scheduler"


def training_in_short(training: Training) -> str:
    """How long was trained, on how much, and which epoch was kept."""
    return f"{training.samples} samples an epoch, epoch {training.best_epoch} of {training.epochs} kept"


def warnings(description: SegmenterDescription) -> list[str]:
    """What a reader of any score should know first."""
    return [
        *(f"Training: {warning}" for warning in description.training.warnings),
        *(f"Choices on val: {warning}" for warning in description.chosen.warnings),
    ]


def prediction(geometry: Geometry, overlap: float) -> str:
    """How an image of any size becomes probabilities."""
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


def thresholding(task: TaskParams, threshold: float) -> str:
    """How probabilities become a mask."""
    if not task.has_classes:
        return f"A pixel counts as found where its probability is at least {threshold:g}."
    return (
        f"A pixel counts as found where the probabilities of {' and '.join(task.class_names)} together are at least "
        f"{threshold:g}; its class is the most probable of these."
    )


@dataclass(frozen=True)
class Decision:
    """One step from probabilities to a mask: how it is set, and what it brought on val where val chose it."""

    name: str
    setting: str
    simplest: str  # its simplest value
    option: Option | None  # None: set beforehand

    @property
    def gain(self) -> str:
        """Dice on val with the best other value less that with the simplest, signed, and its standard error."""
        if self.option is None:
            return ""
        gain = signed(round(self.option.other - self.option.simplest, 6))
        return f"{gain} \N{PLUS-MINUS SIGN} {self.option.error:.4f}"

    @property
    def is_unclear(self) -> bool:
        """Whether the simplest value was kept although another one scored higher."""
        option = self.option
        return option is not None and option.chosen != option.tried and option.other > option.simplest


def decisions(chosen: Chosen) -> list[Decision]:
    """All steps in the order of choosing."""
    options = {option.option.removesuffix(".use"): option for option in chosen.options}
    settings = _settings(chosen.choices)
    return [Decision(name, settings[key], simplest, options.get(key)) for key, name, simplest in CHOICES]


def chosen_on(chosen: Chosen, split: str) -> str:
    """On which images the choices were made."""
    if chosen.options:
        of_groups = f"{counted(chosen.images, 'image')} of {counted(chosen.groups, 'group')}"
        how = f"{CHOICES_ON_VAL} Val has {of_groups} with something annotated."
        if unclear := [decision.name for decision in decisions(chosen) if decision.is_unclear]:
            how += f" Kept at the simplest, since the lead of another value is within its error: {', '.join(unclear)}."
    elif chosen.warnings:
        how = (
            f"Val decided nothing, which takes {MIN_GROUPS} groups with something annotated: every step is at its "
            "simplest value or was set beforehand."
        )
    else:
        how = "Nothing was left to val: every step was set beforehand."
    return f"{how} The test set was read once, after all choices." if split == "test" else f"{how} {SCORED_ON_VAL}"


def counting(rule: CountingParams) -> str:
    """What counts as one object, as part of a sentence."""
    dropped = f"those of fewer than {rule.smallest} pixels dropped" if rule.smallest > 1 else "none dropped"
    if not rule.split:
        return f"{dropped}, touching ones counted as one"
    return f"{dropped}, touching ones split by watershed (depth {rule.depth:g} pixels)"


def ends_made(ends: Ends) -> str:
    """How the two ends of an estimate are made, and what a range is not."""
    match ends:
        case "interval":
            return (
                f"95 % interval: the wider of Student's t and bootstrap-t at each end, over groups, {RESAMPLES} "
                f"resamples, seed {SEED}."
            )
        case "interval of median":
            return "95 % interval of the median over groups: between two order statistics of the groups' means."
        case "range":
            return (
                "Range: the least and the greatest mean of a group; it is no interval, which takes "
                f"{LEAST_GROUPS} groups that differ."
            )
        case "none":
            return "One group has neither interval nor range."


def definitions(tolerance: Tolerance, task: TaskParams) -> list[tuple[str, str]]:
    """Every metric of which means are shown, and what it is."""
    return [
        (metric.title(tolerance), metric.sentence)
        for metric in registry.METRICS
        if metric.over and (task.has_classes or not metric.several_classes)
    ]


def method(description: SegmenterDescription) -> list[str]:
    """How scores are computed, one thought each."""
    task = description.task
    return [
        f"{prediction(description.geometry, description.overlap)} "
        f"{thresholding(task, description.chosen.choices.postprocess.threshold)} Prediction and truth are compared at "
        "the image's own resolution, inside its annotated region.",
        "The primary scores are means over images in which something is annotated, each image counting the same. A "
        "missed image stays in every mean. Images in which nothing is annotated have no Dice; how often and how much "
        "is found in them is scored apart.",
        "Pooled scores count the pixels of all images together, so large objects weigh more; they are given to compare "
        "with papers that report them.",
        _counting_rules(description.scoring.counting),
        SIZE_STRATA,
        f"95 % intervals of scores: at each end the wider of Student's t and bootstrap-t ({RESAMPLES} resamples), over "
        "whole groups (near-duplicates and images of one patient), because images of one group are not independent.",
        "95 % intervals of the median of distances and errors: between two order statistics of the groups' means, "
        "whatever their distribution.",
        "95 % interval of the share of images with any false positive: exact (Clopper and Pearson) where every group "
        "is one image, else none.",
        *(_class_rules(task) if task.has_classes else ()),
        epoch_choice(task, description.training),
    ]


def epoch_choice(task: TaskParams, training: Training) -> str:
    """By what the kept epoch was chosen."""
    pooled = (
        f"the mean over {', '.join(task.class_names)} of each class's pooled Dice" if task.has_classes else "pooled"
    )
    return (
        f"Epoch {training.best_epoch} was kept for its Dice on val, {pooled} over pixels at the size of the network's "
        f"samples: {score(training.val_dice)}."
    )


def label_rule(task: TaskParams) -> str:
    """How an image as a whole is given a label."""
    return (
        "The predicted label of an image is the class of most pixels found in it; of equally many, the first of "
        f"{', '.join(task.class_names)}; {task.names[0]} where nothing is found."
    )


def label_accuracy(summary: Mapping[str, Any]) -> str:
    """How many images have the right predicted label."""
    found = summary["image_labels"]
    images = counted(found["images"], "image")
    return f"Predicted label right: {found['right']} of {images} ({percent(found['accuracy'])})."


def means_over(summary: Mapping[str, Any]) -> str:
    """What the primary means are over."""
    return f"the {counted(summary['images'], 'image')} of {summary['split']} in which something is annotated"


def pooled(summary: Mapping[str, Any]) -> str:
    """The pooled scores."""
    scores = summary["pooled"]
    return f"Pooled over the pixels of all images: Dice {score(scores['dice'])}, IoU {score(scores['iou'])}."


def objects_found(summary: Mapping[str, Any]) -> str:
    """How many objects were detected, over all images."""
    objects = summary["objects"]
    return (
        f"Objects: {objects['objects']} in the truth, {objects['found']} in the prediction; {objects['detected']} "
        f"detected, {objects['missed']} missed, {objects['false']} false."
    )


def false_positives(images: int, any_found: Estimate, area: float) -> str:
    """What was found in images with nothing annotated: the share with anything, and the mean share of the area."""
    return (
        f"Images with nothing annotated: {images}. Something was found in {spread(any_found, 'share')} of them, on "
        f"average {percent(area)} of the area."
    )


def calibration(errors: Mapping[str, Any]) -> str:
    """The calibration errors, and of which pixels they are; `errors` is `calibration` of the summary."""
    ece = (
        f"Expected calibration error {score(errors['ece'])}, over the pixels in which foreground is not ruled out "
        f"(probability above {RULED_OUT:g})"
    )
    if errors["ruled_out"]:
        ece += (
            f"; of the others {percent(errors['ruled_out_observed'])} are annotated, where the network says "
            f"{percent(errors['ruled_out_probability'])}"
        )
    constant = score(errors["constant_brier"], ".4f")
    return (
        f"{ece}. Brier score {score(errors['brier'], '.4f')} over all pixels; the same probability for all of them "
        f"would have {constant}."
    )


def uncertainty(orientations: Augmentation) -> str:
    """What is shown as uncertainty."""
    return (
        "Uncertainty is the standard deviation, 0 to 0.5, of the foreground probability over the orientations of the "
        f"image ({AUGMENTATIONS[orientations].removeprefix('mean over ')}); that of an image is its mean where "
        f"foreground is not ruled out (probability above {RULED_OUT:g}). It shows where the network contradicts "
        "itself, not where it is confidently wrong."
    )


def uncertainty_finding(correlation: float | None, images: int) -> str:
    """Whether uncertain images have a lower Dice."""
    if correlation is None:
        return "Whether uncertain images have a lower Dice can't be told: there are too few images, or all are alike."
    strength = next(words for limit, words in STRENGTHS if abs(correlation) <= limit)
    rank = f"Spearman's rank correlation of uncertainty and Dice over {counted(images, 'image')}"
    rank = f"{rank}: {score(correlation, '.2f')}, {strength}"
    if abs(correlation) <= STRENGTHS[0][0]:
        return f"{rank}; uncertainty does not tell which images go wrong."
    if correlation > 0:
        return f"{rank}, and not the expected one: the more uncertain images have the higher Dice."
    return f"{rank}: the more uncertain an image, the lower its Dice."


def limits(audit: Mapping[str, Any], split: str, groups: int) -> Iterator[str]:
    """What the scores do not show; `groups` are those that the primary means are over."""
    if is_simulated(audit["data"]):
        yield "The images are simulated. No score here says how well patients' images would be segmented."
    if split == "val":
        yield SCORED_ON_VAL
    if audit["straddling_groups"]:
        yield (
            "Groups of near-duplicates or of one patient with images on more than one side of the split: "
            f"{audit['straddling_groups']}. The scores are optimistically biased."
        )
    if groups < LEAST_GROUPS:
        yield (
            f"Scored on {counted(groups, 'group')}: too few for an interval of a mean. A range tells how groups "
            "differ, not how far the mean may be off."
        )
    if groups:
        yield (
            f"A failure that strikes fewer than {percent(1 - 0.05 ** (1 / groups))} of groups may not have shown in "
            f"{counted(groups, 'group')}, and no interval knows of it."
        )
    yield "This is one training run: intervals show how scores vary over images, not over seeds."
    yield "All images come from one data set. Images from other devices, sites or patients may score lower."
    yield (
        "Near-duplicates are copies of one picture, also turned, mirrored, inverted, cropped or moved by some 10 %, "
        "recompressed or written on. Another picture of the same patient or lesion is none, and where the patient is "
        "not known, it may lie on another side of the split."
    )
    yield (
        "Age, sex, disease and device are not recorded: whether the model serves some patients worse was not measured."
    )
    yield "The annotations are taken as they are; how far annotators would agree is not known here."


def audit_rows(audit: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The audit's counts, each with what it counts."""
    height, width, foreground = audit["sizes"]["height"], audit["sizes"]["width"], audit["foreground"]
    return [
        ("Images", str(audit["images"])),
        ("Files skipped as unusable", str(audit["skipped"])),
        ("Images dropped by the split", str(audit["dropped"])),
        ("Images with nothing annotated", str(audit["empty_masks"])),
        ("Masks that are foreground all over", str(audit["full_masks"])),
        ("Masks that look inverted", str(audit["inverted_masks"])),
        ("Images that EXIF turns and their masks not", str(len(audit["turned_image_files"]))),
        ("Repeated files, same bytes", str(audit["repeated_files"])),
        ("Groups of near-duplicates or of one patient", str(audit["groups_of_several"])),
        ("Of these, on more than one side of the split", str(audit["straddling_groups"])),
        ("Of these, with different labels", str(audit["groups_with_several_labels"])),
        ("Of these, chained by images that are no near-duplicates of each other", str(len(audit["chained_groups"]))),
        ("Of these, with a fifth of all images or more", str(len(audit["large_groups"]))),
        ("Width, pixels", f"{width['least']} to {width['most']}"),
        ("Height, pixels", f"{height['least']} to {height['most']}"),
        ("Annotated share of an image", f"mean {percent(foreground['mean'])}, most {percent(foreground['most'])}"),
    ]


def label_counts(audit: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Images by label and split: the splits that there are, and rows of a label, its counts by split, and their sum."""
    splits = [split for split in SPLITS if split in audit["splits"]]
    rows = [
        [label, *(str(audit["labels_by_split"][split].get(label, 0)) for split in splits), str(number)]
        for label, number in audit["labels"].items()
    ]
    return splits, [*rows, ["all", *(str(audit["splits"][split]) for split in splits), str(audit["images"])]]


def inverted(files: Sequence[str]) -> str:
    """A heading for masks that look inverted."""
    return f"Masks that look inverted, as if the background had been annotated: {len(files)}"


def _settings(choices: Choices) -> dict[str, str]:
    crf, last = choices.crf, choices.postprocess
    return {
        "test_time_augmentation": AUGMENTATIONS[choices.test_time_augmentation],
        "threshold": f"{last.threshold:g}",
        "crf": "no" if crf is None else f"{counted(crf.iterations, 'mean-field iteration')}",
        "fill_holes": "yes" if last.fill_holes else "no",
        "smallest_object": str(last.smallest_object),
        "largest_component": "yes" if last.largest_component else "no",
    }


def _counting_rules(rules: Counting) -> str:
    return (
        "Objects are connected pixels (8 neighbours). Where objects are counted, those of the truth: "
        f"{counting(rules.truth)}; of the prediction: {counting(rules.prediction)}."
    )


def _class_rules(task: TaskParams) -> list[str]:
    return [
        "In the truth every annotated pixel has the class of its image's label. The primary scores ask only whether a "
        "pixel belongs to any class. Scores by class are means over the images of that class, in which only pixels "
        "found as that class count. A class's pooled Dice counts the pixels of all images, so pixels found as that "
        "class elsewhere lower it.",
        label_rule(task),
    ]
