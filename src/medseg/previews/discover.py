"""A folder of the user's own, looked at: which files are images, which masks, how names pair, what else is known.

What is found becomes the two patterns of `datasets.folder`, which alone decide what is paired; this module proposes.
"""

import difflib
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from medseg.core.errors import UserError
from medseg.core.folders import files_below
from medseg.data.colours import TRUTH
from medseg.data.image_io import SUFFIXES, Pixels, read_to_show, read_values, to_channels
from medseg.data.mask_io import read_mask
from medseg.data.packed import evenly_spaced
from medseg.datasets.folder import SPLIT_WORDS, FolderParams, TableParams, TextParams
from medseg.datasets.layout import composed, shortened
from medseg.datasets.record import Record
from medseg.datasets.tables import read_header, read_table
from medseg.previews.drawing import contact_sheet, filled, titled

MASK_WORDS = (
    *("masks", "mask", "labels", "label", "segmentations", "segmentation", "seg", "groundtruth", "ground_truth"),
    *("gt", "annotations", "annotation", "annot", "truth", "manual"),
)
IMAGE_WORDS = ("images", "image", "imgs", "img", "input", "inputs", "raw", "original", "photos", "scans")
PATIENT_WORDS = ("patient", "patient_id", "subject", "subject_id", "case", "case_id")
LABEL_WORDS = ("label", "class", "diagnosis", "category", "type", "target")
READ = 24  # pairs that are read for sizes, channels and mask values
MOST_LABELS = 30
DEVICE_BITS = (8, 10, 12, 14, 16)
FEW_IMAGES = 30
ADVICE = (
    "few images: val and test get a handful each, too few to judge by; "
    "-S split=folds tests every image once, -S prepare=patchify makes samples of large ones"
)
COLOUR = 8  # grey levels between channels; less comes from JPEG's compression of grey images
FEW_VALUES = 32  # an image has more
_WORD = "|".join(sorted(MASK_WORDS, key=len, reverse=True))
_SUFFIX = re.compile(rf"(?P<stem>.+?)(?P<end>[_\-. ]*(?:{_WORD})(?:[_\-. ]?[0-9]+)?)$", re.IGNORECASE)
_SERIAL = re.compile(r"[_\-. ]?[0-9]+$")
_PREFIX = re.compile(rf"^(?P<start>(?:{_WORD})[_\-. ]+)(?P<stem>.+)$", re.IGNORECASE)


@dataclass(frozen=True)
class Found:
    """What was found, and the section `data` that says it."""

    params: FolderParams
    images: int
    masks: int
    unpaired: list[str]  # images without a mask
    splits: dict[str, int]  # images of each official split; empty where there is none
    labels: dict[str, int]
    patients: int  # 0: unknown
    height: tuple[int, int]  # least and greatest of the images read, pixels
    width: tuple[int, int]
    channels: int  # 3 where any image read has colours
    greatest: int | None  # value of the images read, where all are 16-bit files
    empty: int  # masks read that hold no foreground
    read: int
    sheet: Pixels

    @property
    def lines(self) -> list[str]:
        """What was found and is assumed, for the user to check."""
        data = self.params
        lines = [
            f"{self.images} images as {data.images}, {self.masks} masks as {data.masks}",
            f"looked into {self.read} of them: {_range(self.width)} pixels wide, {_range(self.height)} high, "
            f"{'colour' if self.channels == 3 else 'grey'}, {self.empty} without foreground",
        ]
        if self.greatest is not None:
            lines.append(f"files of 16 bits with values up to {self.greatest}: taken as {self.device_bits} bits")
        if self.unpaired:
            lines.append(f"{len(self.unpaired)} images have no mask: {shortened(self.unpaired)}")
        counts = ", ".join(f"{name} {count}" for name, count in self.labels.items())
        labels, patients = _origin(data.label), _origin(data.patient)
        lines.append(f"labels{labels}: {counts}" if len(self.labels) > 1 else "labels: none found, all images alike")
        lines.append(
            f"patients{patients}: {self.patients}" if self.patients else "patients: unknown, each image its own"
        )
        splits = ", ".join(f"{name} {count}" for name, count in self.splits.items())
        lines.append(f"split: as the folders say, {splits}" if splits else "split: drawn here, groups kept whole")
        if not splits and self.images < FEW_IMAGES:
            lines.append(ADVICE)
        return lines

    @property
    def device_bits(self) -> int:
        """The fewest bits of usual detectors that hold the greatest value; 8 of 8-bit files."""
        bits = 8 if self.greatest is None else self.greatest.bit_length()
        return next(usual for usual in DEVICE_BITS if usual >= bits)


