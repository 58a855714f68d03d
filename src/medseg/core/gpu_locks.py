"""GPUs of its own for each run of this project on a machine: `dvc queue start -j N` gives all runs the same.

A run that has a card holds a lock (flock(2)) on a file named after the card, below `.dvc/tmp/medseg/cards/` of the main
checkout, which all experiments of the queue share. The system frees it when the process ends, however it does.
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
WAIT = 1.0  # seconds between looks for a free card
_UUID = re.compile(r"\(UUID: ([\w-]+)\)")


@contextmanager
def own_gpus(accelerator: str, count: int) -> Iterator[None]:
    """While the block runs, this process sees `count` cards that no other run of this project has, and no further one.

    Waits while too few are free. To be entered before torch looks for GPUs. A `CUDA_VISIBLE_DEVICES` that is set limits
    the choice; its numbers are those of `nvidia-smi`. Nothing happens without a card, with `accelerator` = "cpu",
    outside a DVC project, and in a process that torchrun, SLURM or another rank started: those are given theirs.
    Raises `UserError` where there are fewer cards than `count`.
    """
    common = common_folder()
    if accelerator == "cpu" or common is None or _is_one_of_several():
        yield
        return
    cards = _choice(_listed(), os.environ.get(VISIBLE))
    if not cards:
        yield
        return
    if len(cards) < count:
        raise UserError(f"params.yaml: train.devices = {count}: there are {len(cards)} GPUs to choose from; lower it")
    with _locked(common / "cards", cards, count) as mine, _visible(mine):
        yield


def _is_one_of_several() -> bool:
    return "LOCAL_RANK" in os.environ or int(os.environ.get("SLURM_NTASKS", "1")) > 1


def _listed() -> list[str]:
    """The UUIDs of the machine's cards in nvidia-smi's order; of a divided card (MIG) those of its parts."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    done = subprocess.run([tool, "-L"], capture_output=True, text=True, check=False)
    cards: list[list[str]] = []
    for line in done.stdout.splitlines():
        if found := _UUID.search(line):
            if line.startswith("GPU"):
                cards.append([])
            cards[-1].append(found[1])
    return [part for card in cards for part in (card[1:] or card)]


def _choice(listed: list[str], allowed: str | None) -> list[str]:
    """Those of the cards that `CUDA_VISIBLE_DEVICES` allows, by number or the beginning of a UUID, in its order."""
    if allowed is None:
        return listed
    chosen = []
    for word in filter(None, map(str.strip, allowed.split(","))):
        named = listed[int(word) : int(word) + 1] if word.isdigit() else [c for c in listed if c.startswith(word)]
        if not named:  # CUDA, too, heeds nothing from the first unknown card on
            break
        chosen.append(named[0])
    return list(dict.fromkeys(chosen))


@contextmanager
def _locked(folder: Path, cards: list[str], count: int) -> Iterator[list[str]]:
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as held:
        mine = _lock_free(folder, cards, count, held)
        if not mine:
            print(f"waiting for {count} of {len(cards)} GPUs to become free", flush=True)
        while not mine:
            time.sleep(WAIT)
            mine = _lock_free(folder, cards, count, held)
        yield mine


def _lock_free(folder: Path, cards: list[str], count: int, held: ExitStack) -> list[str]:
    """Lock the first `count` free cards and give them, or none where fewer are free; `held` keeps the locks."""
    mine: list[str] = []
    with ExitStack() as tried, (folder / "choosing").open("w") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)  # one process chooses at a time: else two could each hold what the other lacks
        for card in cards:
            if len(mine) < count and _is_locked(tried.enter_context((folder / card).open("w"))):
                mine.append(card)
        if len(mine) < count:
            return []
        held.push(tried.pop_all())
    return mine


def _is_locked(file: IO[str]) -> bool:
    """Try to lock a file; whether it worked."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def _visible(cards: list[str]) -> Iterator[None]:
    before = os.environ.get(VISIBLE)
    os.environ[VISIBLE] = ",".join(cards)
    try:
        yield
    finally:
        if before is None:
            del os.environ[VISIBLE]
        else:
            os.environ[VISIBLE] = before
