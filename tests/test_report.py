"""The stage `report`: its page, its summary, and the charts on the page."""

import base64
import io
import json
import math
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import yaml
from finished_run import DESCRIPTION, METRICS, PARAMETERS, Run, call_by_class, write_run
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from medseg.errors import UserError
from medseg.figures import CLASSES
from medseg.models.params import Library, ModelParams
from medseg.records import Region
from medseg.report.charts import BOTTOM, LEFT, RIGHT, TOP, Axis, Line, bar_chart, line_chart, ticks
from medseg.report.content import THUMBNAIL, jpeg_uri
from medseg.report.page import percent, plain
from medseg.report.words import MODEL_IN_WORDS
from stages.report import main

VOID = {"meta", "img", "br", "line", "rect", "circle", "polyline"}


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


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return write_run(tmp_path / "run")


def test_the_page_is_one_whole_file_that_asks_no_network(run: Run, tmp_path: Path) -> None:
    html, _ = report(run, tmp_path)
    page = Page(html)
    assert page.open == []
    assert [address[:30] for address in page.addresses if not address.startswith(("data:image/", "#"))] == []
    assert not {"script", "link", "iframe", "object", "base"} & set(page.tags)
    assert "url(" not in html
    assert "@import" not in html
    assert "default-src 'none'" in html


def test_text_from_data_is_escaped(run: Run, tmp_path: Path) -> None:
    html, _ = report(run, tmp_path)
    assert "<script" not in html
    assert "&lt;script&gt;alert(1).png" in html
    assert "broken &lt;b&gt;.png" in html
    assert "no weights for &lt;resnet18&gt;" in html
    assert "twin &amp; sister.png" in html


def test_the_page_holds_the_figures_of_the_run(run: Run, tmp_path: Path) -> None:
    text = Page(report(run, tmp_path)[0]).text
    assert "U-Net on BUSI breast ultrasound" in text
    assert "Research software, not a medical device." in text
    assert "Mean Dice per image 0.750" in text
    assert "Mean IoU per image 0.667" in text
    assert (
        "Images with nothing marked: 1. Anything was found in 100.0 % of them; on average 8.33 % of their area" in text
    )
    assert "Pooled over all pixels , to compare with papers: Dice 0.600, IoU 0.429" in text
    assert "a|b 2 0.750 0.667 0.750 0.750 0.958" in text
    assert "rotate.degrees 15" in text
    assert "path null" in text
    assert "resized to 128x96 (aspect not kept)" in text
    assert "Files skipped as unusable 1" in text


def test_warnings_of_training_stand_before_the_summary(run: Run, tmp_path: Path) -> None:
    html, markdown = report(run, tmp_path)
    assert html.index("no weights for") < html.index('<section id="summary">')
    assert markdown.index("no weights for") < markdown.index("## Scores")


def test_images_stand_worst_first_and_those_without_a_dice_last(run: Run, tmp_path: Path) -> None:
    html, _ = report(run, tmp_path)
    files = re.findall(r'<td class="file">([^<]*)</td><td>', html.split('<section id="images">')[1])
    assert files == ["&lt;script&gt;alert(1).png", "good.png", "empty.png"]
    rows = Page(html.split('<section id="images">')[1].split("</section>")[0]).text
    assert "empty.png NA \N{EN DASH} \N{EN DASH} 0.00 % 8.33 %" in rows


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
    change(run.metrics, METRICS | {"split": "val"})
    html, markdown = report(run, tmp_path)
    assert html.index("Scored on val.") < html.index('<section id="summary">')
    assert markdown.index("**Scored on val.**") < markdown.index("## Scores")
    assert "chosen on the same images" in Page(html).text


def test_without_a_marked_object_dice_is_said_to_be_undefined(run: Run, tmp_path: Path) -> None:
    undefined = dict.fromkeys(("dice", "iou", "precision", "recall", "accuracy"))
    nothing = METRICS | undefined | {"images": 0, "labels": {}, "pooled": {"dice": None, "iou": None}}
    change(run.metrics, nothing)
    html, markdown = report(run, tmp_path)
    assert "Dice and IoU are not defined" in Page(html).text
    assert "None" not in html.split('<section id="curves">')[0]
    assert 'class="sheet"' not in html
    assert "| **all** | 0 | **\N{EN DASH}** |" in markdown


