"""The stage `report`: its page, its summary, and the charts on the page."""

import base64
import hashlib
import io
import json
import math
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, get_args

import cv2
import numpy as np
import pytest
import yaml
from finished_run import CHOSEN, DESCRIPTION, EVALUATE, PARAMETERS, SEVERAL, Drawn, Run, run_in, write_run
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from medseg.core.errors import UserError
from medseg.data.colours import CLASSES
from medseg.datasets.record import Region
from medseg.evaluation.describe import MODEL_IN_WORDS
from medseg.models.params import Library, ModelParams
from medseg.report import sentences
from medseg.report.charts import WIDE, Axis, Line, bar_chart, diagonal_chart, interval, line_chart, ticks
from medseg.report.images import LARGEST, SIDE, jpeg_uri, outline
from medseg.report.metric_text import MINUS, TO, Unit, measured, percent, signed
from medseg.report.metric_text import interval as interval_in_words
from medseg.report.tables import Figure
from stages.report import main

DASH = "\N{EN DASH}"
VOID = {"meta", "img", "br", "input", "line", "rect", "path", "polyline"}


class Page(HTMLParser):
    """A page taken apart: its text, its addresses, its tags, and whether every tag was closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in {"src", "href", "srcset", "action"}]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] not in (["style"], ["script"]):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def report(run: Run, folder: Path) -> tuple[str, str]:
    main(*[*run.paths(), folder / "report.html", folder / "report.md", folder / "first.json"])
    return (folder / "report.html").read_text(encoding="utf-8"), (folder / "report.md").read_text(encoding="utf-8")


def change(path: Path, content: dict[str, Any]) -> None:
    text = json.dumps(content) if path.suffix == ".json" else yaml.safe_dump(content, sort_keys=False)
    path.write_text(text, encoding="utf-8")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    folder = tmp_path_factory.mktemp("written")
    return {"binary": write_run(folder / "binary"), "several": write_run(folder / "several", task=SEVERAL)}


@pytest.fixture
def run(written: dict[str, Run], tmp_path: Path) -> Run:
    """A finished run to change at will."""
    shutil.copytree(written["binary"].params.parent, tmp_path / "run")
    return run_in(tmp_path / "run")


@pytest.fixture
def several(written: dict[str, Run], tmp_path: Path) -> Run:
    """A finished run that knows the classes `a|b` and `c<d`: one image of `a|b` is found as such, one as `c<d`."""
    shutil.copytree(written["several"].params.parent, tmp_path / "several")
    return run_in(tmp_path / "several")


def metrics_of(run: Run) -> dict[str, Any]:
    return dict(json.loads(run.metrics.read_text(encoding="utf-8")))


def test_the_page_is_one_whole_file_that_asks_no_network(run: Run, tmp_path: Path) -> None:
    html, _ = report(run, tmp_path)
    page = Page(html)
    assert page.open == []
    assert [address[:30] for address in page.addresses if not address.startswith(("data:image/", "#"))] == []
    assert page.tags.count("script") == 1
    assert not {"link", "iframe", "object", "base"} & set(page.tags)
    assert "url(" not in html
    assert "@import" not in html
    assert "default-src 'none'; img-src data:;" in html


def test_the_policy_lets_this_script_run_and_no_other(run: Run, tmp_path: Path) -> None:
    html, _ = report(run, tmp_path)
    script = html.split("<script>")[1].split("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}';" in html
    assert "script-src" not in html.split(f"'sha256-{digest}'")[1].split('">')[0]


def test_text_from_data_is_escaped(run: Run, tmp_path: Path) -> None:
    html, _ = report(run, tmp_path)
    assert html.count("<script") == 1
    assert "alert(1)" not in html.split("<script>")[1]
    assert "&lt;script&gt;alert(1).png" in html
    assert "broken &lt;b&gt;.png" in html
    assert "no weights for &lt;resnet18&gt;" in html
    assert "twin &amp; sister.png" in html


def test_the_page_holds_the_figures_of_the_run(run: Run, tmp_path: Path) -> None:
    text = Page(report(run, tmp_path)[0]).text
    assert "U-Net on BUSI breast ultrasound" in text
    assert "Research software, not a medical device." in text
    assert f"Mean Dice per image 0.750 95 % interval 0.500{TO}1.000" in text
    assert f"Dice 0.750 0.500{TO}1.000 2 0 0 IoU 0.667 0.333{TO}1.000 2 0 0" in text
    assert f"Area error, signed 0.0 % 0.0{TO}0.0 2 0 0" in text
    assert "Objects detected 1 of 2 2 false" in text
    assert f"Images with anything found 100.0 % {DASH} 1 0 Area wrongly found 8.33 % {DASH} 1 0" in text
    assert "Pooled over all pixels , to compare with papers: Dice 0.600, IoU 0.429" in text
    assert "Surface Dice within 2 px" in text
    assert "Surface Dice within 1 % of the diagonal" in text
    assert "rotate.degrees 15" in text
    assert "path null" in text
    assert "resized to 128x96 (aspect not kept)" in text
    assert "Files skipped as unusable 1" in text


def test_strata_have_rows_of_their_own_and_empty_images_their_own(run: Run, tmp_path: Path) -> None:
    text = Page(report(run, tmp_path)[0].split('<section id="strata">')[1].split("</section>")[0]).text
    row = f"2 0 0.750 0.500{TO}1.000 0.667 0.333{TO}1.000 0.750 0.500{TO}1.000 0.750 0.500{TO}1.000"
    assert f"all {row}" in text
    assert f"Label a|b {row}" in text
    assert f"Size small {row}" in text
    assert f"Nothing annotated empty 1 anything found in 100.0 % ({DASH}), on average 8.33 % of the area" in text


def test_figures_that_are_undefined_for_some_images_say_so(run: Run, tmp_path: Path) -> None:
    text = Page(report(run, tmp_path)[0].split('<section id="counts">')[1].split("</section>")[0]).text
    assert "In the truth Found Detected Missed False 2 3 1 1 2" in text
    assert f"IoU of detected objects 1.000 {DASH} 1 1 0" in text
    assert f"F1 per image 0.500 0.000{TO}1.000 2 0 0" in text


def test_each_choice_shows_what_it_brought_on_val(run: Run, tmp_path: Path) -> None:
    html, markdown = report(run, tmp_path)
    text = Page(html.split('<section id="choices">')[1].split("</section>")[0]).text
    assert "on 5 images of val" in text
    assert f"Test-time augmentation none 0.7000 flips 0.6500 {MINUS}0.0500 none" in text
    assert "Threshold 0.5 0.7000 0.4 0.7400 +0.0400 0.4" in text
    assert f"Holes filled never 0.7400 always 0.7400 > {MINUS}0.0001 never" in text
    assert "Dense CRF set, not chosen never Holes" in text
    assert "Smallest object kept, px set, not chosen 30" in text
    assert "Circled: threshold 0.4" in text
    assert "Test chose nothing." in text
    assert "| Threshold | 0.5 | 0.7000 | 0.4 | 0.7400 | +0.0400 | **0.4** |" in markdown
    assert "| Dense CRF | set | | | | | **never** |" in markdown


def test_where_val_could_not_choose_the_warning_stands_first(run: Run, tmp_path: Path) -> None:
    chosen = CHOSEN | {"options": [], "images": 0, "warnings": ["nothing is annotated in <val>"]}
    change(run.segmenter / "model.yaml", DESCRIPTION | {"chosen": chosen})
    (run.plots / "thresholds.csv").write_text("threshold,dice\n", encoding="utf-8")
    html, markdown = report(run, tmp_path)
    assert "nothing is annotated in &lt;val&gt;" in html.split('<section id="summary">')[0]
    assert markdown.index("nothing is annotated in &lt;val") < markdown.index("## Scores")
    assert "Mean Dice on val over thresholds" not in html
    assert "Threshold set, not chosen 0.5" in Page(html).text


def test_a_protocol_without_choices_says_that_all_was_set(run: Run, tmp_path: Path) -> None:
    change(run.segmenter / "model.yaml", DESCRIPTION | {"chosen": CHOSEN | {"options": [], "images": 0}})
    set_all = {"test_time_augmentation": "none", "threshold": 0.4, "fill_holes": "never"}
    change(run.params, PARAMETERS | {"evaluate": EVALUATE | set_all})
    text = Page(report(run, tmp_path)[0]).text
    assert "Nothing was left to val: all values below were set." in text
    assert "Threshold set, not chosen 0.4" in text


def test_calibration_says_which_pixels_it_is_of(run: Run, tmp_path: Path) -> None:
    html, markdown = report(run, tmp_path)
    for text in (Page(html).text, markdown):
        assert (
            "Expected calibration error 0.100, over 400 pixels: those of objects, annotated or found, and those" in text
        )
        assert "within 2 % of the region's diagonal around them" in text
    assert "perfect calibration" in html


def test_without_any_pixel_near_an_object_calibration_is_left_undefined(run: Run, tmp_path: Path) -> None:
    (run.plots / "calibration.csv").write_text("confidence,observed,pixels\n", encoding="utf-8")
    change(run.metrics, metrics_of(run) | {"ece": None})
    html, _ = report(run, tmp_path)
    assert f"Expected calibration error {DASH}, over 0 pixels" in Page(html).text
    assert "perfect calibration" not in html


def test_uncertainty_is_shown_where_there_is_a_map_and_left_out_where_not(tmp_path: Path) -> None:
    html, markdown = report(write_run(tmp_path / "with"), tmp_path)
    assert html.count('class="uncertainty"') == 3
    assert f"over 2 images is {MINUS}1.00, a strong relation: the more uncertain an image, the lower" in Page(html).text
    assert "the more uncertain an image" in markdown
    html, markdown = report(write_run(tmp_path / "without", with_uncertainty=False), tmp_path)
    assert "ncertainty" not in Page(html.split('<section id="parameters">')[0]).text.replace("evaluate.uncertainty", "")
    assert "ncertain" not in markdown


@pytest.mark.parametrize(
    ("correlation", "sentence"),
    [
        (-0.59, f"is {MINUS}0.59, a strong relation: the more uncertain an image, the lower its Dice."),
        (-0.4, "a moderate relation: the more uncertain"),
        (0.05, "no relation: uncertainty does not tell here which images go wrong."),
        (0.2, "a weak relation, and not the expected one"),
        (None, "can't be told"),
    ],
)
def test_the_rank_correlation_in_words(correlation: float | None, sentence: str) -> None:
    assert sentence in sentences.uncertainty(correlation, 28)


def test_data_code_and_packages_are_named(run: Run, tmp_path: Path) -> None:
    html, markdown = report(run, tmp_path)
    record = json.loads((tmp_path / "first.json").read_text(encoding="utf-8"))
    for text in (html, markdown):
        assert record["data"]["manifest_sha256"] in text
        assert record["code_sha256"] in text
    assert f"numpy {np.__version__}" in html


def test_warnings_of_training_stand_before_the_summary(run: Run, tmp_path: Path) -> None:
    html, markdown = report(run, tmp_path)
    assert html.index("no weights for") < html.index('<section id="summary">')
    assert markdown.index("no weights for") < markdown.index("## Scores")


def test_images_stand_worst_first_and_those_without_a_dice_last(run: Run, tmp_path: Path) -> None:
    html, _ = report(run, tmp_path)
    assert re.findall(r'data-file="([^"]*)"', html) == ["&lt;script&gt;alert(1).png", "good.png", "empty.png"]
    worst, good, empty = gallery_texts(html)
    assert worst.startswith(
        "0.500 a|b 1 missed, 1 false <script>alert(1).png Label a|b Size small Dice 0.500 IoU 0.333"
    )
    assert "Objects 1 Detected 0 Missed 1 False 1 Uncertainty 0.200" in worst
    assert "missed" not in good
    assert empty.startswith("nothing annotated NA 1 false empty.png Label NA Size empty")
    assert f"HD95 {DASH}" in empty
    assert "Area annotated 0.00 % Area found 8.33 %" in empty


def gallery_texts(html: str) -> list[str]:
    items = html.split('<ol class="gallery"')[1].split("</ol>")[0].split('<li class="case"')[1:]
    return [Page("<li" + item).text for item in items]


def test_equal_runs_give_equal_bytes_and_hold_no_path(tmp_path: Path) -> None:
    here, there = write_run(tmp_path / "here"), write_run(tmp_path / "there")
    texts = report(here, tmp_path / "one")
    assert texts == report(there, tmp_path / "two")
    assert (tmp_path / "one" / "first.json").read_bytes() == (tmp_path / "two" / "first.json").read_bytes()
    assert all(str(tmp_path) not in text for text in texts)
    change(there.params, PARAMETERS | {"seed": 1})
    assert texts[0] != report(there, tmp_path / "two")[0]


def test_speed_settings_are_neither_shown_nor_felt(run: Run, tmp_path: Path) -> None:
    before = report(run, tmp_path)
    change(run.params, PARAMETERS | {"machine": {"workers": 3, "backend": "threading", "accelerator": "auto"}})
    assert report(run, tmp_path) == before
    assert "threading" not in before[0]


def test_a_run_scored_on_val_says_so_loudly(run: Run, tmp_path: Path) -> None:
    assert "Scored on val" not in "".join(report(run, tmp_path))
    change(run.metrics, metrics_of(run) | {"split": "val"})
    html, markdown = report(run, tmp_path)
    assert html.index("Scored on val.") < html.index('<section id="summary">')
    assert markdown.index("**Scored on val.**") < markdown.index("## Scores")
    choices = Page(html.split('<section id="choices">')[1].split("</section>")[0]).text
    assert "Choices and score come from the same images." in choices
    assert "Test chose nothing" not in choices


def test_without_a_annotated_object_dice_is_said_to_be_undefined(tmp_path: Path) -> None:
    empty = Drawn("empty.png", "NA", None, None)
    html, markdown = report(write_run(tmp_path / "run", images=[empty]), tmp_path)
    assert "Dice and IoU are not defined" in Page(html).text
    assert "None" not in Page(html.split('<section id="parameters">')[0]).text
    assert "nan" not in Page(html.split('<section id="parameters">')[0]).text
    assert "Worst, median and best" not in html
    assert f"| Dice | {DASH} | {DASH} | 0 | 0 | 0 |" in markdown


def test_without_empty_truths_and_faults_the_page_says_none(tmp_path: Path) -> None:
    annotated = Drawn("good.png", "a|b", (slice(5, 9), slice(5, 9)), (slice(5, 9), slice(5, 9)))
    run = write_run(tmp_path / "run", images=[annotated])
    audited = json.loads(run.audit.read_text(encoding="utf-8"))
    change(run.audit, audited | {"skipped": 0, "skipped_files": [], "contradicting_labels": []})
    html, markdown = report(run, tmp_path)
    assert "Images with nothing annotated: none among those scored" in Page(html).text
    assert "Images with nothing annotated: none among those scored" in markdown
    assert "Skipped files" not in html
    assert "carry different labels" not in html


@pytest.mark.parametrize(
    "missing",
    [
        "params.yaml",
        "manifest.csv",
        "audit.json",
        "evaluate.json",
        "segmenter/model.yaml",
        "predictions/per_image.csv",
        "predictions/figures.csv",
        "predictions/masks/good.png",
        "plots/cases.png",
        "plots/precision_recall.csv",
        "plots/dice_histogram.csv",
        "plots/thresholds.csv",
        "plots/calibration.csv",
        "plots/counts.csv",
        "training/plots/metrics/val/dice.tsv",
    ],
)
def test_a_missing_input_is_named_and_nothing_is_written(run: Run, tmp_path: Path, missing: str) -> None:
    (tmp_path / "run" / missing).unlink()
    with pytest.raises(UserError, match=re.escape(missing)):
        report(run, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_damaged_table_is_named_and_nothing_is_written(run: Run, tmp_path: Path) -> None:
    table = tmp_path / "run" / "predictions" / "figures.csv"
    table.write_text(table.read_text().replace("dice,", "dice,x", 1))
    with pytest.raises(UserError, match=r"predictions/figures\.csv: not readable as a table: .*'x"):
        report(run, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_image_is_whole_under_the_outlines_of_truth_and_prediction(run: Run, tmp_path: Path) -> None:
    html, _ = report(run, tmp_path)
    image = images(html)[0]
    assert image.shape == (30, 40)
    assert np.abs(image - 100).max() < 30  # noise from 90 to 110, packed as JPEG: nothing is drawn in it
    frame = html.split('<span class="frame">')[1].split("</span>")[0]
    assert 'viewBox="-.5 -.5 40 30"' in frame
    assert '<path class="truth" d="M5 5l0 9 9 0 0-9z"/>' in frame
    assert '<path class="found" d="M10 5l0 9 9 0 0-9z"/>' in frame


def test_an_image_is_cut_to_the_annotated_window(tmp_path: Path) -> None:
    html, _ = report(write_run(tmp_path / "run", Region(2, 4, 22, 34)), tmp_path)
    assert images(html)[0].shape == (20, 30)
    assert '<path class="truth" d="M1 3l0 9 9 0 0-9z"/>' in html
    assert "annotated window alone" in Page(html).text


def images(html: str) -> list[Any]:
    addresses = re.findall(r'<img src="data:image/jpeg;base64,([^"]+)"', html)
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(text)))).astype(int) for text in addresses]


def test_outlines_have_holes_and_points() -> None:
    mask = np.zeros((20, 20), np.uint8)
    mask[2:12, 2:12], mask[5:8, 5:8], mask[15, 16] = 1, 0, 1
    path = outline(mask, 1.0)
    assert path.count("M") == 3
    assert "M2 2l0 9 9 0 0-9z" in path
    assert "M16 15h0z" in path
    assert outline(np.zeros((4, 4), np.uint8), 1.0) == ""


@given(st.integers(0, 1000), st.sampled_from([1.0, 3.0, 8.0]))
def test_outlines_leave_the_border_by_no_more_than_half_the_detail(seed: int, detail: float) -> None:
    noise = np.random.default_rng(seed).random((60, 80))
    mask = (cv2.GaussianBlur(noise, (0, 0), 5) > 0.5).astype(np.uint8)
    contours, _ = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    kept = np.zeros_like(mask)
    for ring in rings(outline(mask, detail)):
        cv2.polylines(kept, [ring], True, (1,))
    away = cv2.distanceTransform(1 - kept, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    # Drawn lines are on whole pixels, so up to 0.5 pixel off in each direction.
    assert all(away[y, x] <= detail / 2 + math.sqrt(0.5) for contour in contours for x, y in contour[:, 0])


def rings(path: str) -> list[Any]:
    numbers = [[int(word) for word in re.findall(r"-?\d+", part)] for part in path.split("M")[1:]]
    return [
        np.cumsum(np.array(ring, np.int32).reshape(-1, 2)[: len(ring) // 2], axis=0, dtype=np.int32)
        for ring in ([*ring, 0] if len(ring) % 2 else ring for ring in numbers)
    ]


@pytest.mark.parametrize("channels", [1, 3])
def test_an_image_of_noise_is_packed_harder_until_it_is_small(channels: int) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, channels), dtype=np.uint8)
    strips = [noise[: SIDE * part // 16] for part in range(1, 17)]
    sizes = [len(jpeg_uri(strip)) for strip in strips]
    assert sizes[6] <= LARGEST
    assert sizes != sorted(sizes)  # a larger strip took less room than a smaller one


def test_the_summary_has_whole_tables_and_neither_images_nor_links(run: Run, tmp_path: Path) -> None:
    _, markdown = report(run, tmp_path)
    assert "](" not in markdown
    assert "a\\|b" in markdown
    blocks = [block.splitlines() for block in markdown.split("\n\n") if block.startswith("|")]
    assert len(blocks) == 7
    for block in blocks:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block}) == 1, block


def test_intervals_say_what_they_do_not_show(run: Run, tmp_path: Path) -> None:
    text = Page(report(run, tmp_path)[0].split('<section id="limits">')[1].split("</section>")[0]).text
    assert "They do not show the chance of training: this is one run with one seed (0)" in text
    assert "The scored images form 3 groups. With fewer than 20, bootstrap intervals are too narrow" in text


def test_patients_and_groups_on_both_sides_are_told_among_the_limits(run: Run, tmp_path: Path) -> None:
    audited = json.loads(run.audit.read_text(encoding="utf-8"))
    change(run.audit, audited | {"straddling_groups": 2})
    text = Page(report(run, tmp_path)[0]).text
    assert "The patient is not known for 4 of 4 images." in text
    assert "images on both sides of the split: 2." in text


def test_several_classes_have_a_section_of_their_own(run: Run, several: Run, tmp_path: Path) -> None:
    binary = report(run, tmp_path / "binary")
    assert 'id="classes"' not in binary[0]
    assert "## Classes" not in binary[1]
    html, _ = report(several, tmp_path)
    page = Page(html)
    assert page.open == []
    assert "a|b 2 0.500 0.500 0.667" in page.text
    assert f"c<d 0 {DASH} {DASH} 0.667" in page.text
    assert "Label NA a|b c<d All NA 0 1 0 1 a|b 0 1 1 2 c<d 0 0 0 0 1 of 3 images (33.3 %)" in page.text
    assert "the first of a|b, c<d. An image in which nothing is found is called NA." in page.text
    assert "c&lt;d" in html
    assert "c<d" not in html


def test_the_markdown_of_several_classes_has_whole_tables(several: Run, tmp_path: Path) -> None:
    _, markdown = report(several, tmp_path)
    assert "| a\\|b | 2 | 0.500 | 0.500 | 0.667 |" in markdown
    assert "| label | NA | a\\|b | c&lt;d | all |" in markdown
    assert "| a\\|b | 0 | **1** | 1 | 2 |" in markdown
    blocks = [block.splitlines() for block in markdown.split("\n\n") if block.startswith("|")]
    assert len(blocks) == 9
    for block in blocks:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block}) == 1, block


def test_each_image_says_what_it_was_called(several: Run, tmp_path: Path) -> None:
    worst, good, empty = gallery_texts(report(several, tmp_path)[0])
    assert worst.startswith("0.500 a|b as c<d 1 missed, 1 false")
    assert "Called c<d Size small Dice 0.500 Class Dice 0.000" in worst
    assert good.startswith("1.000 a|b good.png")
    assert f"Class Dice {DASH}" in empty


def test_the_method_says_how_classes_are_found_and_the_epoch_chosen(run: Run, several: Run, tmp_path: Path) -> None:
    assert "at least 0.4." in Page(report(run, tmp_path)[0]).text
    text = Page(report(several, tmp_path)[0]).text
    assert "the probabilities of a|b and c<d together are at least 0.4; its class is the most probable" in text
    assert "the mean over a|b, c<d of each class's Dice, pooled over all pixels of val" in text


def test_the_legend_has_the_colours_of_the_outlines(several: Run, tmp_path: Path) -> None:
    html, _ = report(several, tmp_path)
    colours = [f"rgb{colour}" for colour in CLASSES[:2]]
    assert html.count(f'style="--class: {colours[1]}">predicted c&lt;d<') == 2  # classes, images
    frame = html.split('<span class="frame">')[1].split("</span>")[0]
    assert f'<path class="found" style="--class: {colours[0]}" d=""/>' in frame
    assert f'<path class="found" style="--class: {colours[1]}" d="M10 5l' in frame


def test_a_report_of_classes_needs_the_calls(several: Run, tmp_path: Path) -> None:
    (several.plots / "confusion.csv").unlink()
    with pytest.raises(UserError, match=r"confusion\.csv"):
        report(several, tmp_path)


NORMALISED: dict[str, Any] = {"input_mean": [0.5], "input_std": [0.5]}
ENCODED = NORMALISED | {"encoder": "resnet18", "encoder_weights": "none"}
MODELS: dict[str, dict[str, Any]] = {
    "U-Net": ENCODED | {"name": "unet", "decoder_channels": [64, 48, 32, 24, 16]},
    "PSPNet": ENCODED | {"name": "pspnet", "psp_channels": 512, "dropout": 0.2},
    "Plain U-Net": NORMALISED | {"name": "unet_plain", "init_features": 32},
    "SegNet": NORMALISED | {"name": "segnet", "init_features": 64},
    "Improved U-Net": NORMALISED | {"name": "improved_unet", "init_features": 16, "dropout": 0.3},
    "CMUNeXt": NORMALISED
    | {"name": "cmunext", "widths": [16, 32, 128, 160, 256], "depths": [1, 1, 1, 3, 1], "kernels": [3, 3, 7, 7, 7]},
    **{
        words: ENCODED | {"name": "library", "arch": arch}
        for arch, words in {
            "unetplusplus": "U-Net++",
            "manet": "MA-Net",
            "linknet": "LinkNet",
            "fpn": "FPN",
            "pan": "PAN",
            "deeplabv3": "DeepLabV3",
            "deeplabv3plus": "DeepLabV3+",
            "upernet": "UPerNet",
            "segformer": "SegFormer",
        }.items()
    },
}


@pytest.mark.parametrize("words", MODELS)
def test_every_model_has_its_name_in_the_title(run: Run, tmp_path: Path, words: str) -> None:
    model = MODELS[words]
    change(run.params, PARAMETERS | {"model": model})
    change(run.segmenter / "model.yaml", DESCRIPTION | {"model": model})
    html, markdown = report(run, tmp_path)
    assert f"<h1>{words} on BUSI breast ultrasound</h1>" in html
    assert markdown.startswith(f"# {words} on BUSI")
    assert ("resnet18, started from random" in html) == ("encoder" in model)
    assert ("Started from random weights." in html) == ("encoder" not in model)


def test_models_in_words_are_all_models_and_nothing_else() -> None:
    known = {kind.model_fields["name"].annotation for kind in get_args(get_args(ModelParams)[0])}
    names = {name for annotation in known for name in get_args(annotation)} - {"library"}
    assert set(MODEL_IN_WORDS) == names | set(get_args(Library.model_fields["arch"].annotation))


@pytest.mark.parametrize("continued", [True, False])
def test_a_former_network_is_named(run: Run, tmp_path: Path, continued: bool) -> None:
    initial_network = {
        "name": "earlier_run",
        "weights_sha256": "0" * 64,
        "continued": continued,
        "epochs_before": 30 * continued,
    }
    training = DESCRIPTION["training"] | {"initial_weights": "initial_network", "initial_network": initial_network}
    change(run.segmenter / "model.yaml", DESCRIPTION | {"training": training})
    text = Page(report(run, tmp_path)[0]).text
    assert "resnet18, started from weights of an initial network, earlier_run" in text
    assert ("continued after 30 epochs with its optimiser and schedule" in text) == continued


@pytest.mark.parametrize(
    ("geometry", "words"),
    [
        ({"name": "patchify", "channels": 1, "patch": 64, "stride": 16, "border": "pad"}, "patches of 64x64"),
        ({"name": "scale", "channels": 1, "factor": 0.5}, "scaled by 0.5"),
        (PARAMETERS["prepare"] | {"aspect": "keep"}, "resized to 128x96 (aspect kept, padded)"),
    ],
)
def test_the_method_follows_the_geometry(run: Run, tmp_path: Path, geometry: dict[str, Any], words: str) -> None:
    change(run.segmenter / "model.yaml", DESCRIPTION | {"geometry": geometry})
    assert words in Page(report(run, tmp_path)[0]).text


def test_the_report_loads_no_torch() -> None:
    code = "import sys, medseg.report.page, medseg.experiments.run_record; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6), st.booleans())
def test_ticks_are_few_and_lie_on_the_axis(low: float, span: float, whole: bool) -> None:
    axis = Axis("", low, low + span, whole)
    values = ticks(axis)
    slack = 1e-6 * max(1.0, abs(low), span)
    assert len(values) <= 6
    assert all(low - slack <= value <= axis.high + slack for value in values)
    assert values == sorted(set(values))
    assert not whole or all(value == round(value) for value in values)


def test_ticks_are_round_numbers() -> None:
    assert ticks(Axis("", 0, 1)) == [0, 0.2, 0.4, 0.6, 0.8, 1]
    assert ticks(Axis("", 1, 8, whole=True)) == [2, 4, 6, 8]
    assert ticks(Axis("", 1, 2, whole=True)) == [1, 2]
    assert ticks(Axis("", 3, 3)) == [3]


def test_lines_run_from_corner_to_corner_and_skip_what_is_no_number() -> None:
    points = [(0.0, 0.0), (0.5, math.nan), (1.0, 1.0)]
    chart = line_chart("", Axis("", 0, 1), Axis("", 0, 1), [Line("", points)], (1, 1), "end")
    assert chart.lines[0].points == [(WIDE.left, WIDE.bottom), (WIDE.right, WIDE.top)]
    assert chart.mark == (WIDE.right, WIDE.top)


def test_bars_stand_on_the_axis_side_by_side_in_proportion() -> None:
    bars = bar_chart("", Axis("", 0, 1), "", [0, 10, 5]).bars
    assert [bar.top + bar.height for bar in bars] == pytest.approx([WIDE.bottom] * 3)
    assert bars[0].height == 0
    assert bars[1].height == pytest.approx(2 * bars[2].height, abs=0.02)
    assert bars[0].left + bars[0].width < bars[1].left
    assert [bar.text for bar in bars] == ["", "10", "5"]


def test_the_diagonal_goes_through_equal_values_and_the_area_of_dots_tells_how_many() -> None:
    chart = diagonal_chart("", Axis("a", 0, 4), Axis("b", 0, 4), None, {(2, 2): 1, (3, 3): 4}, "equal")
    (x1, y1), (x2, y2) = chart.reference
    one, four = chart.dots
    assert ((x1 + x2) / 2, (y1 + y2) / 2) == pytest.approx((one.x, one.y))
    assert four.radius == pytest.approx(2 * one.radius)
    assert [one.text, four.text] == ["a 2, b 2: 1 image", "a 3, b 3: 4 images"]
    assert x2 - x1 == y1 - y2  # one scale


def test_an_interval_lies_along_its_axis() -> None:
    place = interval(0.5, 0.75, 1.0, Axis("", 0.5, 1))
    assert (place.low, place.mean, place.high) == (0, 50, 100)


def test_small_shares_never_look_like_nothing() -> None:
    assert [percent(share) for share in (None, 0.0, 0.123, 1.0)] == [DASH, "0.0 %", "12.3 %", "100.0 %"]
    assert percent(0.00001, 2) == "< 0.01 %"
    assert percent(-0.00001, 2) == f"> {MINUS}0.01 %"
    assert percent(-0.25) == f"{MINUS}25.0 %"


def test_values_bear_their_units_and_intervals_do_not() -> None:
    units: tuple[Unit, ...] = ("score", "pixels", "percent", "small_percent", "number")
    assert [measured(0.5, unit) for unit in units] == ["0.500", "0.5 px", "50.0 %", "50.00 %", "0.50"]
    figure = Figure(images=2, undefined=0, missed=0, groups=2, mean=0.5, low=-0.25, high=1.0)
    assert [interval_in_words(figure, unit) for unit in ("percent", "pixels")] == [
        f"{MINUS}25.0 to 100.0",
        f"{MINUS}0.2 to 1.0",
    ]


def test_gains_bear_their_sign_and_never_look_like_nothing() -> None:
    assert [signed(gain) for gain in (0.02, -0.02, 0.0, 0.00001)] == ["+0.0200", f"{MINUS}0.0200", "0", "< 0.0001"]
