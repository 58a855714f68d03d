"""The model card: what a stranger has to know before taking `models/segmenter` away.

Its sections follow Mitchell et al., "Model Cards for Model Reporting", FAT* 2019, section 4; what they hold is what
the CLAIM checklist asks of studies of AI in medical imaging (Tejani et al., Radiology: Artificial Intelligence 6(4),
2024): data and their partitions, model and training, how it was chosen, measures with their uncertainty, limits.
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from medseg.core.files import write_text
from medseg.core.markdown import plain, table
from medseg.data.intensity import in_words
from medseg.datasets import title_of
from medseg.evaluation import describe, estimates
from medseg.evaluation.formatting import ABSENT, ends, measured, score, spread
from medseg.inference.settings import SegmenterDescription
from medseg.metrics import registry

CARD = "README.md"
LICENCES = "The licences of the images and of the initial weights apply to this model; they are not recorded here."
USAGE = """With `medseg` installed, FOLDER being the one that holds this card:

```
medseg predict IMAGES... --model FOLDER --out DIR    # masks, overlays, probabilities, contours, a table
medseg evaluate --model FOLDER --data DIR --out DIR --images 'images/{name}.png' --masks 'masks/{name}.png'
medseg export --model FOLDER --out segmenter.onnx      # one file that needs no PyTorch
```

`medseg evaluate` scores it on images and masks of your own, with what was chosen here. Do that before you believe it
on images from elsewhere. `model.yaml` rebuilds the model and holds all choices, `weights.safetensors` its weights, and
`training_images.csv` hashes of the images that trained and tuned it, by which `medseg evaluate` knows them again."""

Content = Mapping[str, Any]


def write_card(
    folder: Path, description: SegmenterDescription, audit: Content, summary: Content, means: pd.DataFrame
) -> None:
    """Write `README.md` into a segmenter's folder.

    `audit` is what `audit.audit` gives; `summary` and `means` are what `summary.write_tables` writes as summary.json
    and summary.csv. The text holds no clock, path, revision or machine: equal inputs give equal bytes.
    """
    write_text(folder / CARD, card_text(description, audit, summary, means))


def card_text(description: SegmenterDescription, audit: Content, summary: Content, means: pd.DataFrame) -> str:
    """The card as Markdown; all that stems from data is escaped."""
    data = plain(title_of(audit["data"]))
    groups = int(_rows(means, "all", "dice")["groups"].iloc[0])
    sections = {
        "Warnings": _bullets([*audit["warnings"], *describe.warnings(description)]),
        "Model": [_model(description)],
        "Intended use": _intended_use(data),
        "Data": _data(audit, data),
        "Choices": _choices(description, summary["split"]),
        "Scores": list(_scores(description, summary, means)),
        "How scores are computed": [
            *_bullets(describe.method(description)),
            _facts("metric", "what it is", describe.definitions(description.scoring.tolerance, description.task)),
        ],
        "Limits": _bullets([*describe.limits(audit, summary["split"], groups), LICENCES]),
        "How to use it": [USAGE],
    }
    title = f"# Model card: {plain(describe.network(description.model))}, {data}"
    body = [part for heading, parts in sections.items() if parts for part in (f"## {heading}", *parts)]
    return "\n\n".join([title, f"> **{describe.NOT_A_DEVICE}**", _in_short(summary), *body]) + "\n"


def _in_short(summary: Content) -> str:
    dice, iou = (estimates.of_keys(summary, name) for name in ("dice", "iou"))
    return (
        f"In short: Dice {spread(dice)} and IoU {spread(iou)} ({describe.ENDS_BRIEFLY} of groups), means over "
        f"{describe.means_over(summary)}; missed altogether: {summary['missed']}."
    )


def _model(description: SegmenterDescription) -> str:
    training, model = description.training, description.model
    colours = "grey" if description.channels == 1 else "RGB"
    mean, deviation = (" ".join(f"{value:g}" for value in values) for values in (model.input_mean, model.input_std))
    rows = {
        "Network": describe.network(model),
        "Initial weights": describe.initial_weights(training),
        "Training": f"{describe.training_in_short(training)}; loss, optimiser, augmentation and seed stand in the "
        "run's params.yaml",
        "Input": f"an image of any size, 8 or 16 bits a channel, grey or colour; taken as {colours} (channels: "
        f"{description.channels}), scaled to 0..1, normalised by mean {mean} and standard deviation {deviation}",
        "Intensities": in_words(description.intensity),
        "Size": describe.prediction(description.geometry, description.overlap),
        "Output": _output(description),
        "Made with": ", ".join(f"{name} {version}" for name, version in training.packages.items()),
    }
    return _facts("part", "what it is", rows.items())


def _output(description: SegmenterDescription) -> str:
    task = description.task
    if not task.has_classes:
        return "at the image's own resolution: the probability of foreground, and a mask of 0 and 1"
    codes = ", ".join(f"{code} {name}" for code, name in enumerate(task.class_names, start=1))
    return f"at the image's own resolution: a probability for each class, and a mask of codes: 0 background, {codes}"


def _intended_use(data: str) -> list[str]:
    return [
        f"For research on segmentation, on images like those that it was trained and scored on: {data}. For "
        "researchers who can judge a mask by eye and a score by its interval.",
        "Not for diagnosis, treatment, triage or any decision on a person; not for images from other devices, of "
        "other organs or in other stains unless it was scored on such images first (`medseg evaluate`, below).",
    ]


def _data(audit: Content, data: str) -> list[str]:
    splits, rows = describe.label_counts(audit)
    return [
        f"Data set {plain(audit['data'])}: {data}. Images by label and split:",
        table(["label", *splits, "all"], [[plain(cell) for cell in row] for row in rows]),
        _facts("audit", "", describe.audit_rows(audit)),
    ]


def _choices(description: SegmenterDescription, split: str) -> list[str]:
    rows = [
        [
            *(decision.name, decision.simplest, score(option.simplest), plain(option.tried), score(option.other)),
            decision.gain,
        ]
        if (option := decision.option)
        else [decision.name, "set", *[ABSENT] * 4]
        for decision in describe.decisions(description.chosen)
    ]
    settings = [f"**{decision.setting}**" for decision in describe.decisions(description.chosen)]
    columns = ["step", "simplest", "Dice on val", "best other", "Dice on val", "gain", "in use"]
    return [
        describe.chosen_on(description.chosen, split),
        table(columns, [[*row, setting] for row, setting in zip(rows, settings, strict=True)], ("Dice on val", "gain")),
    ]


def _scores(description: SegmenterDescription, summary: Content, means: pd.DataFrame) -> Iterator[str]:
    """The section's paragraphs and tables."""
    tolerance = description.scoring.tolerance
    yield f"Means over {describe.means_over(summary)}. {describe.ENDS} {describe.MISSED}"
    by_metric = {str(row["metric"]): row for row in means[means["by"] == "all"].to_dict("records")}
    yield table(
        ["metric", "mean", describe.ENDS_BRIEFLY, "images", "groups"],
        [
            [
                metric.title(tolerance),
                measured(row["mean"], metric.unit),
                ends(estimates.of_row(row), metric.unit),
                *(str(row[key]) for key in ("images", "groups")),
            ]
            for metric in registry.METRICS
            if (row := by_metric.get(metric.key))
        ],
    )
    brief = [metric for metric in registry.METRICS if metric.brief]
    for kind in ("label", "size"):
        if len(part := means[means["by"] == kind]):
            yield f"By {kind}:"
            yield table(
                [kind, "images", "groups", "missed", *(metric.title(tolerance) for metric in brief)],
                [
                    [plain(stratum), *stratum_cells(rows.set_index("metric"))]
                    for stratum, rows in part.groupby("stratum", sort=False)
                ],
            )
    if description.task.has_classes:
        yield "By class:"
        yield table(
            ["class", "images", "Dice", "IoU", "pooled Dice", "ECE", "Brier score"],
            [
                [
                    plain(name),
                    str(found["images"]),
                    *(score(found[key]) for key in ("dice", "iou", "pooled_dice")),
                    score(found["calibration"]["ece"]),
                    score(found["calibration"]["brier"], ".4f"),
                ]
                for name, found in summary["classes"].items()
            ],
        )
    yield "\n".join(_bullets(_further(description, summary, means)))


