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
from dataclasses import asdict
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
import yaml
from finished_run import CALIBRATION, CHOSEN, DESCRIPTION, PARAMETERS, SEVERAL, Drawn, Run, run_in, write_run
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from medseg.core.errors import UserError
from medseg.data.colours import CLASSES
from medseg.datasets.record import Region
from medseg.evaluation.formatting import MINUS, TO
from medseg.metrics import registry
from medseg.metrics.registry import Metric
from medseg.report.charts import WIDE, Axis, Line, bar_chart, diagonal_chart, interval, line_chart, ticks
from medseg.report.images import LARGEST, SIDE, jpeg_uri, outline
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
    main(*[*run.paths(), folder / "report.html", folder / "report.md", folder])
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


@pytest.mark.parametrize("name", ["a;touch x", "../../x", "my run", 2024])
def test_a_name_that_leads_elsewhere_is_refused_and_nothing_is_written(run: Run, tmp_path: Path, name: object) -> None:
    change(run.params, yaml.safe_load(run.params.read_text()) | {"name": name})
    with pytest.raises(UserError, match=r"params\.yaml: name = "):
        report(run, tmp_path / "out" / "deep")
    assert not (tmp_path / "out").exists()


def summary_path(run: Run) -> Path:
    return run.predictions / "summary.json"


def summary_of(run: Run) -> dict[str, Any]:
    return dict(json.loads(summary_path(run).read_text(encoding="utf-8")))


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


