"""From a model folder back to what made it: revision, parameters, data and parent weights, by hashes in `dvc.lock`.

`dvc.lock` holds the hash of all that a stage read and wrote. So a model is known by its content, wherever it lies now:
it was made by the stage that wrote a folder with its hash, in the `dvc.lock` of a commit or of the working tree, and by
all stages that this one goes back to. Run in the project's root, where git and DVC are asked.
"""

import hashlib
import io
import json
import subprocess
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from dvc.repo import Repo
from ruamel.yaml import YAML

from medseg.core.credentials import without_credentials
from medseg.core.files import read_bytes
from medseg.core.params import read_yaml, validate
from medseg.evaluation.describe import initial_weights, training_in_short
from medseg.experiments.commands import attempt, run
from medseg.models.model_yaml import DESCRIPTION, WEIGHTS, Training, check_model_folder

LOCK = "dvc.lock"
PARAMS = Path("params.yaml")
PARENTS = Path("weights")
CODE = ("src/", "stages/")
NAMED = 3  # commits that the text names

Stages = Mapping[str, Mapping[str, Any]]  # of a dvc.lock, by name


@dataclass(frozen=True)
class Made:
    """The stage that wrote a model, as the first `dvc.lock` that holds it says."""

    stage: str
    commits: list[str]  # with such a dvc.lock, the oldest first; empty: the working tree has it alone
    here: bool  # whether the working tree's dvc.lock holds the model
    parameters: dict[str, Any]  # of this stage and all before it, by section
    files: dict[str, str]  # what these stages read and wrote: path to MD5 as DVC takes it


@dataclass(frozen=True)
class Provenance:
    """What is known of a model folder."""

    folder: Path
    md5: str  # of the folder, as DVC takes it
    training: Training
    made: Made | None  # None: no dvc.lock holds it
    parent: "Provenance | None"  # the initial network; None: there was none, or it is not here
    faults: list[str]  # what does not match, the parents' too
    absent: list[str]  # what could not be looked at


def trace(folder: Path) -> Provenance:
    """Follow a model folder back, and its parents, and hold against their hashes what is there of it all.

    Where the working tree's `dvc.lock` has the model, the tree's files, code and parameters are looked at; where a
    commit's has it, the code of that commit: it may have been another when the model was made. Raises `UserError`
    where `folder` is no model, or git fails.
    """
    found = _trace(folder)
    if found.made is None and not found.faults:
        found.faults.append(
            f"{folder}: no {LOCK} of this repository has a folder with this content: changed, or made elsewhere"
        )
    return found


def folder_md5(files: Mapping[str, str]) -> str:
    """The hash that DVC gives a folder, from the MD5 of its files by their paths in it: that of their listing."""
    listing = [{"md5": md5, "relpath": path} for path, md5 in sorted(files.items())]
    return _md5(json.dumps(listing, sort_keys=True).encode()) + ".dir"


def provenance_text(found: Provenance) -> str:
    """What was found, for the terminal, parents below; without the faults."""
    lines = [f"{found.folder}: {found.md5}", *_made_lines(found.made), *_training_lines(found.training)]
    if found.made:
        lines += ["read and written, code apart:"]
        lines += [f"  {path}: {md5}" for path, md5 in found.made.files.items() if not path.startswith(CODE)]
        lines += ["parameters:", *_indented(_shown(found.made.parameters))]
    lines += [f"not here, so not checked: {path}" for path in found.absent]
    if found.parent:
        lines += ["", "started from:", *_indented(provenance_text(found.parent))]
    return "\n".join(lines)


