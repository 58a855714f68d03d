import json
from typing import Any

import pandas as pd

from medseg.audit import audit
from medseg.manifest import Fault


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
    found = audit("busi", TABLE, [Fault("x.png", "is cut off")])
    assert found == {
        "data": "busi",
        "pictures": 6,
        "skipped": 1,
        "empty_masks": 1,
        "straddling_groups": 1,
        "dropped": 1,
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
        "skipped_files": [{"file": "x.png", "reason": "is cut off"}],
    }


def test_the_data_s_name_stands_first() -> None:
    assert next(iter(audit("isic2017", TABLE, []).items())) == ("data", "isic2017")


def test_it_is_plain_json_and_says_nothing_of_clean_data() -> None:
    clean = audit("busi", TABLE.iloc[[0, 2]], [])
    assert json.loads(json.dumps(clean)) == clean
    for name in ("skipped", "straddling_groups", "dropped", "repeated_files", "groups_of_several"):
        assert clean[name] == 0
    assert clean["near_duplicates"] == clean["contradicting_labels"] == clean["skipped_files"] == []
