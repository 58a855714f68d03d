"""What is wrong with the data, or at least worth knowing before a number is believed."""

from typing import Any

import pandas as pd

from medseg.manifest import Fault
from medseg.splits import DROPPED, straddling_groups


def audit(data: str, table: pd.DataFrame, faults: list[Fault]) -> dict[str, Any]:
    """Summarise a manifest (with splits) and the faults that were skipped, as plain values for JSON.

    `data` is the name of the data set, with which the result begins. Groups are those of the column `group`:
    near-duplicates and known patients. A group contradicts itself where its pictures carry different labels.
    """
    members = table.groupby("group")["file"].apply(list)
    labels = table.groupby("group")["label"].nunique()
    contradicting = [members[name] for name in labels[labels > 1].index]
    return {
        "data": data,
        "pictures": len(table),
        "skipped": len(faults),
        "empty_masks": int((table["foreground"] == 0).sum()),
        "straddling_groups": len(straddling_groups(table["split"], table["group"])),
        "dropped": int((table["split"] == DROPPED).sum()),
        "repeated_files": int(table["sha256"].duplicated().sum()),
        "groups_of_several": int((members.str.len() > 1).sum()),
        "groups_with_several_labels": len(contradicting),
        "splits": _counts(table, "split"),
        "labels": _counts(table, "label"),
        "labels_by_split": {str(split): _counts(part, "label") for split, part in table.groupby("split", sort=True)},
        "sizes": {
            side: {"least": int(table[side].min()), "most": int(table[side].max())} for side in ("height", "width")
        },
        "foreground": {"mean": round(float(table["foreground"].mean()), 6), "most": float(table["foreground"].max())},
        "near_duplicates": [names for names in members if len(names) > 1],
        "contradicting_labels": contradicting,
        "skipped_files": [{"file": fault.file, "reason": fault.reason} for fault in faults],
    }


def _counts(table: pd.DataFrame, column: str) -> dict[str, int]:
    return {str(name): int(count) for name, count in table[column].value_counts().sort_index().items()}