def _trace(folder: Path) -> Provenance:
    check_model_folder(folder)
    training = validate(read_yaml(folder / DESCRIPTION).get("training"), Training, f"{folder / DESCRIPTION}: training")
    files = {
        path.relative_to(folder).as_posix(): _md5(read_bytes(path)) for path in folder.rglob("*") if path.is_file()
    }
    md5 = folder_md5(files)
    made = _find(md5)
    changed, absent = _changes(made) if made and made.here else ([], [])
    faults = [*_place_faults(folder, files), *(_code_faults(made) if made else []), *changed]
    parent = None
    if training.initial_network:
        place = PARENTS / training.initial_network.name
        if (place / WEIGHTS).is_file():
            parent = _trace(place)
            faults += [*_weights_faults(place, training.initial_network.weights_sha256), *parent.faults]
        else:
            absent.append(f"{place}, the initial network")
    return Provenance(folder, md5, training, made, parent, faults, absent)


def _find(md5: str) -> Made | None:
    commits = _commits_with(md5)
    here = _lock_here()
    locks = [*(run("git", "show", f"{commit}:./{LOCK}") for commit in commits[:1]), here]
    stages = _stages(next((lock for lock in locks if md5 in lock), ""))
    for name, stage in stages.items():
        if md5 in _hashes(stage.get("outs", [])).values():
            chain = [stages[before] for before in _chain(name, stages)]
            return Made(name, commits, md5 in here, _parameters(chain), _files(chain))
    return None


def _commits_with(md5: str) -> list[str]:
    """The commits, experiments' too, that changed dvc.lock and left the hash in it as an output's, the oldest first."""
    listed = run("git", "rev-list", "--all", "--full-history", "--date-order", "--reverse", "--", LOCK).split()
    if not listed:
        return []
    found = {line.partition(":")[0] for line in attempt("git", "grep", "-lF", md5, *listed, "--", LOCK).stdout.split()}
    return [commit for commit in listed if commit in found]


def _lock_here() -> str:
    return Path(LOCK).read_text(encoding="utf-8") if Path(LOCK).is_file() else ""


def _stages(lock: str) -> Stages:
    content = YAML(typ="safe", pure=True).load(lock) or {}
    stages: Stages = content.get("stages", {})
    return stages


def _hashes(entries: list[dict[str, Any]]) -> dict[str, str]:
    return {entry["path"]: entry["md5"] for entry in entries if "md5" in entry}


def _chain(last: str, stages: Stages) -> list[str]:
    """The names of a stage and of all that it goes back to, as they stand in the lock."""
    makers = {path: name for name, stage in stages.items() for path in _hashes(stage.get("outs", []))}
    found, waiting = set[str](), {last}
    while waiting:
        found |= waiting
        read = {path for name in waiting for path in _hashes(stages[name].get("deps", []))}
        waiting = {makers[path] for path in read & makers.keys()} - found
    return [name for name in stages if name in found]


def _parameters(chain: list[Mapping[str, Any]]) -> dict[str, Any]:
    return {
        name: section
        for stage in chain
        for sections in stage.get("params", {}).values()
        for name, section in sections.items()
    }


def _files(chain: list[Mapping[str, Any]]) -> dict[str, str]:
    return {
        path: md5 for stage in chain for part in ("deps", "outs") for path, md5 in _hashes(stage.get(part, [])).items()
    }


def _place_faults(folder: Path, files: Mapping[str, str]) -> list[str]:
    """What is wrong with a folder that the working tree's dvc.lock knows by its path."""
    locked = {
        path: md5 for stage in _stages(_lock_here()).values() for path, md5 in _hashes(stage.get("outs", [])).items()
    }
    wanted = locked.get(folder.as_posix(), folder_md5(files))
    if wanted == folder_md5(files):
        return []
    listing = _cached_listing(wanted)
    odd = sorted(path for path in {*files, *listing} if files.get(path) != listing.get(path)) if listing else []
    return [f"{folder / path}: not what {LOCK} has" for path in odd] or [f"{folder}: {folder_md5(files)}, not {wanted}"]


def _cached_listing(md5: str) -> dict[str, str]:
    """The files of a folder and their MD5, as DVC's cache lists them; none where it lacks the folder."""
    with Repo() as repo:
        path = Path(repo.cache.local.oid_to_path(md5))
    if not path.is_file():
        return {}
    return {entry["relpath"]: entry["md5"] for entry in json.loads(read_bytes(path))}