def test_a_new_metric_appears_with_its_label_and_unit(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = (run.predictions / "summary.csv").read_text(encoding="utf-8")
    row = next(line for line in table.splitlines() if line.startswith("all,all,hd95,"))
    (run.predictions / "summary.csv").write_text(table + row.replace("hd95", "trial") + "\n", encoding="utf-8")
    trial = Metric("trial", "Trial score", "pixels", "lower", "surface", "what it is", lambda _: 0.0)
    monkeypatch.setattr(registry, "METRICS", (*registry.METRICS, trial))
    html, markdown = report(run, tmp_path)
    mean = row.split(",")[7]
    assert f"Trial score {float(mean):.1f} px" in Page(html).text
    assert "Trial score what it is" in Page(html).text
    assert f"| Trial score | {float(mean):.1f} px |" in markdown


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


def test_the_page_holds_the_scores_of_the_run(run: Run, tmp_path: Path) -> None:
    text = Page(report(run, tmp_path)[0]).text
    assert "U-Net on BUSI breast ultrasound" in text
    assert "Research software, not a medical device." in text
    assert f"Mean Dice per image 0.750 over groups range 0.500{TO}1.000" in text
    assert f"Dice 0.750 range 0.500{TO}1.000 2 0 0" in text
    assert f"IoU 0.667 range 0.333{TO}1.000 2 0 0" in text
    assert f"Area error, signed 0.0 % median 0.0, range 0.0{TO}0.0 2 0 0" in text
    assert "Objects detected 1 of 2 2 false" in text
    assert f"Images with any false positive 100.0 % 2.5{TO}100.0 1 0 False positive area 8.3 % median 8.3 1 0" in text
    assert "Dice 0.600, IoU 0.429" in text  # pooled
    assert "NSD at 2 px" in text
    assert "NSD at 1 % of the diagonal" in text
    assert "rotate.degrees 15" in text
    assert "path null" in text
    assert "resized to 128x96 (aspect not kept)" in text
    assert "Files skipped as unusable 1" in text


def test_strata_have_rows_of_their_own(run: Run, tmp_path: Path) -> None:
    text = Page(report(run, tmp_path)[0].split('<section id="strata">')[1].split("</section>")[0]).text
    means = (("0.750", "0.500"), ("0.667", "0.333"), ("0.750", "0.500"), ("0.750", "0.500"))
    row = " ".join(["2 0", *(f"{mean} range {low}{TO}1.000" for mean, low in means)])
    assert f"all {row}" in text
    assert f"Label a|b {row}" in text
    assert f"Size small {row}" in text


def test_a_range_is_drawn_otherwise_than_an_interval(run: Run, tmp_path: Path) -> None:
    strata = 3  # all, the label and the size
    html = report(run, tmp_path)[0]
    assert (html.count('<path class="range"'), html.count('<path class="span"')) == (strata, 0)
    table = pd.read_csv(run.predictions / "summary.csv", keep_default_na=False)
    table["ends"] = table["ends"].replace("range", "interval")
    table.to_csv(run.predictions / "summary.csv", index=False)
    html = report(run, tmp_path)[0]
    assert (html.count('<path class="range"'), html.count('<path class="span"')) == (0, strata)
    assert f"95 % interval<br>0.500{TO}1.000" in html


def test_metrics_that_are_undefined_for_some_images_say_so(run: Run, tmp_path: Path) -> None:
    text = Page(report(run, tmp_path)[0].split('<section id="counts">')[1].split("</section>")[0]).text
    assert "In the truth Found Detected Missed False 2 3 1 1 2" in text
    assert f"IoU of detected objects 1.000 {DASH} 1 1 0" in text
    assert f"Object F1 0.500 range 0.000{TO}1.000 2 0 0" in text


def test_each_choice_shows_what_it_brought_on_val(run: Run, tmp_path: Path) -> None:
    html, markdown = report(run, tmp_path)
    text = Page(html.split('<section id="choices">')[1].split("</section>")[0]).text
    assert "15 images of 12 groups" in text
    assert f"Test-time augmentation none 0.7000 flips 0.6500 {MINUS}0.0500 ± 0.0100 no" in text
    assert "Threshold 0.5 0.7000 0.4 0.7400 +0.0400 ± 0.0123 0.4" in text
    assert f"Holes filled never 0.7400 always 0.7400 > {MINUS}0.0001 ± 0.0000 no" in text
    assert "Dense CRF set, not chosen no Holes" in text
    assert "Smallest object kept, pixels set, not chosen 30" in text
    assert "Circled: threshold 0.4" in text
    assert "| Threshold | 0.5 | 0.7000 | 0.4 | 0.7400 | +0.0400 ± 0.0123 | **0.4** |" in markdown
    assert "| Dense CRF | set | | | | | **no** |" in markdown


def test_where_val_could_not_choose_the_warning_stands_first(run: Run, tmp_path: Path) -> None:
    chosen = CHOSEN | {"options": [], "images": 0, "groups": 0, "warnings": ["nothing is annotated in <val>"]}
    change(run.segmenter / "model.yaml", DESCRIPTION | {"chosen": chosen})
    (run.plots / "thresholds.csv").write_text("threshold,dice\n", encoding="utf-8")
    html, markdown = report(run, tmp_path)
    assert "nothing is annotated in &lt;val&gt;" in html.split('<section id="summary">')[0]
    assert markdown.index("nothing is annotated in &lt;val") < markdown.index("## Scores")
    assert "Mean Dice on val over thresholds" not in html
    assert "Threshold set, not chosen 0.4" in Page(html).text


def test_where_foreground_is_ruled_out_everywhere_calibration_is_left_undefined(run: Run, tmp_path: Path) -> None:
    (run.plots / "calibration.csv").write_text("confidence,observed,pixels\n", encoding="utf-8")
    change(summary_path(run), summary_of(run) | {"calibration": asdict(CALIBRATION) | {"ece": None}})
    html, _ = report(run, tmp_path)
    assert f"calibration error {DASH}" in Page(html).text
    assert "perfect calibration" not in html


def test_calibration_names_ece_brier_and_what_is_missed_where_foreground_is_ruled_out(run: Run, tmp_path: Path) -> None:
    html, markdown = report(run, tmp_path)
    for text in (Page(html).text, markdown):
        assert "calibration error 0.100, over the pixels in which foreground is not ruled out" in text
        assert "of the others 1.5 % are annotated, where the network says 0.20 %" in text
        assert "Brier score 0.0123 over all pixels; the same probability for all of them would have 0.0456" in text
    several, _ = report(write_run(tmp_path / "several", task=SEVERAL), tmp_path)
    assert "0.100 0.0123" in Page(several).text


def test_uncertainty_is_shown_where_there_is_a_map_and_left_out_where_not(tmp_path: Path) -> None:
    html, markdown = report(write_run(tmp_path / "with"), tmp_path)
    assert html.count('class="uncertainty"') == 3
    assert "-1.00, a strong relation" in Page(html).text
    assert "-1.00, a strong relation" in markdown
    html, markdown = report(write_run(tmp_path / "without", with_uncertainty=False), tmp_path)
    assert "ncertainty" not in Page(html.split('<section id="parameters">')[0]).text.replace("evaluate.uncertainty", "")
    assert "ncertain" not in markdown


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
    assert worst.startswith("0.500 a|b 1 missed, 1 false <script>alert(1).png Label a|b Size small")
    assert "Dice 0.500" in worst
    assert "IoU 0.333" in worst
    assert "Objects 1 Objects found 1 Objects detected 0 Objects missed 1 False objects 1" in worst
    assert worst.endswith("Uncertainty 0.200")
    assert "1 missed" not in good
    assert empty.startswith("nothing annotated NA 1 false empty.png Label NA Size empty")
    assert f"HD95 {DASH}" in empty
    assert "Area annotated 0.0 % Area found 8.3 %" in empty


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
    change(summary_path(run), summary_of(run) | {"split": "val"})
    html, markdown = report(run, tmp_path)
    assert html.index("Scored on val.") < html.index('<section id="summary">')
    assert markdown.index("**Scored on val.**") < markdown.index("## Scores")
    choices = Page(html.split('<section id="choices">')[1].split("</section>")[0]).text
    assert "optimistically biased" in choices
    assert "test set was read" not in choices


def test_without_an_annotated_object_dice_is_said_to_be_undefined(tmp_path: Path) -> None:
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
    assert "nothing annotated: none" in Page(html).text
    assert "nothing annotated: none" in markdown
    assert "Skipped files" not in html
    assert "carry different labels" not in html


@pytest.mark.parametrize(
    "missing",
    [
        "params.yaml",
        "manifest.csv",
        "audit.json",
        "segmenter/model.yaml",
        "predictions/per_image.csv",
        "predictions/summary.csv",
        "predictions/summary.json",
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
    table = tmp_path / "run" / "predictions" / "summary.csv"
    table.write_text(table.read_text().replace("dice,", "dice,x", 1))
    with pytest.raises(UserError, match=r"predictions/summary\.csv: not readable as a table: .*'x"):
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
    assert len(blocks) == 6
    for block in blocks:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block}) == 1, block


def test_several_classes_have_a_section_of_their_own(run: Run, several: Run, tmp_path: Path) -> None:
    binary = report(run, tmp_path / "binary")
    assert 'id="classes"' not in binary[0]
    assert "## Classes" not in binary[1]
    html, _ = report(several, tmp_path)
    page = Page(html)
    assert page.open == []
    assert "a|b 2 0.500 0.500 0.667" in page.text
    assert f"c<d 0 {DASH} {DASH} 0.667" in page.text
    assert "Label NA a|b c<d All NA 0 1 0 1 a|b 0 1 1 2 c<d 0 0 0 0" in page.text
    assert "1 of 3 images (33.3 %)" in page.text
    assert "c&lt;d" in html
    assert "c<d" not in html


def test_the_markdown_of_several_classes_has_whole_tables(several: Run, tmp_path: Path) -> None:
    _, markdown = report(several, tmp_path)
    assert "| a\\|b | 2 | 0.500 | 0.500 | 0.667 |" in markdown
    assert "| label | NA | a\\|b | c&lt;d | all |" in markdown
    assert "| a\\|b | 0 | **1** | 1 | 2 |" in markdown
    blocks = [block.splitlines() for block in markdown.split("\n\n") if block.startswith("|")]
    assert len(blocks) == 8
    for block in blocks:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block}) == 1, block


