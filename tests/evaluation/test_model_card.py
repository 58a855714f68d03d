"""The card of a segmenter that was scored on images of known figures."""

import html
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tiny
from markdown_it import MarkdownIt

from medseg.data.geometry import Patchify
from medseg.data.image import images_of
from medseg.data.image_io import Pixels
from medseg.data.manifest import Fault
from medseg.data.task import TaskParams
from medseg.evaluation.evaluate import Evaluation, evaluate
from medseg.evaluation.model_card import card_text, write_card
from medseg.evaluation.summary import figure_table, summarise
from medseg.inference.crf import CrfParams
from medseg.inference.postprocess import Probabilities
from medseg.inference.predictor import Predictor
from medseg.inference.settings import Chosen, Option, SegmenterDescription
from medseg.previews.audit import audit

TILES = Patchify(name="patchify", channels=1, patch=16, stride=16, border="pad")
SECTIONS = (
    "Model",
    "Intended use",
    "Data",
    "How a mask is made, and how that was chosen",
    "Figures",
    "Limits",
    "How to use it",
)
PARSER = MarkdownIt("commonmark").enable("table")


def bright(pixels: Pixels) -> Probabilities:
    """Foreground where a pixel is above 128."""
    return (pixels[..., 0] > 128).astype(np.float32)[:, None]


def three(pixels: Pixels) -> Probabilities:
    """The second class where a pixel is above 128, else background."""
    found = bright(pixels)
    return np.concatenate([1 - found, np.zeros_like(found), found], axis=1)


class Scored:
    """A segmenter and all that its card is made from: `wide` marks 200 of 800 pixels, `found` half of them."""

    def __init__(self, folder: Path, description: SegmenterDescription, **changes: str) -> None:
        self.description = description
        wide, found = np.zeros((20, 40), np.uint8), np.zeros((20, 40), np.uint8)
        wide[5:15, 10:30], found[5:15, 10:20] = 1, 1
        images = {"half.png": (found, wide), "all.png": (wide, wide), "empty.png": (found, wide * np.uint8(0))}
        rows = [
            tiny.row(folder / "raw", file, (shown * np.uint8(200))[..., None], truth, **changes)
            for file, (shown, truth) in images.items()
        ]
        self.manifest = pd.DataFrame(rows)
        forward = three if description.task.has_classes else bright
        segmenter = Predictor(description, forward)
        self.found: Evaluation = evaluate(segmenter, images_of(self.manifest, folder / "raw"), 4, folder)
        self.figures = figure_table(self.found.table)
        self.metrics = summarise(self.found, self.figures)
        self.audit = audit("busi", self.manifest, [], [])

    def card(self, **changes: Any) -> str:
        description = self.description.model_copy(update=changes)
        return card_text(description, self.audit, self.metrics, self.figures)


def scored(folder: Path, task: TaskParams = tiny.BINARY, **changes: str) -> Scored:
    return Scored(folder, tiny.segmenter(TILES, task=task), **changes)


def section(card: str, title: str) -> str:
    return card.split(f"\n## {title}\n")[1].split("\n## ")[0]


def cells(text: str, first: str) -> list[str]:
    """The cells of the one row of a table that begins with `first`."""
    (row,) = [line for line in text.splitlines() if line.startswith(f"| {first} |")]
    return row.strip("| ").split(" | ")


def test_it_is_written_beside_the_model_with_all_sections(tmp_path: Path) -> None:
    run = scored(tmp_path)
    write_card(tmp_path / "segmenter", run.description, run.audit, run.metrics, run.figures)
    card = (tmp_path / "segmenter" / "README.md").read_text(encoding="utf-8")
    titles = [line.removeprefix("## ") for line in card.splitlines() if line.startswith("## ")]
    assert titles == list(SECTIONS)
    assert card.startswith("# Model card: U-Net over the encoder timm-mobilenetv3\\_small\\_minimal\\_100, BUSI breast")
    assert "no medical device" in card.split("##")[0]


