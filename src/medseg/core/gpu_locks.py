"""Distinct GPUs for runs of this project at the same time: `dvc queue start -j N` shows all GPUs to all runs.

A run locks (flock(2)) a file per GPU in `.dvc/tmp/medseg/gpus/` of the main checkout, which all experiments of the
queue share. The system releases the lock when the process ends, however it ends.
"""

import fcntl
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

from medseg.core.errors import UserError
from medseg.core.paths import common_folder

VISIBLE = "CUDA_VISIBLE_DEVICES"
WAIT = 1.0  # seconds between attempts to lock GPUs
_UUID = re.compile(r"\(UUID: ([\w-]+)\)")


@contextmanager
def own_gpus(accelerator: str, count: int) -> Iterator[None]:
    """Lock `count` GPUs and make them the only visible ones while the block runs; wait until enough are free.

    Enter it before torch initialises CUDA. An existing `CUDA_VISIBLE_DEVICES` limits the choice; its numbers are those
    of `nvidia-smi`. Does nothing without a GPU, with `accelerator` = "cpu", outside a DVC project, and in processes
    that torchrun, SLURM or another rank started, which get their GPUs from there. Raises `UserError` where the machine
    has fewer GPUs than `count`.
    """
    common = common_folder()
    is_rank = "LOCAL_RANK" in os.environ or int(os.environ.get("SLURM_NTASKS", "1")) > 1
    if accelerator == "cpu" or common is None or is_rank:
        yield
        return
    gpus = _choice(_listed(), os.environ.get(VISIBLE))
    if not gpus:
        yield
        return
    if len(gpus) < count:
        raise UserError(f"params.yaml: train.devices = {count}: there are {len(gpus)} GPUs to choose from; lower it")
    with _locked(common / "gpus", gpus, count) as mine, _visible(mine):
        yield


def _listed() -> list[str]:
    """The UUIDs of the machine's GPUs in the order of nvidia-smi; of a partitioned GPU (MIG) those of its instances."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    done = subprocess.run([tool, "-L"], capture_output=True, text=True, check=False)
    gpus: list[list[str]] = []
    for line in done.stdout.splitlines():
        if found := _UUID.search(line):
            if line.startswith("GPU"):
                gpus.append([])
            gpus[-1].append(found[1])
    return [part for gpu in gpus for part in (gpu[1:] or gpu)]


def _choice(listed: list[str], allowed: str | None) -> list[str]:
    """The GPUs that `CUDA_VISIBLE_DEVICES` allows, by number or the beginning of a UUID, in its order."""
    if allowed is None:
        return listed
    chosen = []
    for word in filter(None, map(str.strip, allowed.split(","))):
        named = listed[int(word) : int(word) + 1] if word.isdigit() else [c for c in listed if c.startswith(word)]
        if not named:  # CUDA, too, ignores everything from the first unknown GPU on
            break
        chosen.append(named[0])
    return list(dict.fromkeys(chosen))


@contextmanager
def _locked(folder: Path, gpus: list[str], count: int) -> Iterator[list[str]]:
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as held:
        mine = _lock_free(folder, gpus, count, held)
        if not mine:
            print(f"waiting for {count} of {len(gpus)} GPUs to become free", flush=True)
        while not mine:
            time.sleep(WAIT)
            mine = _lock_free(folder, gpus, count, held)
        yield mine


def _lock_free(folder: Path, gpus: list[str], count: int, held: ExitStack) -> list[str]:
    """Lock and return the first `count` free GPUs, or none where fewer are free; `held` keeps the locks."""
    mine: list[str] = []
    with ExitStack() as tried, (folder / "choosing").open("w") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)  # one process at a time, or two could each hold a GPU that the other needs
        for gpu in gpus:
            if len(mine) < count and _is_locked(tried.enter_context((folder / gpu).open("w"))):
                mine.append(gpu)
        if len(mine) < count:
            return []
        held.push(tried.pop_all())
    return mine


def _is_locked(file: IO[str]) -> bool:
    """Try to lock a file; return whether it worked."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def _visible(gpus: list[str]) -> Iterator[None]:
    before = os.environ.get(VISIBLE)
    os.environ[VISIBLE] = ",".join(gpus)
    try:
        yield
    finally:
        if before is None:
            del os.environ[VISIBLE]
        else:
            os.environ[VISIBLE] = before
