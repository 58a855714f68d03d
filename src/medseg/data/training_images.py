"""The images that trained a network or chose its epoch: a table of hashes beside its `model.yaml`, and who is in it.

Whoever starts from a network, or scores it, has to know which images it has seen already. The table names neither files
nor patients. It has a row an image:

use      train, or val: it chose the epoch and what lies between the network and a mask
sha256   of the image's file
phash    perceptual hash, as in the manifest
patient  `SALT:HASH`, empty where the patient is not known. The hash is scrypt's (RFC 7914), so that names can't be read
         from it and guessing them is slow; whoever knows a name can still ask whether it is there
"""

import hashlib
import io
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from medseg.core.errors import UserError
from medseg.core.files import read_bytes, write_text
from medseg.data.duplicates import near_any

TRAINING_IMAGES = "training_images.csv"  # in a model folder
COLUMNS = ["use", "sha256", "phash", "patient"]
OVERLAP = ["network", "file", "split", "reason"]
# Bits of the hash. Pixels are not at hand to confirm a pair, so it is narrow: copies of another size, contrast or
# compression are within it, crops are not, and hardly an unlike image.
NEAR = 4
SAME_FILE, SAME_PATIENT, NEAR_DUPLICATE = "same file", "same patient", "near-duplicate"


def training_images(train: pd.DataFrame, val: pd.DataFrame, earlier: pd.DataFrame) -> pd.DataFrame:
    """The table of a network that was trained on the samples of `train` and whose epoch was chosen on those of `val`.

    Both are the index of packed arrays; `earlier` is the table of the network that training started from, or empty.
    """
    seen = pd.concat([train.assign(use="train"), val.assign(use="val")]).drop_duplicates(["use", "file"])
    salt = hashlib.sha256("".join(sorted(seen["sha256"])).encode()).hexdigest()[:16]
    hashes = {name: f"{salt}:{_hash(name, salt)}" if name else "" for name in seen["patient"].unique()}
    own = seen.assign(patient=seen["patient"].map(hashes))[COLUMNS]
    return pd.concat([own, earlier], ignore_index=True).drop_duplicates(ignore_index=True)


def with_val(images: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """The same with all images of val in a manifest: one too small for a sample of its own still tunes a segmenter."""
    known = images.loc[images["use"] == "val", "sha256"]
    further = table[(table["split"] == "val") & ~table["sha256"].isin(known)]
    return training_images(further.iloc[:0], further, images) if len(further) else images


def no_images() -> pd.DataFrame:
    """The table of a network that no image has trained."""
    return pd.DataFrame(columns=COLUMNS, dtype=str)


def write_training_images(images: pd.DataFrame, folder: Path) -> None:
    """Write the table into a model folder."""
    write_text(folder / TRAINING_IMAGES, training_images_text(images))


def training_images_text(images: pd.DataFrame) -> str:
    """The table as CSV."""
    return str(images.to_csv(index=False, lineterminator="\n"))


def read_training_images(folder: Path) -> pd.DataFrame:
    """Read the table of a model folder. Raises `UserError` where it is missing or is no such table."""
    path = folder / TRAINING_IMAGES
    if not path.is_file():
        raise UserError(
            f"{path}: no such file, so nobody can tell which images trained the network; bring the whole folder"
        )
    return parse_training_images(read_bytes(path).decode(errors="replace"), str(path))


def parse_training_images(text: str, where: str) -> pd.DataFrame:
    """The table from its text. Raises `UserError` that says `where` it is wrong."""
    try:
        images = pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False)
    except ValueError as error:
        raise UserError(f"{where}: not readable as a table: {error}") from error
    if list(images.columns) != COLUMNS or not images["phash"].str.fullmatch("[0-9a-f]{16}").all():
        raise UserError(f"{where}: not a table of training images with the columns {', '.join(COLUMNS)}")
    return images


def find_overlap(table: pd.DataFrame, images: pd.DataFrame) -> pd.DataFrame:
    """The images of a manifest that a network must not have seen and has: columns file, split, reason.

    Images of test must be none that trained it or that chose its epoch, images of val none that trained it. An image
    is known again by its bytes, by its patient, or by a perceptual hash that differs in at most `NEAR` bits.
    Patients of one name are taken for the same, whatever data set they are from.
    """
    found = []
    for split, uses in (("val", ["train"]), ("test", ["train", "val"])):
        part, seen = table[table["split"] == split], images[images["use"].isin(uses)]
        reasons = np.select(
            [
                part["sha256"].isin(seen["sha256"]).to_numpy(bool),
                part["patient"].isin(_known(part["patient"].unique(), seen["patient"].unique())).to_numpy(bool),
                near_any(part["phash"].tolist(), seen["phash"].tolist(), NEAR),
            ],
            [SAME_FILE, SAME_PATIENT, NEAR_DUPLICATE],
            "",
        )
        found.append(pd.DataFrame({"file": part["file"], "split": part["split"], "reason": reasons}))
    overlap = pd.concat(found, ignore_index=True)
    return overlap[overlap["reason"] != ""].reset_index(drop=True)


def overlap_of_networks(table: pd.DataFrame, folder: Path) -> pd.DataFrame:
    """`find_overlap` for every network in `folder` that has such a table, by its name in the column network."""
    parts = [
        find_overlap(table, read_training_images(path.parent)).assign(network=path.parent.name)
        for path in sorted(folder.glob(f"*/{TRAINING_IMAGES}"))
    ]
    return pd.concat([pd.DataFrame(columns=OVERLAP, dtype=str), *parts], ignore_index=True)[OVERLAP]


def read_overlap(path: Path, network: str) -> pd.DataFrame:
    """The rows of one network in a table of `overlap_of_networks`. Raises `UserError` where it is no such table."""
    try:
        overlap = pd.read_csv(path, dtype=str, keep_default_na=False)
        return overlap[overlap["network"] == network][OVERLAP].reset_index(drop=True)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{path}: not a table that this project wrote: {error}") from error


def _known(patients: NDArray[np.object_], hashes: Iterable[str]) -> set[str]:
    """Those of `patients` that are behind one of the salted `hashes`."""
    by_salt: dict[str, set[str]] = {}
    for salt, _, digest in (entry.partition(":") for entry in hashes if entry):
        by_salt.setdefault(salt, set()).add(digest)
    return {name for name in patients if name for salt, found in by_salt.items() if _hash(name, salt) in found}


def _hash(patient: str, salt: str) -> str:
    return hashlib.scrypt(patient.encode(), salt=salt.encode(), n=1024, r=8, p=1, dklen=16).hex()