def test_figures_by_hand(tmp_path: Path) -> None:
    run = scored(tmp_path)
    card = run.card()
    figures = section(card, "Figures")
    # Half of one lesion is found, all of the other: Dice 2/3 and 1, IoU 1/2 and 1.
    assert cells(figures, "Dice") == ["Dice", "0.833", "0.667 to 1.000", "2", "2"]
    assert cells(figures, "IoU") == ["IoU", "0.750", "0.500 to 1.000", "2", "2"]
    assert cells(figures, "Area error, share of the truth")[1] == "-0.250"
    assert "Dice 0.833 (0.667 to 1.000) and IoU 0.750 (0.500 to 1.000)" in card
    assert "over 2 images of test" in card
    assert "missed altogether: 0" in card
    assert "something was found: 1.000 (\N{EN DASH} to \N{EN DASH}); share of their area: 0.12." in figures
    # IoU of 0.5 is no match, so one object is missed and two are false.
    assert "Objects: 2 in the truth, 3 found; 1 matched, 1 missed, 2 false." in figures
    assert "Dice 0.750, IoU 0.600" in figures  # 300 of 400 + 400 pixels, with the false ones of the empty image
    assert "2 of 3 (66.7 %)" in figures
    assert cells(figures, "NSD at 1 pixels")
    assert cells(figures, "NSD at 1 % of the diagonal")


def test_every_stratum_has_its_row(tmp_path: Path) -> None:
    figures = section(scored(tmp_path, label="a|b").card(), "Figures")
    expected = ["2", "2", "0", "0.833 (0.667 to 1.000)", "0.750 (0.500 to 1.000)"]
    assert [row for row in figures.splitlines() if row.startswith("| a\\|b | 2 | 2 | 0 |")]
    assert cells(figures, "small")[1:6] == expected
    assert not [line for line in figures.splitlines() if line.startswith("| large")]


def test_every_mean_of_the_table_of_figures_is_told_with_its_interval(tmp_path: Path) -> None:
    run = scored(tmp_path)
    figures = section(run.card(), "Figures")
    rows = run.figures[run.figures["by"] == "all"].set_index("figure")
    for name in ("dice", "hd95", "assd", "nsd", "nsd_relative", "precision", "recall", "counted_absolute_error"):
        row = rows.loc[name]
        assert f"| {row['mean']:.3f} | {row['low']:.3f} to {row['high']:.3f} | {row['images']} |" in figures


def test_a_figure_without_an_interval_has_a_dash(tmp_path: Path) -> None:
    figures = section(scored(tmp_path, group="same").card(), "Figures")
    assert cells(figures, "Dice") == ["Dice", "0.833", "\N{EN DASH} to \N{EN DASH}", "2", "1"]


def test_the_model_is_described_as_it_is(tmp_path: Path) -> None:
    model = section(scored(tmp_path).card(), "Model")
    assert "patches of 16x16 that overlap by 50 %" in model
    assert "taken as grey (channels: 1)" in model
    assert cells(model, "Initial weights")[1] == "random weights"
    assert cells(model, "Made with")[1] == "torch 1"
    assert "1 epoch of 4 samples; the weights are those of epoch 1" in model


def test_what_val_chose_is_told_with_what_it_brought(tmp_path: Path) -> None:
    run = scored(tmp_path)
    tried = Option(option="fill_holes", simplest=0.5, other=0.6, tried="always", chosen="always")
    postprocess = run.description.chosen.choices.postprocess.model_copy(
        update={"threshold": 0.35, "fill_holes": True, "smallest_object": 30}
    )
    crf = CrfParams(
        iterations=7,
        gaussian_sigma=1.0,
        gaussian_weight=1.0,
        bilateral_sigma=1.0,
        bilateral_colour=1.0,
        bilateral_weight=1.0,
    )
    choices = run.description.chosen.choices.model_copy(
        update={"test_time_augmentation": "flips", "postprocess": postprocess, "crf": crf}
    )
    chosen = Chosen(choices=choices, options=[tried], images=9, warnings=["beware of <this>"])
    card = run.card(chosen=chosen)
    way = section(card, SECTIONS[3])
    settings = [
        ("Test-time augmentation", "mean over 4 flips"),
        ("Dense CRF", "7 iterations of mean-field inference"),
        ("Threshold", "0.35"),
        ("Holes filled", "yes"),
        ("Objects dropped", "of fewer than 30 pixels"),
        ("Largest object alone", "no"),
    ]
    assert [tuple(cells(way, step)) for step, _ in settings] == settings
    assert "on the 9 images of val" in way
    assert cells(way, "fill\\_holes") == ["fill\\_holes", "0.500", "0.600", "always", "always"]
    assert section(card, "Warnings").strip() == "- beware of &lt;this>"
    assert "All steps were set beforehand" in section(run.card(), SECTIONS[3])


