"""The environment of a run: package versions, a hash of the code, and `metrics/environment.json`."""

import hashlib
import importlib.metadata
import json
import os
import platform
import re
import subprocess
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from medseg.core.errors import UserError
from medseg.core.files import write_text

WRITTEN = ("dvc.lock", "metrics", "plots", "reports")  # by the stages, so they do not make a revision dirty


def record_environment(path: Path, stage: str) -> None:
    """Write the environment of `stage` to the JSON file `path`, under its name; entries of other stages stay."""
    write_text(path, json.dumps(_recorded(path) | {stage: environment()}, indent=2) + "\n")


def environment() -> dict[str, Any]:
    """The time (UTC), the git revision, the versions of Python and of direct dependencies, and the machine.

    `git.changed` lists the files that differ from the revision, untracked ones included and `WRITTEN` left out; all of
    `git` is None outside a repository. `devices` are the GPUs that torch sees, `threads` its threads on the CPU.
    """
    import torch  # seconds to import: what reads records or hashes code does not wait for it

    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "git": _revision(),
        "python": platform.python_version(),
        "packages": package_versions(),
        "system": platform.platform(),
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "devices": [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())],
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]  # torch leaves its type out
    }


def _recorded(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # none yet, or one that was cut short
        return {}
    return found if isinstance(found, dict) else {}


def _revision() -> dict[str, Any]:
    head = _git("rev-parse", "HEAD")
    without = [f":(exclude,top){name}" for name in WRITTEN]
    status = _git("status", "--porcelain", "-z", "--no-renames", "--", ":/", *without)
    changed = None if status is None else [entry[3:] for entry in status.split("\0") if entry]
    return {
        "revision": head.strip() if head else None,
        "dirty": None if changed is None else bool(changed),
        "changed": changed,
    }


def _git(*words: str) -> str | None:
    """The output of a git command; None without git, a repository or a commit."""
    try:
        done = subprocess.run(["git", *words], capture_output=True, text=True, errors="replace", check=False)
    except OSError:
        return None
    return done.stdout if done.returncode == 0 else None


def _processor() -> str:
    """The name of the CPU on Linux, elsewhere its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


PROJECT = "medseg"


def package_versions() -> dict[str, str]:
    """The installed versions of this project's direct dependencies, by name."""
    needed = [line for line in importlib.metadata.requires(PROJECT) or [] if "extra ==" not in line]
    names = [match.group() for line in needed if (match := re.match(r"[\w.-]+", line))]
    return {name: importlib.metadata.version(name) for name in sorted(names, key=str.lower)}


SUFFIXES = frozenset({".py", ".html", ".css", ".js", ".md"})


def code_sha256(folders: Iterable[Path]) -> str:
    """SHA-256, in hexadecimal, of the names and bytes of all source files (`SUFFIXES`) in `folders`, in any order.

    Names are relative to the parents of the folders, so it does not matter where the folders lie. Raises `UserError`
    for a folder that is missing or holds no source file.
    """
    files = sorted((name, path) for folder in folders for name, path in _source_files(folder))
    digest = hashlib.sha256()
    for name, path in files:
        for part in (name.encode(), path.read_bytes()):
            digest.update(len(part).to_bytes(8, "big"))  # keeps name and content apart
            digest.update(part)
    return digest.hexdigest()


def _source_files(folder: Path) -> Iterator[tuple[str, Path]]:
    found = [path for path in folder.rglob("*") if path.suffix in SUFFIXES and path.is_file()]
    if not found:
        raise UserError(f"{folder}: no source file in this folder, so there is no code to hash")
    root = folder.resolve().name
    for path in found:
        yield f"{root}/{path.relative_to(folder).as_posix()}", path