def _code_faults(made: Made) -> list[str]:
    """Files that git holds whole in the first commit, and that are others in its dvc.lock."""
    if not made.commits:
        return []
    commit = made.commits[0]
    held = dict(_held(commit))
    faults = []
    for path, wanted in made.files.items():
        below = {name.removeprefix(f"{path}/"): md5 for name, md5 in held.items() if name.startswith(f"{path}/")}
        whole = path.startswith(CODE)  # of other folders, DVC may hold a part
        found = folder_md5(below) if below and whole else held.get(path, wanted)
        if found != wanted:
            faults.append(f"{path}: not in commit {commit[:7]} what it was when the model was made")
    return faults


def _held(commit: str) -> Iterator[tuple[str, str]]:
    """Path and MD5 of every file of a commit."""
    packed = subprocess.run(["git", "archive", "--format=tar", commit], check=True, capture_output=True).stdout
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        for member in archive:
            content = archive.extractfile(member)
            if content:
                yield member.name, _md5(content.read())


def _changes(made: Made) -> tuple[list[str], list[str]]:
    """What of the working tree is not as dvc.lock has it, and what is absent. All is read: no date is trusted."""
    found = {path: _md5_here(Path(path)) for path in made.files}
    odd = [path for path, md5 in found.items() if md5 not in (None, made.files[path])]
    sections = read_yaml(PARAMS)
    changed = [f"{PARAMS}: {name}" for name, section in made.parameters.items() if sections.get(name) != section]
    return [f"{what}: not what {LOCK} has" for what in odd + changed], [path for path, md5 in found.items() if not md5]


def _md5_here(path: Path) -> str | None:
    """The hash of a file or a folder as DVC would take it; None where there is none."""
    if not path.is_dir():
        return _md5(read_bytes(path)) if path.is_file() else None
    with Repo() as repo:  # for the rules of .dvcignore
        files = [Path(file) for file in repo.dvcignore.find(repo.fs, str(path.absolute()))]
    return folder_md5({file.relative_to(path.absolute()).as_posix(): _md5(read_bytes(file)) for file in files})


def _weights_faults(place: Path, wanted: str) -> list[str]:
    if hashlib.sha256(read_bytes(place / WEIGHTS)).hexdigest() == wanted:
        return []
    return [f"{place / WEIGHTS}: not the weights that training started from"]


def _made_lines(made: Made | None) -> list[str]:
    if made is None:
        return [f"made by: unknown, no {LOCK} of this repository has it"]
    if not made.commits:
        return [f"made by: stage {made.stage}", f"revision: not committed, the working tree's {LOCK} alone has it"]
    rest = len(made.commits) - NAMED
    named = [_name(commit) for commit in made.commits[:NAMED]] + ([f"and {rest} later ones"] if rest > 0 else [])
    return [f"made by: stage {made.stage}", *(f"revision: {name}" for name in named)]


def _name(commit: str) -> str:
    place = run("git", "name-rev", "--name-only", "--exclude=refs/remotes/*", commit).strip()
    return f"{run('git', 'log', '-1', '--format=%h %cs %s', commit).strip()} ({place})"


def _training_lines(training: Training) -> list[str]:
    packages = ", ".join(f"{name} {version}" for name, version in training.packages.items())
    lines = [
        f"training: {training_in_short(training)}",
        f"initial weights: {initial_weights(training)}",
        f"packages: {packages}",
    ]
    return [*lines, *(f"warning: {warning}" for warning in training.warnings)]


def _shown(parameters: dict[str, Any]) -> str:
    """As YAML; a commit can hold what is refused today."""
    return without_credentials(yaml.safe_dump(parameters, sort_keys=False, width=4096))  # no address is broken


def _indented(text: str) -> list[str]:
    return [f"  {line}" for line in text.splitlines()]


def _md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()
