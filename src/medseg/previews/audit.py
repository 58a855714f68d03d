"""The audit of a data set: what is wrong or unusual in it."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from medseg.data.image import Image
from medseg.data.image_io import Pixels, is_turned
from medseg.data.manifest import Fault
from medseg.data.splits import DROPPED, straddling_groups
from medseg.datasets.layout import shortened

MOST_ANNOTATED = 0.5  # share of foreground above which a mask may be inverted
LARGE_GROUP = 0.2  # share of the images: no split of such a group comes out as asked for
BORDER_ANNOTATED = 0.95  # share of the border pixels above which it looks inverted: few lesions reach all borders


def audit(
    data: str,
    table: pd.DataFrame,
    faults: list[Fault],
    inverted: Sequence[str],
    turned: Sequence[str],
    uneven: Sequence[str],
) -> dict[str, Any]:
    """Summarise a manifest with splits and the skipped faults for JSON.

    `data` is the name of the data set; `inverted` and `turned` are what `inverted_masks` and `turned_images` found,
    `uneven` what `splits.uneven_shares` tells. Groups are those of the column `group`: near-duplicates and known
    patients. `contradicting_labels` are groups whose images have different labels, `chained_groups` those with
    near-duplicates that are none of each other, `large_groups` those of several images that hold a fifth of all.
    `warnings` say what somebody should look at before a run.
    """
    members = table.groupby("group")["file"].apply(list)
    labels = table.groupby("group")["label"].nunique()
    contradicting = [members[name] for name in labels[labels > 1].index]
    by_split = {str(split): _counts(part, "label") for split, part in table.groupby("split", sort=True)}
    is_chained = table.groupby("group")["chained"].any()
    chained = [members[name] for name in is_chained[is_chained].index]
    large = list(members[(members.str.len() > 1) & (members.str.len() >= LARGE_GROUP * len(table))])
    return {
        "data": data,
        "images": len(table),
        "skipped": len(faults),
        "empty_masks": int((table["foreground"] == 0).sum()),
        "full_masks": int((table["foreground"] == 1).sum()),
        "straddling_groups": len(straddling_groups(table["split"], table["group"])),
        "dropped": int((table["split"] == DROPPED).sum()),
        "inverted_masks": len(inverted),
        "repeated_files": int(table["sha256"].duplicated().sum()),
        "groups_of_several": int((members.str.len() > 1).sum()),
        "groups_with_several_labels": len(contradicting),
        "splits": _counts(table, "split"),
        "labels": _counts(table, "label"),
        "labels_by_split": by_split,
        "sizes": {
            side: {"least": int(table[side].min()), "most": int(table[side].max())} for side in ("height", "width")
        },
        "foreground": {"mean": round(float(table["foreground"].mean()), 6), "most": float(table["foreground"].max())},
        "near_duplicates": [names for names in members if len(names) > 1],
        "contradicting_labels": contradicting,
        "chained_groups": chained,
        "large_groups": large,
        "inverted_mask_files": list(inverted),
        "turned_image_files": list(turned),
        "warnings": [*_warnings(table, by_split, turned), *_group_warnings(chained, large, len(table)), *uneven],
        "skipped_files": [{"file": fault.file, "reason": fault.reason} for fault in faults],
    }


def _warnings(table: pd.DataFrame, by_split: dict[str, dict[str, int]], turned: Sequence[str]) -> Iterator[str]:
    full, empty = int((table["foreground"] == 1).sum()), int((table["foreground"] == 0).sum())
    if full:
        yield (
            f"{full} of {len(table)} masks are foreground all over: where that is not meant, the masks have no 0, or "
            "the files of masks and images are confused"
        )
    if empty == len(table):
        yield "nothing is annotated in any image: the masks hold nothing but 0"
    for split in ("train", "val", "test"):
        if absent := sorted(set(table["label"]) - set(by_split.get(split, {}))) if split in by_split else []:
            yield f"no image in {split} has the label {', '.join(absent)}: nothing is learnt or known of it there"
    if turned:
        yield (
            f"EXIF data turn {len(turned)} of {len(table)} images and not their masks ({shortened(turned)}): look "
            "whether they fit, and save images and masks without EXIF where they do not"
        )


def _group_warnings(chained: Sequence[list[str]], large: Sequence[list[str]], images: int) -> Iterator[str]:
    if chained:
        yield (
            f"in {len(chained)} groups of near-duplicates the two most different images are none of each other: look "
            "whether they belong together (`chained_groups` in the audit)"
        )
    for files in large:
        yield (
            f"one group of near-duplicates or of one patient holds {len(files)} images, {len(files) / images:.0%} of "
            "all, and lies in one split as a whole (`large_groups` in the audit)"
        )


def turned_images(images: Sequence[Image]) -> list[str]:
    """The files of `images` that EXIF data turn or mirror where their masks are not, though they fit in size.

    Only headers are read. Raises `UserError` where a file is missing or unreadable.
    """
    return [
        image.file
        for image in images
        if is_turned(image.root / image.file) and not any(is_turned(image.root / name) for name in image.masks)
    ]


def inverted_masks(images: Sequence[Image]) -> list[str]:
    """The files of `images` whose masks look inverted, as if the background had been annotated.

    In such a mask more than `MOST_ANNOTATED` of the annotated region is foreground, but not all, and more than
    `BORDER_ANNOTATED` of its border pixels. Other masks are not read. Raises `UserError` where a mask is missing or
    unreadable.
    """
    suspects = [image for image in images if MOST_ANNOTATED < image.foreground < 1]
    return [image.file for image in suspects if _is_annotated_around(image.crop(image.read_mask()))]


def _is_annotated_around(mask: Pixels) -> bool:
    border = np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]])
    return bool(border.mean() > BORDER_ANNOTATED)


def _counts(table: pd.DataFrame, column: str) -> dict[str, int]:
    return {str(name): int(count) for name, count in table[column].value_counts().sort_index().items()}