def test_without_empty_truths_and_faults_the_page_says_none(run: Run, tmp_path: Path) -> None:
    none = {"images": 0, "with_false_positives": None, "false_positive_area": None}
    change(run.metrics, METRICS | {"empty": none})
    audited = json.loads(run.audit.read_text(encoding="utf-8"))
    change(run.audit, audited | {"skipped": 0, "skipped_files": [], "contradicting_labels": []})
    html, markdown = report(run, tmp_path)
    assert "Images with nothing marked: none among those scored" in Page(html).text
    assert "Skipped files" not in html
    assert "carry different labels" not in html
    assert "| of these, with anything found | \N{EN DASH} |" in markdown


@pytest.mark.parametrize(
    "missing",
    [
        "params.yaml",
        "manifest.csv",
        "audit.json",
        "evaluate.json",
        "segmenter/model.yaml",
        "predictions/per_image.csv",
        "predictions/masks/good.png",
        "plots/cases.png",
        "plots/precision_recall.csv",
        "plots/dice_histogram.csv",
        "training/plots/metrics/val/dice.tsv",
    ],
)
def test_a_missing_input_is_named_and_nothing_is_written(run: Run, tmp_path: Path, missing: str) -> None:
    (tmp_path / "run" / missing).unlink()
    with pytest.raises(UserError, match=re.escape(missing)):
        report(run, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_thumbnails_show_truth_green_and_prediction_red(run: Run, tmp_path: Path) -> None:
    worst = thumbnails(report(run, tmp_path)[0])[0]
    red, green = worst[..., 0] - worst[..., 1], worst[..., 1] - worst[..., 0]
    assert worst.shape == (30, 40, 3)
    assert green[10, 5] > 60  # the truth's left side
    assert red[10, 19] > 60  # the prediction's right side
    assert abs(red[25, 30]) < 20


def test_thumbnails_show_the_annotated_window_alone(tmp_path: Path) -> None:
    html, _ = report(write_run(tmp_path / "run", Region(2, 4, 22, 34)), tmp_path)
    assert thumbnails(html)[0].shape == (20, 30, 3)
    assert "annotated window alone" in Page(html).text


def thumbnails(html: str) -> list[Any]:
    addresses = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', html)
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(text)))).astype(int) for text in addresses]


def test_sixty_thumbnails_of_noise_stay_under_four_megabytes() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (THUMBNAIL, THUMBNAIL, 3), dtype=np.uint8)
    assert 60 * len(jpeg_uri(noise)) < 4_000_000


def test_the_summary_has_whole_tables_and_neither_pictures_nor_links(run: Run, tmp_path: Path) -> None:
    _, markdown = report(run, tmp_path)
    assert "](" not in markdown
    assert "a\\|b" in markdown
    blocks = [block.splitlines() for block in markdown.split("\n\n") if block.startswith("|")]
    assert len(blocks) == 4
    for block in blocks:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block}) == 1, block


def test_patients_and_groups_on_both_sides_are_told_among_the_limits(run: Run, tmp_path: Path) -> None:
    audited = json.loads(run.audit.read_text(encoding="utf-8"))
    change(run.audit, audited | {"straddling_groups": 2})
    text = Page(report(run, tmp_path)[0]).text
    assert "The patient is not known for 4 of 4 pictures." in text
    assert "pictures on both sides of the split: 2." in text


def test_several_classes_have_a_section_of_their_own(run: Run, tmp_path: Path) -> None:
    binary = report(run, tmp_path / "binary")
    assert 'id="classes"' not in binary[0]
    assert "## Classes" not in binary[1]
    call_by_class(run)
    html, _ = report(run, tmp_path)
    page = Page(html)
    assert page.open == []
    assert "a|b 2 0.500 0.500 0.571" in page.text
    assert "c<d 0 \N{EN DASH} \N{EN DASH} \N{EN DASH}" in page.text
    assert "Label NA a|b c<d All NA 0 1 0 1 a|b 0 1 1 2 c<d 0 0 0 0 1 of 3 images (33.3 %)" in page.text
    assert "the first of a|b, c<d. A picture in which nothing is found is called NA." in page.text
    assert "c&lt;d" in html
    assert "c<d" not in html