def test_each_image_has_its_predicted_label(several: Run, tmp_path: Path) -> None:
    worst, good, empty = gallery_texts(report(several, tmp_path)[0])
    assert worst.startswith("0.500 a|b as c<d 1 missed, 1 false")
    assert "Predicted label c<d" in worst
    assert "Dice of the image's class 0.000" in worst
    assert good.startswith("1.000 a|b good.png")
    assert f"Dice of the image's class {DASH}" in empty


def test_the_legend_has_the_colours_of_the_outlines(several: Run, tmp_path: Path) -> None:
    html, _ = report(several, tmp_path)
    colours = [f"rgb{colour}" for colour in CLASSES[:2]]
    assert html.count(f'style="--class: {colours[1]}">predicted c&lt;d<') == 2  # classes, images
    frame = html.split('<span class="frame">')[1].split("</span>")[0]
    assert f'<path class="found" style="--class: {colours[0]}" d=""/>' in frame
    assert f'<path class="found" style="--class: {colours[1]}" d="M10 5l' in frame


def test_a_report_of_classes_needs_the_confusion_table(several: Run, tmp_path: Path) -> None:
    (several.plots / "confusion.csv").unlink()
    with pytest.raises(UserError, match=r"confusion\.csv"):
        report(several, tmp_path)


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
