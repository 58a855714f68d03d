import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import tiny

from medseg.data.manifest import Fault
from medseg.datasets.record import Region
from medseg.previews.audit import audit, inverted_masks


def table_of(*rows: dict[str, Any]) -> pd.DataFrame:
    base = {"label": "benign", "height": 10, "width": 20, "foreground": 0.5}
    return pd.DataFrame([{**base, "sha256": f"{number}", **row} for number, row in enumerate(rows)])


TABLE = table_of(
    {"file": "a", "group": "g0", "split": "train", "sha256": "same"},
    {"file": "b", "group": "g0", "split": "val", "sha256": "same", "label": "malignant"},
    {"file": "c", "group": "g1", "split": "train", "height": 30, "foreground": 0.0, "label": "normal"},
    {"file": "d", "group": "g2", "split": "dropped", "width": 5, "foreground": 0.9},
    {"file": "e", "group": "g3", "split": "test"},
    {"file": "f", "group": "g3", "split": "test"},
)


def test_every_count_by_hand() -> None:
    found = audit("busi", TABLE, [Fault("x.png", "is cut off")], ["c"])
    assert found == {
        "data": "busi",
        "images": 6,
        "skipped": 1,
        "empty_masks": 1,
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
        "inverted_mask_files": ["c"],
        "skipped_files": [{"file": "x.png", "reason": "is cut off"}],
    }


def test_it_is_plain_json_and_says_nothing_of_clean_data() -> None:
    clean = audit("busi", TABLE.iloc[[0, 2]], [], [])
    assert json.loads(json.dumps(clean)) == clean
    for name in ("skipped", "straddling_groups", "dropped", "repeated_files", "groups_of_several"):
        assert clean[name] == 0
    assert (
        clean["near_duplicates"]
        == clean["contradicting_labels"]
        == clean["inverted_mask_files"]
        == clean["skipped_files"]
        == []
    )


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