def stratum_cells(rows: pd.DataFrame) -> list[str]:
    """Counts and the brief metrics of one stratum's rows of summary.csv, which `metric` indexes."""
    counts = [str(rows.loc["dice", key]) for key in ("images", "groups", "missed")]
    means = rows.to_dict("index")
    return counts + [
        spread(estimates.of_row(means[metric.key]), metric.unit) for metric in registry.METRICS if metric.brief
    ]


def false_positives(means: pd.DataFrame) -> str:
    """What was found in images with nothing annotated, from summary.csv."""
    found, area = (_rows(means, "empty", name).to_dict("records") for name in ("false_positive", "false_positive_area"))
    if not found:
        return describe.NO_EMPTY_IMAGES
    return describe.false_positives(int(found[0]["images"]), estimates.of_row(found[0]), area[0]["mean"])


def _further(description: SegmenterDescription, summary: Content, means: pd.DataFrame) -> Iterator[str]:
    yield false_positives(means)
    yield describe.objects_found(summary)
    yield describe.pooled(summary)
    yield describe.label_accuracy(summary)
    yield describe.calibration(summary["calibration"])
    if description.scoring.uncertainty != "none":
        yield describe.uncertainty(description.scoring.uncertainty)
        yield describe.uncertainty_finding(summary["uncertainty"]["rank_correlation"], summary["images"])


def _rows(means: pd.DataFrame, kind: str, metric: str) -> pd.DataFrame:
    return means[(means["by"] == kind) & (means["metric"] == metric)]


def _facts(what: str, content: str, rows: Iterable[tuple[str, str]]) -> str:
    return table([what, content], [[name, plain(value)] for name, value in rows], numbers=())


def _bullets(sentences: Iterable[str]) -> list[str]:
    """A list as one part; no part where there is nothing to list."""
    lines = [f"- {plain(sentence)}" for sentence in sentences]
    return ["\n".join(lines)] if lines else []