def test_data_and_audit_are_told(tmp_path: Path) -> None:
    run = scored(tmp_path)
    train = run.manifest.assign(split="train", label="c<d").iloc[:2]
    run.audit = audit("busi", pd.concat([run.manifest, train], ignore_index=True), [Fault("x.png", "is cut off")], [])
    card = run.card()
    data = section(card, "Data")
    assert "Data set busi: BUSI breast ultrasound." in data
    assert cells(data, "a") == ["a", "0", "3", "3"]
    assert cells(data, "c&lt;d") == ["c&lt;d", "2", "0", "2"]
    assert cells(data, "all") == ["all", "2", "3", "5"]
    assert "Groups of several images (near-duplicates by perceptual hash, or one known patient): 2." in data
    assert "on more than one side of the split: 2;" in data
    assert "Skipped as unusable: 1." in data
    assert "Groups on more than one side of the split: 2." in section(card, "Limits")


def test_limits_tell_what_is_known_of_the_run(tmp_path: Path) -> None:
    run = scored(tmp_path)
    limits = section(run.card(), "Limits")
    assert "Scored on 2 groups: below about 20" in limits
    for absent in ("simulated", "Scored on val", "more than one side"):
        assert absent not in limits
    run.audit = run.audit | {"data": "phantom"}
    run.metrics = run.metrics | {"split": "val"}
    card = run.card()
    assert "The images are simulated." in section(card, "Limits")
    assert "**Scored on val**" in section(card, "Limits")
    assert "because this protocol has no test set" in section(card, "Figures")
    assert "read once" not in card


def test_enough_groups_are_not_warned_of(tmp_path: Path) -> None:
    run = scored(tmp_path)
    run.figures = run.figures.assign(groups=20)
    assert "intervals are too narrow" not in run.card()


def test_classes_are_told_with_their_codes_and_figures(tmp_path: Path) -> None:
    card = scored(tmp_path, tiny.LESIONS, label="malignant").card()
    assert "0 background, 1 benign, 2 malignant" in section(card, "Model")
    figures = section(card, "Figures")
    assert "| malignant | 2 | 0.833 | 0.750 | 0.750 |" in figures
    assert "| benign | 0 | \N{EN DASH} | \N{EN DASH} | 0.000 |" not in figures  # no pixel of it, neither true nor found
    assert cells(figures, "Dice, only the right class counting")[1] == "0.833"
    assert "mean over classes" in section(card, SECTIONS[3])


def test_text_from_data_can_t_break_the_page(tmp_path: Path) -> None:
    hostile = "<script>|`x`[a](http://b)**"
    run = scored(tmp_path, label=hostile)
    training = run.description.training.model_copy(update={"warnings": [hostile], "packages": {hostile: hostile}})
    rendered = PARSER.render(run.card(training=training))
    assert "<script" not in rendered
    assert "<a " not in rendered
    assert html.unescape(rendered).count(hostile) == 5  # a warning, a package and its version, two tables of labels
    for table in rendered.split("<table>")[1:]:
        head, body = table.split("</thead>")
        assert {row.count("<td") for row in body.split("<tr>")[1:]} == {head.count("<th>") + head.count("<th ")}


def test_equal_inputs_give_equal_bytes_without_a_path(tmp_path: Path) -> None:
    first, again = (scored(tmp_path / name) for name in ("first", "again"))
    assert first.card() == again.card()
    assert str(tmp_path) not in first.card()
    # As read back from the files that the stage wrote.
    run = first
    run.audit, run.metrics = json.loads(json.dumps(run.audit)), json.loads(json.dumps(run.metrics))
    assert run.card() == again.card()


@pytest.mark.parametrize("command", ["predict", "evaluate", "export"])
def test_the_commands_are_ones_that_there_are(tmp_path: Path, command: str) -> None:
    from medseg.cli import app

    assert f"\nmedseg {command} " in section(scored(tmp_path).card(), "How to use it")
    assert command in {registered.callback.__name__ for registered in app.registered_commands if registered.callback}