def _range(pixels: tuple[int, int]) -> str:
    return str(pixels[0]) if pixels[0] == pixels[1] else f"{pixels[0]} to {pixels[1]}"


def _origin(source: TextParams | TableParams | None) -> str:
    """Where labels or patients come from, in brackets."""
    match source:
        case TableParams():
            return f" (column {source.column} of {source.file})"
        case TextParams():
            return f" (as {source.text})"
    return ""


def discover(root: Path) -> Found:
    """Look at a folder of images and masks.

    Raises `UserError` where nothing pairs, naming the nearest files, or where masks are no binary masks.
    """
    if not root.is_dir():
        raise UserError(f"{root}: no such folder")
    files = [name for name in files_below(root) if PurePosixPath(name).suffix.lower() in SUFFIXES]
    images, masks = _sides(files)
    if not masks:
        images, masks = _sides_by_ending(files, root)
    pairs = _pairs(images, masks)
    if not pairs:
        raise UserError(f"{root}: no image could be paired with a mask by name; {_nearest(images, masks, files)}")
    names = _patterns(pairs)
    plain = FolderParams(
        name="folder",
        path=str(root.resolve()),
        archives=(),
        label=TextParams(name="text", text="all"),
        patient=None,
        official=None,
        **names,
    )
    params = _with_tables(_with_folders(plain, pairs), root, files_below(root), sorted(pairs))
    return _measured(params, root)


def _sides(files: Sequence[str]) -> tuple[list[str], list[str]]:
    """Images and masks, by the words in names and in folders that do not hold all files."""
    common = set.intersection(*({*PurePosixPath(name).parts[:-1]} for name in files)) if files else set()
    masks = [name for name in files if _is_mask(name, common)]
    return [name for name in files if name not in set(masks)], masks


def _is_mask(name: str, common: set[str]) -> bool:
    path = PurePosixPath(name)
    return any(_has_word(part, MASK_WORDS) for part in path.parts[:-1] if part not in common) or bool(
        _SUFFIX.fullmatch(path.stem) or _PREFIX.fullmatch(path.stem)
    )


def _has_word(text: str, words: Iterable[str]) -> bool:
    parts = [part for part in re.split(r"[^a-z]+", text.lower()) if part]
    return any(part in words for part in parts) or text.lower() in words


def _key(name: str) -> tuple[tuple[str, ...], str]:
    """What an image and its mask have in common: folders without the words for either, and the bare name."""
    path = PurePosixPath(name)
    folders = tuple(part for part in path.parts[:-1] if not _has_word(part, (*MASK_WORDS, *IMAGE_WORDS)))
    return folders, _bare(path.stem)


def _around(stem: str) -> tuple[str, str]:
    """What stands before and behind the bare name in the stem of a mask."""
    if match := _SUFFIX.fullmatch(stem):
        return "", match["end"]
    if match := _PREFIX.fullmatch(stem):
        return match["start"], ""
    return "", ""


def _added(stem: str, own: str) -> tuple[str, str]:
    """What the stem of a mask has before and behind `own`, the bare name of its image."""
    if _bare(stem) == own:
        return _around(stem)
    start = 0 if stem.startswith(own) else stem.rindex(own)
    return stem[:start], stem[start + len(own) :]


def _bare(stem: str) -> str:
    start, end = _around(stem)
    return composed(stem.removeprefix(start).removesuffix(end))


def _pairs(images: Sequence[str], masks: Sequence[str]) -> dict[str, list[str]]:
    """The masks of each image that has some."""
    by_key = defaultdict(list)
    for name in masks:
        by_key[_key(name)].append(name)
    found = {name: by_key[_key(name)] for name in images if _key(name) in by_key}
    return found or _pairs_by_name(images, masks)


