"""Splitting images into train, val and test."""

from fnmatch import fnmatch
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pandas as pd
from pydantic import Field

from medseg.core.errors import UserError
from medseg.core.files import write_text
from medseg.core.params import Section, Seed
from medseg.datasets.layout import composed

SPLITS = ("train", "val", "test")
_UNEVEN = 0.25  # of the images asked for, by which a share may be missed before it is told
DROPPED = "dropped"

Straddling = Literal["keep", "drop_from_train", "fail"]
Share = Annotated[float, Field(ge=0, lt=1)]


class Fraction(Section):
    """Random: groups stay whole, labels keep their shares."""

    name: Literal["fraction"]
    seed: Seed
    val: float = Field(gt=0, lt=1)
    test: Share


class Folds(Section):
    """Random: test is fold `fold` of `folds`, val a share of the rest; groups stay whole."""

    name: Literal["folds"]
    seed: Seed
    folds: int = Field(ge=2, le=100)
    fold: int = Field(ge=0, lt=100)
    val: float = Field(gt=0, lt=1)


class Official(Section):
    """The publisher's own split."""

    name: Literal["official"]
    straddling: Straddling


class Pattern(Section):
    """By file name: what matches `test` is test, else what matches `val` is val, the rest trains."""

    name: Literal["pattern"]
    val: str = Field(min_length=1)
    test: str | None
    straddling: Straddling


class Lists(Section):
    """Text files `train.txt`, `val.txt` and, if there is a test set, `test.txt`, one file name per line."""

    name: Literal["lists"]
    folder: str = Field(min_length=1, pattern=r"^[A-Za-z0-9_-]+$")
    straddling: Straddling


SplitParams = Annotated[Fraction | Folds | Official | Pattern | Lists, Field(discriminator="name")]


def assign(table: pd.DataFrame, params: SplitParams, lists: Path) -> pd.Series:
    """Give each row of the manifest its split: train, val, test, or dropped.

    `table` has the columns file, label, group and official. `lists` holds the folders that `Lists` names.
    Raises `UserError` where one that the parameters ask for would be empty, or where an image has no official split.
    """
    match params:
        case Fraction():
            splits = _with_train(table, {"test": params.test, "val": params.val}, params.seed)
        case Folds():
            splits = _folds(table, params)
        case Official():
            splits = _straddled(_official(table), table["group"], params.straddling)
        case Pattern():
            splits = _straddled(_by_pattern(table, params), table["group"], params.straddling)
        case Lists():
            splits = _straddled(_from_lists(table, lists / params.folder), table["group"], params.straddling)
    _refuse_empty(splits, params)
    return splits


def uneven_shares(table: pd.DataFrame, params: SplitParams) -> list[str]:
    """Where groups are so large that shares drawn here miss what was asked for by a quarter, and by over an image.

    `table` is that of `assign`, with the column `split`. Of folds all test sets are looked at, not this run's alone.
    A sentence for each drawing; none for splits that are given.
    """
    count = len(table)
    match params:
        case Fraction():
            asked = {"val": params.val * count, "test": params.test * count}
            found = {split: int((table["split"] == split).sum()) for split in asked}
            what = "images by split"
        case Folds():
            folds = _dealt_folds(table, params)
            asked = {str(fold): count / params.folds for fold in range(params.folds)}
            found = {fold: int((folds == fold).sum()) for fold in asked}
            what = "test images by fold"
        case _:
            return []
    if all(abs(found[name] - number) <= max(1, _UNEVEN * number) for name, number in asked.items()):
        return []
    shares = ", ".join(f"{name} {found[name]} where {number:.0f} were asked for" for name, number in asked.items())
    return [f"{what}: {shares}; groups are never parted, and some are too large to come out even"]


def expects_test(params: SplitParams) -> bool:
    """Whether the parameters ask for a test set; a protocol without one is scored on val, and says so."""
    match params:
        case Fraction():
            return params.test > 0
        case Pattern():
            return params.test is not None
        case Lists():
            return False  # the folder decides: a missing test.txt means that there is none
        case _:
            return True


def straddling_groups(splits: pd.Series, groups: pd.Series) -> list[str]:
    """The groups that have images in more than one of train, val and test, sorted."""
    placed = splits[splits != DROPPED]
    counts = placed.groupby(groups.loc[placed.index]).nunique()
    return sorted(counts[counts > 1].index)


def write_lists(table: pd.DataFrame, folder: Path) -> None:
    """Write the split as `train.txt`, `val.txt` and, where there is one, `test.txt`, which `Lists` reads back."""
    for split in SPLITS:
        files = table.loc[table["split"] == split, "file"]
        if len(files):
            write_text(folder / f"{split}.txt", "".join(f"{file}\n" for file in files))


