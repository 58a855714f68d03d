import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tiny
from PIL import ExifTags, Image

from medseg.data.manifest import Fault
from medseg.datasets.record import Region
from medseg.previews.audit import audit, inverted_masks, turned_images


def table_of(*rows: dict[str, Any]) -> pd.DataFrame:
    base = {"label": "benign", "height": 10, "width": 20, "foreground": 0.5, "chained": False}
    return pd.DataFrame([{**base, "sha256": f"{number}", **row} for number, row in enumerate(rows)])


TABLE = table_of(
    {"file": "a", "group": "g0", "split": "train", "sha256": "same"},
    {"file": "b", "group": "g0", "split": "val", "sha256": "same", "label": "malignant"},
    {"file": "c", "group": "g1", "split": "train", "height": 30, "foreground": 0.0, "label": "normal"},
    {"file": "d", "group": "g2", "split": "dropped", "width": 5, "foreground": 0.9},
    {"file": "e", "group": "g3", "split": "test", "chained": True},
    {"file": "f", "group": "g3", "split": "test", "chained": True},
)


GROUP_WARNINGS = (
    "in 1 groups of near-duplicates the two most different images are none of each other: look whether they belong "
    "together (`chained_groups` in the audit)",
    *[
        "one group of near-duplicates or of one patient holds 2 images, 33% of all, and lies in one split as a whole "
        "(`large_groups` in the audit)"
    ]
    * 2,
)


def test_every_count_by_hand() -> None:
    found = audit("busi", TABLE, [Fault("x.png", "is cut off")], ["c"], [], ["uneven"])
    assert found == {
        "data": "busi",
        "images": 6,
        "skipped": 1,
        "empty_masks": 1,
        "full_masks": 0,
        "straddling_groups": 1,
        "dropped": 1,
        "inverted_masks": 1,
        "repeated_files": 1,
        "groups_of_several": 2,
        "groups_with_several_labels": 1,
        "splits": {"dropped": 1, "test": 2, "train": 2, "val": 1},
        "labels": {"benign": 4, "malignant": 1, "normal": 1},
        "labels_by_split": {
            "dropped": {"benign": 1},
            "test": {"benign": 2},
            "train": {"benign": 1, "normal": 1},
            "val": {"malignant": 1},
        },
        "sizes": {"height": {"least": 10, "most": 30}, "width": {"least": 5, "most": 20}},
        "foreground": {"mean": round(2.9 / 6, 6), "most": 0.9},
        "near_duplicates": [["a", "b"], ["e", "f"]],
        "contradicting_labels": [["a", "b"]],
        "chained_groups": [["e", "f"]],
        "large_groups": [["a", "b"], ["e", "f"]],
        "inverted_mask_files": ["c"],
        "turned_image_files": [],
        "warnings": [
            "no image in train has the label malignant: nothing is learnt or known of it there",
            "no image in val has the label benign, normal: nothing is learnt or known of it there",
            "no image in test has the label malignant, normal: nothing is learnt or known of it there",
            *GROUP_WARNINGS,
            "uneven",
        ],
        "skipped_files": [{"file": "x.png", "reason": "is cut off"}],
    }


def test_it_is_plain_json_and_says_nothing_of_clean_data() -> None:
    clean = audit("busi", TABLE.iloc[[0, 2]], [], [], [], [])
    assert json.loads(json.dumps(clean)) == clean
    for name in ("skipped", "straddling_groups", "dropped", "repeated_files", "groups_of_several"):
        assert clean[name] == 0
    assert (
        clean["near_duplicates"]
        == clean["contradicting_labels"]
        == clean["chained_groups"]
        == clean["large_groups"]
        == clean["inverted_mask_files"]
        == clean["skipped_files"]
        == []
    )


def test_a_fifth_of_the_images_is_the_least_group_that_is_told() -> None:
    few = audit("busi", TABLE.iloc[[0, 1] + [2] * 9].reset_index(drop=True), [], [], [], [])
    assert [len(files) for files in few["large_groups"]] == [9]


def test_masks_that_mark_the_background_are_found_by_their_border(tmp_path: Path) -> None:
    lesion, large, whole = np.zeros((3, 20, 30), np.uint8)
    lesion[5:12, 8:20] = 1
    large[:, 2:] = 1  # 93 % of the image, but not all around
    whole[:] = 1
    masks = {"inverted.png": 1 - lesion, "right.png": lesion, "large.png": large, "whole.png": whole}
    image = np.zeros((20, 30, 1), np.uint8)
    images = [tiny.image(tmp_path, file, image, mask) for file, mask in masks.items()]
    assert inverted_masks(images) == ["inverted.png"]


def test_a_mask_is_looked_at_inside_its_region(tmp_path: Path) -> None:
    mask = np.zeros((20, 30), np.uint8)
    mask[5:15, 5:15] = 1
    mask[9, 9] = 0
    image = tiny.image(tmp_path, "a.png", np.zeros((20, 30, 1), np.uint8), mask, region=Region(5, 5, 15, 15))
    assert inverted_masks([image]) == ["a.png"]


def test_masks_that_tell_nothing_apart_are_warned_of() -> None:
    rows: list[dict[str, Any]] = [{"file": name, "group": name, "split": "train"} for name in "abc"]
    (full,) = audit("busi", table_of(*({**row, "foreground": 1.0} for row in rows)), [], [], [], [])["warnings"]
    assert full.startswith("3 of 3 masks are foreground all over")
    (empty,) = audit("busi", table_of(*({**row, "foreground": 0.0} for row in rows)), [], [], [], [])["warnings"]
    assert empty.startswith("nothing is annotated in any image")
    assert audit("busi", table_of(*rows), [], [], [], [])["warnings"] == []


def save(path: Path, pixels: Any, orientation: int) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    Image.fromarray(pixels).save(path, exif=exif)


@pytest.mark.parametrize("orientation", [2, 3, 4, 5, 6, 7, 8])
def test_square_images_that_exif_turns_without_their_masks_are_found(orientation: int, tmp_path: Path) -> None:
    mask = np.eye(20, dtype=np.uint8)
    images = [tiny.image(tmp_path, f"{name}.png", tiny.noise(20, 20), mask) for name in "abc"]
    save(tmp_path / "b.png", tiny.noise(20, 20)[..., 0], orientation)
    for name in ("c.png", "c_mask.png"):  # both turn alike
        save(tmp_path / name, 255 * mask, orientation)
    assert turned_images(images) == ["b.png"]
    (warning,) = audit("busi", table_of({"file": "b", "group": "b", "split": "train"}), [], [], ["b.png"], [])[
        "warnings"
    ]
    assert "(b.png)" in warning
