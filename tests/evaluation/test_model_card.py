"""The card of a segmenter that was scored on images of known scores."""

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
from medseg.evaluation import describe
from medseg.evaluation.evaluate import Evaluation, evaluate
from medseg.evaluation.formatting import ABSENT, MINUS, TO
from medseg.evaluation.model_card import card_text, write_card
from medseg.evaluation.summary import summarise, summary_table
from medseg.inference.postprocess import Probabilities
from medseg.inference.predictor import Predictor
from medseg.inference.settings import Option, SegmenterDescription
from medseg.metrics import registry
from medseg.metrics.registry import METRICS, Metric
from medseg.previews.audit import audit

TILES = Patchify(name="patchify", channels=1, patch=16, stride=16, border="pad")
SECTIONS = (
    "Model",
    "Intended use",
    "Data",
    "Choices",
    "Scores",
    "How scores are computed",
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
    """A segmenter and all that its card is made from: `wide` holds 200 of 800 pixels, `found` half of them."""

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
        self.means = summary_table(self.found.table)
        self.summary = summarise(self.found, self.means)
        self.audit = audit("busi", self.manifest, [], [], [], [])

    def card(self, **changes: Any) -> str:
        description = self.description.model_copy(update=changes)
        return card_text(description, self.audit, self.summary, self.means)


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
    write_card(tmp_path / "segmenter", run.description, run.audit, run.summary, run.means)
    card = (tmp_path / "segmenter" / "README.md").read_text(encoding="utf-8")
    titles = [line.removeprefix("## ") for line in card.splitlines() if line.startswith("## ")]
    assert titles == list(SECTIONS)
    assert card.startswith("# Model card: U-Net over the encoder timm-mobilenetv3\\_small\\_minimal\\_100, BUSI breast")
    assert describe.NOT_A_DEVICE in card.split("##")[0]


def test_scores_by_hand(tmp_path: Path) -> None:
    run = scored(tmp_path)
    card = run.card()
    scores = section(card, "Scores")
    # Half of one lesion is found, all of the other: Dice 2/3 and 1, IoU 1/2 and 1.
    assert cells(scores, "Dice") == ["Dice", "0.833", f"range 0.667{TO}1.000", "2", "2"]
    assert cells(scores, "IoU") == ["IoU", "0.750", f"range 0.500{TO}1.000", "2", "2"]
    assert cells(scores, "Area error, signed")[1] == f"{MINUS}25.0 %"
    assert f"Dice 0.833 (range 0.667{TO}1.000) and IoU 0.750 (range 0.500{TO}1.000)" in card
    # IoU of 0.5 is no match, so one object is missed and two are false.
    assert "1 detected, 1 missed, 2 false" in scores
    assert "Dice 0.750, IoU 0.600" in scores  # 300 of 400 + 400 pixels, with the false ones of the empty image
    assert "2 of 3 images (66.7 %)" in scores
    assert f"found in 100.0 % (2.5{TO}100.0) of them" in scores  # of the images with nothing annotated


def test_every_stratum_has_its_row(tmp_path: Path) -> None:
    scores = section(scored(tmp_path, label="a|b").card(), "Scores")
    expected = ["2", "2", "0", f"0.833 (range 0.667{TO}1.000)", f"0.750 (range 0.500{TO}1.000)"]
    assert [row for row in scores.splitlines() if row.startswith("| a\\|b | 2 | 2 | 0 |")]
    assert cells(scores, "small")[1:6] == expected
    assert not [line for line in scores.splitlines() if line.startswith("| large")]


def test_every_metric_with_a_mean_is_shown_and_defined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = scored(tmp_path)
    trial = Metric("trial", "Trial score", "share", "lower", "surface", "what it is", lambda _: 0.0)
    monkeypatch.setattr(registry, "METRICS", (*METRICS, trial))
    row = run.means[run.means["metric"] == "dice"].assign(metric="trial")
    run.means = pd.concat([run.means, row], ignore_index=True)
    card = run.card()
    tolerance = run.description.scoring.tolerance
    for metric in (*METRICS, trial):
        if metric.over in ("annotated", "both") and not metric.several_classes:
            assert cells(section(card, "Scores"), metric.title(tolerance))
    assert cells(section(card, "Scores"), "Trial score")[1] == "83.3 %"
    assert cells(section(card, "How scores are computed"), "Trial score")[1] == "what it is"


def test_a_mean_of_one_group_has_a_dash(tmp_path: Path) -> None:
    scores = section(scored(tmp_path, group="same").card(), "Scores")
    assert cells(scores, "Dice") == ["Dice", "0.833", ABSENT, "2", "1"]


def test_the_model_is_described_as_it_is(tmp_path: Path) -> None:
    model = section(scored(tmp_path).card(), "Model")
    assert "patches of 16x16 that overlap by 50 %" in model
    assert "taken as grey (channels: 1)" in model
    assert cells(model, "Initial weights")[1] == "random weights"
    assert cells(model, "Made with")[1] == "torch 1"


def test_choices_are_told_with_what_they_brought(tmp_path: Path) -> None:
    run = scored(tmp_path)
    tried = Option(option="fill_holes", simplest=0.5, other=0.6, tried="always", error=0.0123, chosen="always")
    chosen = run.description.chosen
    last = chosen.choices.postprocess.model_copy(update={"fill_holes": True})
    changed = {
        "choices": chosen.choices.model_copy(update={"postprocess": last}),
        "options": [tried],
        "images": 19,
        "groups": 12,
    }
    card = run.card(chosen=chosen.model_copy(update=changed | {"warnings": ["beware of <this>"]}))
    choices = section(card, "Choices")
    assert "19 images of 12 groups" in choices
    assert cells(choices, "Holes filled") == [
        "Holes filled",
        "never",
        "0.500",
        "always",
        "0.600",
        "+0.1000 ± 0.0123",
        "**yes**",
    ]
    assert cells(choices, "Threshold") == ["Threshold", "set", *[ABSENT] * 4, "**0.5**"]
    assert "beware of &lt;this>" in section(card, "Warnings")


def test_data_and_audit_are_told(tmp_path: Path) -> None:
    run = scored(tmp_path)
    train = run.manifest.assign(split="train", label="c<d").iloc[:2]
    run.audit = audit(
        "busi", pd.concat([run.manifest, train], ignore_index=True), [Fault("x.png", "is cut off")], [], [], []
    )
    card = run.card()
    data = section(card, "Data")
    assert "Data set busi: BUSI breast ultrasound." in data
    assert cells(data, "a") == ["a", "0", "3", "3"]
    assert cells(data, "c&lt;d") == ["c&lt;d", "2", "0", "2"]
    assert cells(data, "all") == ["all", "2", "3", "5"]
    assert cells(data, "Of these, on more than one side of the split")[1] == "2"
    assert "more than one side of the split: 2." in section(card, "Limits")


def test_classes_are_told_with_their_codes_and_scores(tmp_path: Path) -> None:
    card = scored(tmp_path, tiny.LESIONS, label="malignant").card()
    assert "0 background, 1 benign, 2 malignant" in section(card, "Model")
    scores = section(card, "Scores")
    assert "| malignant | 2 | 0.833 | 0.750 | 0.750 |" in scores
    assert cells(scores, "Dice of the image's class")[1] == "0.833"


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
    run.audit, run.summary = json.loads(json.dumps(run.audit)), json.loads(json.dumps(run.summary))
    assert run.card() == again.card()


@pytest.mark.parametrize("command", ["predict", "evaluate", "export"])
def test_the_commands_are_ones_that_there_are(tmp_path: Path, command: str) -> None:
    from medseg.cli import app

    assert f"\nmedseg {command} " in section(scored(tmp_path).card(), "How to use it")
    assert command in {registered.callback.__name__ for registered in app.registered_commands if registered.callback}
