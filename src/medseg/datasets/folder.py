"""A folder of images and masks paired by their names, with labels and patients from names or a table.

Patterns describe names: paths below the data folder with `/` between their parts. `images` defines fields in braces,
and the other patterns use them:

    images: "{organ}/tissue images/{stem}.tif"
    masks:  "{organ}/mask binary/{stem}*.png"
    label:  {name: text, text: "{organ}"}

A field is one or more characters of one part of the path. Where two fields share a part, the earlier is as short as
possible; a field that occurs twice must match the same text. `*` is any text within one part, `**/` any number of
folders. The mask of an image is the union of all files that match its `masks` pattern. A file that is the mask of
another image is no image, so both may lie in one folder (`{stem}.png`, `{stem}_mask*.png`).
"""

import re
from bisect import bisect_left
from collections import Counter, defaultdict
from itertools import takewhile
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

from pydantic import Field, model_validator

from medseg.core.errors import UserError
from medseg.core.folders import files_below
from medseg.core.params import PathInside, Section
from medseg.datasets.layout import composed, natural, shortened
from medseg.datasets.record import Record, Split
from medseg.datasets.source import ArchiveParams
from medseg.datasets.tables import read_table

FIELD = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")
TOKEN = re.compile(r"(\*\*/|\*|\{[A-Za-z_][A-Za-z0-9_]*\})")  # its matches are the odd items of `TOKEN.split`
WILDCARDS = {"**/": "(?:.*/)?", "*": "[^/]*"}
MOST_FREE = 3  # of one pattern: each multiplies the time of a match by the length of a name
SPLIT_WORDS: dict[str, Split] = {  # names of folders that say where the publisher put an image
    **dict.fromkeys(("train", "training", "trainset"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev", "valset"), "val"),
    **dict.fromkeys(("test", "testing", "testset"), "test"),
}
LAST = chr(0x10FFFF)  # sorts behind every character of a name

Fields = dict[str, str]


class TextParams(Section):
    """A text that may contain fields of `images`; without fields it is the same for all images."""

    name: Literal["text"]
    text: str = Field(min_length=1)


class TableParams(Section):
    """A column of a CSV table. `image` is the column with an image's path, its file name, or its stem."""

    name: Literal["table"]
    file: PathInside
    image: str
    column: str


ValueParams = Annotated[TextParams | TableParams, Field(discriminator="name")]


class FolderParams(ArchiveParams):
    """Where the files come from, how images and masks are named, and where labels and patients are found."""

    name: Literal["folder"]
    title = "images from a folder"
    images: str = Field(min_length=1)
    masks: str
    label: ValueParams
    patient: ValueParams | None
    official: str | None  # a text with fields whose value is one of `SPLIT_WORDS`: for split=official

    @model_validator(mode="after")
    def _check_fields(self) -> "FolderParams":
        for name, pattern in (("images", self.images), ("masks", FIELD.sub("", self.masks))):
            if _free_pieces(pattern) > MOST_FREE:
                raise ValueError(
                    f"'{name}' holds more than {MOST_FREE} of *, **/ and fields beside one that occurs twice: matching "
                    "long names would take too long; write fields that occur once in place of some"
                )
        known = set(FIELD.findall(self.images))
        texts = [source.text for source in (self.label, self.patient) if isinstance(source, TextParams)]
        texts += [self.official] if self.official else []
        unknown = {name for pattern in (self.masks, *texts) for name in FIELD.findall(pattern)} - known
        if unknown:
            raise ValueError(f"'images' has no field {', '.join(sorted(unknown))}, which another pattern names")
        if not FIELD.search(self.masks):
            raise ValueError("'masks' names no field of 'images', so all images would have the same masks")
        return self

    def scan(self, root: Path) -> list[Record]:
        """One record per file below `root` that `images` describes, in natural order of the paths.

        Raises `UserError` where no image is found, or where a table lacks some images.
        """
        names = _by_composed_name(files_below(root))
        files = sorted(names)
        images = _images(files, composed(self.images))
        masks = {file: _masks(files, composed(self.masks), file, fields) for file, fields in images.items()}
        if images and not any(masks.values()) and any(_named_by_both(self.masks, *image) for image in images.items()):
            raise UserError(f"{root}: 'data.masks', {self.masks}, names the images themselves, as 'data.images' does")
        taken = {mask for found in masks.values() for mask in found}
        images = {file: images[file] for file in sorted(images.keys() - taken, key=natural)}
        if not images:
            raise UserError(
                f"{root}: no file matches 'data.images', {self.images}; files here: {shortened(files) or 'none'}"
            )
        self._refuse_shared_masks(images, masks, root)
        labels = _values(self.label, root, images)
        patients = _values(self.patient, root, images) if self.patient else {}
        return [
            Record(
                file=names[file],
                masks=tuple(names[mask] for mask in masks[file]),
                label=labels[file],
                patient=patients.get(file),
                official=self._official(file, fields),
            )
            for file, fields in images.items()
        ]

    def _refuse_shared_masks(self, images: dict[str, Fields], masks: dict[str, tuple[str, ...]], root: Path) -> None:
        """Raise `UserError` where `*` gives a file to images of other names, as `{stem}*` gives 10.png to 1 and 10."""
        owners: dict[str, dict[str, str]] = defaultdict(dict)  # of each mask: images by what they fill into the pattern
        for image, fields in images.items():
            for mask in masks[image]:
                owners[mask].setdefault(_fill(self.masks, fields), image)
        shared = {mask: list(found.values()) for mask, found in owners.items() if len(found) > 1}
        if shared:
            mask, found = next(iter(shared.items()))
            raise UserError(
                f"{root}: 'data.masks', {self.masks}, gives {len(shared)} masks to several images, such as {mask} to "
                f"{' and '.join(found[:2])}: put a character between the field and *, or name the masks otherwise"
            )

    def _official(self, file: str, fields: Fields) -> Split | None:
        if self.official is None:
            return None
        word = _fill(self.official, fields)
        if word.lower() not in SPLIT_WORDS:
            raise UserError(f"{file}: data.official gives '{word}', which is none of {', '.join(SPLIT_WORDS)}")
        return SPLIT_WORDS[word.lower()]


def _by_composed_name(files: list[str]) -> dict[str, str]:
    """The files by their names in Unicode's normal form C: macOS writes accents apart, and other systems do not."""
    names = {composed(file): file for file in files}
    if twice := [file for file in files if names[composed(file)] != file]:
        raise UserError(f"{twice[0]}: another file's name differs in Unicode's normal form alone; rename one of them")
    return names


def _images(files: list[str], pattern: str) -> dict[str, Fields]:
    regex = re.compile(_image_regex(pattern))
    matches = {file: regex.fullmatch(file) for file in files}
    return {file: match.groupdict() for file, match in matches.items() if match}


def _image_regex(pattern: str) -> str:
    """The pattern as a regular expression.

    A field that another one or `*` follows in its part of the path is as short as the text between them allows, once
    and for all (an atomic group): the one that follows can take what a longer one would have. Trying all lengths of six
    fields in a name of 100 letters would take seconds. Where a field of the part occurs twice, its length matters.
    """
    pieces = TOKEN.split(pattern)  # texts, and between them wildcards and fields
    parts, regex, known = pattern.split("/"), [re.escape(pieces[0])], set[str]()
    for place in range(1, len(pieces), 2):
        piece, text = pieces[place], re.escape(pieces[place + 1])
        part = parts["".join(pieces[:place]).count("/")]
        followed = "/" not in text and pieces[place + 2 : place + 3] not in ([], ["**/"])
        if piece in WILDCARDS:
            regex.append(WILDCARDS[piece] + text)
        elif piece in known:
            regex.append(f"(?P={piece[1:-1]}){text}")
        elif followed and not _recurs(part, pattern):
            regex.append(f"(?>(?P<{piece[1:-1]}>[^/]+?){text})")
        else:
            regex.append(f"(?P<{piece[1:-1]}>[^/]+?){text}")
        known.add(piece)
    return "".join(regex)


def _recurs(part: str, pattern: str) -> bool:
    """Whether a field of this part of the path occurs twice in the pattern."""
    return any(FIELD.findall(pattern).count(name) > 1 for name in FIELD.findall(part))


def _free_pieces(pattern: str) -> int:
    """How many wildcards and fields a match may have to try in several lengths."""
    count, earlier = pattern.count("**/"), set[str]()
    for part in pattern.replace("**/", "").split("/"):
        pieces = TOKEN.findall(part)
        new = [piece for piece in pieces if piece == "*" or piece not in earlier]
        tried = len(new) - 1 if _recurs(part, pattern) else new.count("*")
        count += tried if len(new) > 1 else 0
        earlier |= set(pieces)
    return count


def _masks(files: list[str], pattern: str, image: str, fields: Fields) -> tuple[str, ...]:
    """The files that match `pattern` with the fields of one image; `files` are sorted, so only a few are compared."""
    pieces = _filled(pattern, fields)
    start = "".join(text for text, _ in takewhile(lambda piece: not piece[1], pieces))
    regex = _mask_regex(pieces)
    nearby = files[bisect_left(files, start) : bisect_left(files, start + LAST)]
    return tuple(file for file in nearby if file != image and regex.fullmatch(file))


def _named_by_both(pattern: str, image: str, fields: Fields) -> bool:
    return _mask_regex(_filled(composed(pattern), fields)).fullmatch(image) is not None


def _filled(pattern: str, fields: Fields) -> list[tuple[str, bool]]:
    """The pieces of a pattern with the fields of an image put in, and whether each is a wildcard."""
    return [(_fill(piece, fields), piece in WILDCARDS) for piece in TOKEN.split(pattern)]


def _mask_regex(pieces: list[tuple[str, bool]]) -> re.Pattern[str]:
    return re.compile("".join(WILDCARDS[text] if is_wild else re.escape(text) for text, is_wild in pieces))


def _fill(text: str, fields: Fields) -> str:
    return FIELD.sub(lambda match: fields[match[1]], text)


def _values(params: TextParams | TableParams, root: Path, images: dict[str, Fields]) -> dict[str, str]:
    """The value of each image."""
    if isinstance(params, TextParams):
        return {file: _fill(params.text, fields) for file, fields in images.items()}
    return _table_values(params, root, list(images))


def _table_values(table: TableParams, root: Path, files: list[str]) -> dict[str, str]:
    values = _read_values(table, root)
    names = {file: next((name for name in _spellings(file) if name in values), None) for file in files}
    missing = [file for file, name in names.items() if name is None]
    if missing:
        raise UserError(f"{root / table.file}: no '{table.column}' for {shortened(missing)}")
    shared = [name for name, count in Counter(names.values()).items() if name and count > 1]
    if shared:
        raise UserError(f"{root / table.file}: {shortened(shared)} fit several images each; give their paths")
    return {file: values[name] for file, name in names.items() if name}


def _read_values(table: TableParams, root: Path) -> dict[str, str]:
    values: dict[str, set[str]] = defaultdict(set)
    for row in read_table(root / table.file, (table.image, table.column)):
        if row[table.column]:
            values[composed(row[table.image])].add(row[table.column])
    torn = [name for name, found in values.items() if len(found) > 1]
    if torn:
        raise UserError(f"{root / table.file}: several values of '{table.column}' for {shortened(torn)}")
    return {name: value for name, (value,) in values.items()}


def _spellings(file: str) -> tuple[str, str, str]:
    path = PurePosixPath(file)
    return file, path.name, path.stem