def _pairs_by_name(images: Sequence[str], masks: Sequence[str]) -> dict[str, list[str]]:
    """The same by names alone, where no two images share one: bare names, or what most masks add to an image's."""
    by_stem = {composed(PurePosixPath(name).stem): name for name in images}
    if len(by_stem) < len(images):
        return {}
    stems = {name: composed(PurePosixPath(name).stem) for name in masks}
    found = _joined((by_stem.get(_bare(stem)), name) for name, stem in stems.items())
    if found:
        return found
    inside = {name: max((own for own in by_stem if own in stem), key=len, default="") for name, stem in stems.items()}
    added = {name: _added(stems[name], own) for name, own in inside.items() if own}
    usual = Counter(added.values()).most_common(1)
    return _joined((by_stem[inside[name]], name) for name, around in added.items() if around == usual[0][0])


def _joined(pairs: Iterable[tuple[str | None, str]]) -> dict[str, list[str]]:
    """The masks of each image from pairs of both; those without an image are left out."""
    found: dict[str, list[str]] = defaultdict(list)
    for image, mask in pairs:
        if image is not None:
            found[image].append(mask)
    return dict(found)


def _sides_by_ending(files: Sequence[str], root: Path) -> tuple[list[str], list[str]]:
    """Images and masks of equal names, told apart by their endings: masks have few values."""
    by_ending = defaultdict(list)
    for name in files:
        by_ending[PurePosixPath(name).suffix].append(name)
    if len(by_ending) != 2:
        return list(files), []
    first, second = by_ending.values()
    few = [len(np.unique(read_to_show(root / names[0]))) <= FEW_VALUES for names in (first, second)]
    if few == [True, False]:
        return second, first
    return (first, second) if few == [False, True] else (list(files), [])


def _patterns(pairs: dict[str, list[str]]) -> dict[str, str]:
    """The patterns `images` and `masks` that describe most pairs."""
    found = Counter(_pattern(image, mask, pairs) for image, masks in pairs.items() for mask in masks)
    image_pattern, mask_pattern = found.most_common(1)[0][0]
    return {"images": image_pattern, "masks": mask_pattern}


def _pattern(image: str, mask: str, pairs: dict[str, list[str]]) -> tuple[str, str]:
    image_path, mask_path = PurePosixPath(image), PurePosixPath(mask)
    depth = len(image_path.parts) - 1
    same_depth = [PurePosixPath(name).parts for name in pairs if len(PurePosixPath(name).parts) == depth + 1]
    levels = [{path[level] for path in same_depth} for level in range(depth)]
    fields: dict[str, str] = {}
    parts = []
    for level, part in enumerate(image_path.parts[:-1]):
        if len(levels[level]) == 1:
            parts.append(part)
            continue
        name = "split" if {value.lower() for value in levels[level]} <= SPLIT_WORDS.keys() else f"folder{level or ''}"
        fields[part] = name
        parts.append(f"{{{name}}}")
    all_masks = [PurePosixPath(name).parts[:-1] for names in pairs.values() for name in names]
    folders = [
        f"{{{fields[part]}}}" if part in fields else part if all(part in path for path in all_masks) else "*"
        for part in mask_path.parts[:-1]
    ]
    several = any(len(names) > 1 for names in pairs.values())
    start, end = _added(composed(mask_path.stem), _bare(image_path.stem))
    end = f"{_SERIAL.sub('', end)}*" if several else end
    name = f"{{stem}}{image_path.suffix}"
    return "/".join([*parts, name]), "/".join([*folders, f"{start}{{stem}}{end}{mask_path.suffix}"])


def _with_folders(params: FolderParams, pairs: dict[str, list[str]]) -> FolderParams:
    """Labels and official splits from fields of the pattern."""
    fields = re.findall(r"\{(\w+)\}", params.images)
    changes: dict[str, object] = {}
    if "split" in fields:
        changes["official"] = "{split}"
    folders = [name for name in fields if name.startswith("folder")]
    if len(folders) == 1:
        level = params.images.split("/").index(f"{{{folders[0]}}}")
        if len({PurePosixPath(name).parts[level] for name in pairs}) <= MOST_LABELS:
            changes["label"] = TextParams(name="text", text=f"{{{folders[0]}}}")
    return params.model_copy(update=changes)