def _with_train(table: pd.DataFrame, shares: dict[str, float], seed: int) -> pd.Series:
    left = 1 - sum(shares.values())
    if left <= 0:
        raise UserError(f"params.yaml: split: {' + '.join(shares)} leave nothing to train on")
    return _deal(table, {"train": left, **shares}, seed)


def _deal(table: pd.DataFrame, shares: dict[str, float], seed: int) -> pd.Series:
    """Assign whole groups, label by label, each to the part that lacks most images; deficits carry over between labels.

    So every label keeps its shares as nearly as whole groups allow, and so does the total, however rare the labels. A
    group of several labels counts for its most frequent one.
    """
    rng = np.random.default_rng(seed)
    groups = table.groupby("group").agg(size=("file", "size"), label=("label", lambda labels: labels.mode()[0]))
    owed = dict.fromkeys(shares, 0.0)
    chosen: dict[str, str] = {}
    for _, of_label in groups.groupby("label", sort=True):
        for part, share in shares.items():
            owed[part] += share * of_label["size"].sum()
        shuffled = of_label.iloc[rng.permutation(len(of_label))].sort_values("size", ascending=False, kind="stable")
        for name, size in shuffled["size"].items():
            part = max(owed, key=lambda candidate: owed[candidate])
            chosen[str(name)] = part
            owed[part] -= size
    return table["group"].map(chosen)


def _folds(table: pd.DataFrame, params: Folds) -> pd.Series:
    if params.fold >= params.folds:
        raise UserError(f"params.yaml: split.fold = {params.fold}: must be from 0 to folds - 1 = {params.folds - 1}")
    if table["group"].nunique() < params.folds:
        raise UserError(f"params.yaml: split.folds = {params.folds}: there are only {table['group'].nunique()} groups")
    folds = _dealt_folds(table, params)
    splits = _with_train(table[folds != str(params.fold)], {"val": params.val}, params.seed)
    return splits.reindex(table.index, fill_value="test")


def _dealt_folds(table: pd.DataFrame, params: Folds) -> pd.Series:
    return _deal(table, {str(fold): 1 / params.folds for fold in range(params.folds)}, params.seed)


def _official(table: pd.DataFrame) -> pd.Series:
    unknown = table.loc[table["official"] == "", "file"]
    if len(unknown):
        raise UserError(
            f"{unknown.iloc[0]} and {len(unknown) - 1} more images have no official split; "
            "set split to fraction, pattern, lists or folds"
        )
    return table["official"].copy()


def _by_pattern(table: pd.DataFrame, params: Pattern) -> pd.Series:
    names = table["file"].str.rsplit("/", n=1).str[-1]
    splits = pd.Series("train", index=table.index)
    splits[[fnmatch(name, params.val) for name in names]] = "val"
    if params.test is not None:
        splits[[fnmatch(name, params.test) for name in names]] = "test"
    return splits


def _from_lists(table: pd.DataFrame, folder: Path) -> pd.Series:
    """Images in no list are dropped. Raises `UserError` for a name without an image, or in the lists twice."""
    placed: dict[str, str] = {}
    files = table["file"].map(composed)
    known = set(files)
    for split in SPLITS:
        path = folder / f"{split}.txt"
        if not path.is_file() and split == "test":
            continue
        for name in map(composed, _names_in(path)):
            if name in placed:
                raise UserError(f"{path}: '{name}' is named twice, here and in {placed[name]}.txt")
            if name not in known:
                raise UserError(f"{path}: '{name}' is no image of the data set (names are relative to data/raw)")
            placed[name] = split
    return files.map(placed).fillna(DROPPED)


def _names_in(path: Path) -> list[str]:
    if not path.is_file():
        raise UserError(f"{path}: no such file; split.folder names a folder that holds train.txt and val.txt")
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text: {error}") from None
    return [line.strip() for line in lines if line.strip()]


def _straddled(splits: pd.Series, groups: pd.Series, straddling: Straddling) -> pd.Series:
    on_both_sides = straddling_groups(splits, groups)
    if on_both_sides and straddling == "fail":
        raise UserError(
            f"{len(on_both_sides)} groups of near-duplicates or patients lie in more than one split "
            f"({', '.join(on_both_sides[:5])}); set split.straddling to keep or drop_from_train"
        )
    if straddling == "drop_from_train":
        return splits.mask((splits == "train") & groups.isin(on_both_sides), DROPPED)
    return splits


def _refuse_empty(splits: pd.Series, params: SplitParams) -> None:
    counts = splits.value_counts()
    advice = " (patterns see names of files alone, no folders)" if isinstance(params, Pattern) else ""
    for split in SPLITS if expects_test(params) else SPLITS[:2]:
        if counts.get(split, 0) == 0:
            raise UserError(
                f"params.yaml: split: leaves no image for '{split}' out of {len(splits)}; change what it asks for"
                f"{advice}"
            )
