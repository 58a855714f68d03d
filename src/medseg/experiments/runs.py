"""Runs as git and DVC have them: the scores per image, parameters and data of a revision, held against `dvc.lock`.

DVC hands out what its cache holds under a hash, and does not look whether the content still has it. So everything that
is read here is hashed again.
"""

import difflib
import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from dvc.api import DVCFileSystem
from dvc.exceptions import DvcException
from dvc.scm import RevError
from dvc_data.index import DataIndexDirError
from ruamel.yaml import YAML

from medseg.core.errors import UserError
from medseg.experiments.commands import run

RAW = "data/raw"
MANIFEST = "data/manifest.csv"
PREDICTIONS = "data/predictions"
PER_IMAGE = f"{PREDICTIONS}/per_image.csv"
PARAMS = "params.yaml"
WORKSPACE = "workspace"
WORDS = ("file", "label", "group", "size", "predicted_label")  # columns of text, whatever they look like
SIZES = ("truth_pixels", "region_pixels")
IDENTITY = ("sha256", "mask_sha256", "region", "split")  # columns of the manifest that say what was scored against what


@dataclass(frozen=True)
class Run:
    """One run.

    - table: per_image.csv with `file` as index, and for each image the columns `IDENTITY` of the manifest;
    - parameters: params.yaml;
    - raw_data: the hash of data/raw in dvc.lock.
    """

    table: pd.DataFrame
    parameters: dict[str, Any]
    raw_data: str


def read_runs(revisions: Sequence[str]) -> dict[str, Run]:
    """The runs of git revisions, DVC experiments or `workspace`, by their names.

    To be called in the project's root. Raises `UserError` for a name given twice, an unknown one, one without a table
    that can be had, and one whose table or manifest has not the hash that dvc.lock states.
    """
    if twice := [name for name in revisions if revisions.count(name) > 1]:
        raise UserError(f"'{twice[0]}' is named twice; name different runs")
    return {name: _read_run(name) for name in revisions}


def _read_run(revision: str) -> Run:
    if revision == WORKSPACE and not Path(PER_IMAGE).is_file():
        raise UserError(
            f"{WORKSPACE}: there is no {PER_IMAGE}: run `dvc repro` (or `dvc checkout`), in the project's root"
        )
    try:
        files = DVCFileSystem(rev=None if revision == WORKSPACE else revision)
        _check_folder(files, revision)
        table = _table(_read(files, PER_IMAGE, revision), _read(files, MANIFEST, revision), revision)
        parameters = YAML(typ="safe", pure=True).load(files.read_text(PARAMS, encoding="utf-8"))
        return Run(table, parameters, _stated(files, RAW))
    except RevError:
        raise UserError(
            f"'{revision}' is no git revision and no finished experiment{_near(revision)}; see `dvc exp show`"
        ) from None
    except (FileNotFoundError, DataIndexDirError):
        raise UserError(
            f"{revision}: {PER_IMAGE} or {MANIFEST} can't be had: either the run made none (`dvc exp show --rev "
            f"{revision}` shows its metrics), or it is not in the cache here: `dvc push` or `dvc exp push` where the "
            "run was made, then `dvc fetch` or `dvc exp pull` here"
        ) from None
    except DvcException as error:
        raise UserError(f"{revision}: DVC can't read {PER_IMAGE}: {error}; is this the project's root?") from error


def _stated(files: DVCFileSystem, path: str) -> str:
    """The hash of a file or folder of DVC. Raises `FileNotFoundError` where dvc.lock states none."""
    stated = files.info(path).get("dvc_info", {}).get("md5")
    if stated is None:
        raise FileNotFoundError(path)
    return str(stated)


def _read(files: DVCFileSystem, path: str, revision: str) -> bytes:
    """A file of DVC. Raises `UserError` where it has not the hash that is stated."""
    content: bytes = files.read_bytes(path)
    if hashlib.md5(content, usedforsecurity=False).hexdigest() != _stated(files, path):
        raise _altered(path, revision)
    return content


def _check_folder(files: DVCFileSystem, revision: str) -> None:
    """Raise `UserError` where the cache's list of the predictions has not the hash that dvc.lock states for them."""
    entries = [
        {"md5": entry["dvc_info"]["md5"], "relpath": str(Path(path).relative_to(PREDICTIONS))}
        for path, entry in files.find(PREDICTIONS, detail=True).items()
        if "dvc_info" in entry
    ]
    listed = json.dumps(sorted(entries, key=lambda entry: entry["relpath"]), sort_keys=True)
    if f"{hashlib.md5(listed.encode(), usedforsecurity=False).hexdigest()}.dir" != _stated(files, PREDICTIONS):
        raise _altered(PREDICTIONS, revision)


def _altered(path: str, revision: str) -> UserError:
    if revision == WORKSPACE:
        return UserError(
            f"{WORKSPACE}: {path} is not what dvc.lock states: it was altered, or belongs to another revision; `dvc "
            "checkout` brings back what is stated, `dvc repro` makes it anew"
        )
    return UserError(
        f"{revision}: {path} in DVC's cache is not what its dvc.lock states: it was altered after the run; delete it "
        "there (`dvc cache dir` tells where) and `dvc fetch` it, or run it anew"
    )


def _table(per_image: bytes, manifest: bytes, revision: str) -> pd.DataFrame:
    table = pd.read_csv(io.BytesIO(per_image), dtype=dict.fromkeys(WORDS, str))
    if missing := [name for name in ("file", "group", *SIZES) if name not in table]:
        raise UserError(f"{revision}: {PER_IMAGE} has no column {missing[0]}: not a table per image of this project")
    known = pd.read_csv(io.BytesIO(manifest), dtype=str, keep_default_na=False).set_index("file")
    table = table.set_index("file")
    if missing := sorted(set(table.index) - set(known.index)):
        raise UserError(f"{revision}: {PER_IMAGE} has {missing[0]}, which {MANIFEST} has not; run it anew: dvc repro")
    return table.join(known[list(IDENTITY)])


def _near(revision: str) -> str:
    """What may have been meant, as the end of a message."""
    kinds = ("refs/heads", "refs/tags", "refs/exps/??/*/*")
    names = run("git", "for-each-ref", "--format=%(refname:lstrip=-1)", *kinds)
    near = difflib.get_close_matches(revision, sorted(set(names.split())))
    return f"; near it: {', '.join(near)}" if near else ""