def _with_tables(params: FolderParams, root: Path, files: Sequence[str], images: Sequence[str]) -> FolderParams:
    """Labels and patients from a CSV table whose rows name the images."""
    changes: dict[str, object] = {}
    for table in (name for name in files if name.lower().endswith(".csv")):
        header = read_header(root / table)
        key = next((column for column in header if _names_images(root / table, column, images)), None)
        if key is None:
            continue
        for words, field in ((LABEL_WORDS, "label"), (PATIENT_WORDS, "patient")):
            column = next((name for name in header if name.lower().strip() in words and name != key), None)
            if column and field not in changes:
                changes[field] = TableParams(name="table", file=table, image=key, column=column)
    return params.model_copy(update=changes)


def _names_images(table: Path, column: str, images: Sequence[str]) -> bool:
    """Whether a column holds the path, name or stem of every image."""
    values = {composed(row[column]) for row in read_table(table, (column,))}
    images = [composed(name) for name in images]
    return all({name, PurePosixPath(name).name, PurePosixPath(name).stem} & values for name in images)


def _measured(params: FolderParams, root: Path) -> Found:
    """Scan by the patterns as the pipeline will, and read some pairs."""
    records = params.scan(root)
    paired = [record for record in records if record.masks]
    chosen = [paired[index] for index in evenly_spaced(len(paired), READ)]
    read = [_read(record, root) for record in chosen]
    heights, widths = ([image.shape[axis] for image, _ in read] for axis in (0, 1))
    patients = {record.patient for record in records if record.patient}
    return Found(
        params=params,
        images=len(records),
        masks=sum(len(record.masks) for record in records),
        unpaired=[record.file for record in records if not record.masks],
        splits=dict(Counter(str(record.official) for record in records if record.official)),
        labels=dict(sorted(Counter(record.label for record in records).items())),
        patients=len(patients),
        height=(min(heights), max(heights)),
        width=(min(widths), max(widths)),
        greatest=_greatest([root / record.file for record in chosen]),
        channels=3 if any(_has_colours(image) for image, _ in read) else 1,
        empty=sum(not mask.any() for _, mask in read),
        read=len(read),
        sheet=_sheet(chosen, read),
    )


def _read(record: Record, root: Path) -> tuple[Pixels, Pixels]:
    image, mask = read_to_show(root / record.file), read_mask([root / name for name in record.masks])
    if image.shape[:2] != mask.shape:
        raise UserError(f"{root / record.file}: its mask {record.masks[0]} has another size")
    return image, mask


def _greatest(paths: Sequence[Path]) -> int | None:
    """The greatest value of 16-bit files; None where any has 8 bits."""
    greatest = 0
    for path in paths:
        values = read_values(path)
        if values.dtype != np.uint16:
            return None
        greatest = max(greatest, int(values.max()))
    return greatest


def _has_colours(image: Pixels) -> bool:
    return image.shape[2] == 3 and bool((np.ptp(image, axis=2) > COLOUR).any())


def _sheet(records: Sequence[Record], read: Sequence[tuple[Pixels, Pixels]]) -> Pixels:
    """Each image beside itself with its mask filled, so that an inverted or shifted mask is seen."""
    tiles = []
    for record, (image, mask) in list(zip(records, read, strict=True))[:12]:
        colour = to_channels(image, 3)
        drawn = filled(image, mask, TRUTH)
        tiles += [titled(colour, PurePosixPath(record.file).name[:22], 192), titled(drawn, "mask", 192)]
    return contact_sheet(tiles, 6, 192)


def _nearest(images: Sequence[str], masks: Sequence[str], files: Sequence[str]) -> str:
    """Which mask came nearest to the first image, or why there is none."""
    if not files:
        return f"no file here ends in {' '.join(sorted(SUFFIXES))}"
    if not masks:
        return f"no folder or name holds a word such as mask, label, seg or gt; files here: {shortened(files)}"
    if not images:
        return f"all files look like masks: {shortened(masks)}"
    near = difflib.get_close_matches(images[0], masks, n=1, cutoff=0)[0]
    return f"nearest to {images[0]} is {near}; rename the files, or write the patterns by hand (conf/data/folder.yaml)"