def test_the_markdown_of_several_classes_has_whole_tables(run: Run, tmp_path: Path) -> None:
    call_by_class(run)
    _, markdown = report(run, tmp_path)
    assert "| a\\|b | 2 | 0.500 | 0.500 | 0.571 |" in markdown
    assert "| label | NA | a\\|b | c&lt;d | all |" in markdown
    assert "| a\\|b | 0 | **1** | 1 | 2 |" in markdown
    blocks = [block.splitlines() for block in markdown.split("\n\n") if block.startswith("|")]
    assert len(blocks) == 6
    for block in blocks:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block}) == 1, block


def test_each_picture_says_what_it_was_called(run: Run, tmp_path: Path) -> None:
    call_by_class(run)
    html, _ = report(run, tmp_path)
    rows = Page(html.split('<section id="images">')[1].split("</section>")[0]).text
    assert "alert(1).png a|b c<d 0.000 0.500 0.333 8.33 % 8.33 %" in rows
    assert "empty.png NA a|b \N{EN DASH} \N{EN DASH} \N{EN DASH} 0.00 % 8.33 %" in rows


def test_the_method_says_how_classes_are_found_and_the_epoch_chosen(run: Run, tmp_path: Path) -> None:
    assert "at least 0.5." in Page(report(run, tmp_path)[0]).text
    call_by_class(run)
    text = Page(report(run, tmp_path)[0]).text
    assert "the probabilities of a|b and c<d together are at least 0.5; its class is the most probable" in text
    assert "the mean over a|b, c<d of each class's Dice, pooled over all pixels of val" in text


def test_the_legend_has_the_colours_of_the_thumbnails(run: Run, tmp_path: Path) -> None:
    call_by_class(run)
    html, _ = report(run, tmp_path)
    assert html.count('style="--class: rgb(220, 38, 127)">predicted c&lt;d<') == 3  # classes, cases, images
    worst, good, *_ = thumbnails(html)
    np.testing.assert_allclose(worst[7:13, 19], [CLASSES[1]] * 6, atol=60)  # JPEG
    np.testing.assert_allclose(good[7:13, 5], [CLASSES[0]] * 6, atol=60)


def test_a_report_of_classes_needs_the_calls(run: Run, tmp_path: Path) -> None:
    call_by_class(run)
    (run.plots / "confusion.csv").unlink()
    with pytest.raises(UserError, match=r"confusion\.csv"):
        report(run, tmp_path)


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
    former = {
        "name": "earlier_run",
        "weights_sha256": "0" * 64,
        "continued": continued,
        "epochs_behind": 30 * continued,
    }
    training = DESCRIPTION["training"] | {"first_weights": "former", "former": former}
    change(run.segmenter / "model.yaml", DESCRIPTION | {"training": training})
    text = Page(report(run, tmp_path)[0]).text
    assert "resnet18, started from weights of a former network, earlier_run" in text
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
    code = "import sys, medseg.report.page, medseg.runs; sys.exit('torch' in sys.modules)"
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
    assert chart.lines[0].points == [(LEFT, BOTTOM), (RIGHT, TOP)]
    assert chart.mark == (RIGHT, TOP)


def test_bars_stand_on_the_axis_side_by_side_in_proportion() -> None:
    bars = bar_chart("", Axis("", 0, 1), "", [0, 10, 5]).bars
    assert [bar.top + bar.height for bar in bars] == pytest.approx([BOTTOM] * 3)
    assert bars[0].height == 0
    assert bars[1].height == pytest.approx(2 * bars[2].height, abs=0.02)
    assert bars[0].left + bars[0].width < bars[1].left
    assert [bar.text for bar in bars] == ["", "10", "5"]


def test_small_shares_never_look_like_nothing() -> None:
    assert [percent(share) for share in (None, 0.0, 0.123, 1.0)] == ["\N{EN DASH}", "0.0 %", "12.3 %", "100.0 %"]
    assert percent(0.00001, 2) == "< 0.01 %"


@given(st.text())
def test_text_in_markdown_stays_one_line_without_mark_up(text: str) -> None:
    shown = plain(text)
    assert len(shown.splitlines()) <= 1
    assert "<" not in shown
    assert not re.search(r"(?<!\\)(\\\\)*[|`*_\[\]]", shown)
