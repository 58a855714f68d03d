"""Several processes that train one network: the place of each, and what becomes of them where one dies.

Lightning starts them, and calls a process by its rank, from 0. Rank 0 alone writes what a run leaves.
"""

import ctypes
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytorch_lightning as pl
from lightning_fabric.plugins.environments.lightning import LightningEnvironment

from medseg.core.errors import UserError
from medseg.training.dataloader import Share

GRACE = 2.0  # seconds that a process has to end by itself after another has died
LOOK = 0.1  # seconds between looks for processes that were just started
CUT_OFF = re.compile("gloo|nccl|connection", re.IGNORECASE)  # in the errors of a process that lost the others
PR_SET_PDEATHSIG = 1  # of prctl(2)


def share_of(trainer: pl.Trainer) -> Share:
    """This process's place among those that train."""
    return Share(trainer.global_rank, trainer.world_size)


def check_nodes(trainer: pl.Trainer) -> None:
    """Raise `UserError` where a run on several machines was started without what lets them find each other."""
    nodes = trainer.num_nodes
    alone = isinstance(getattr(trainer.strategy, "cluster_environment", None), LightningEnvironment)
    if nodes > 1 and alone and not {"MASTER_ADDR", "MASTER_PORT", "NODE_RANK"} <= os.environ.keys():
        raise UserError(
            f"params.yaml: train.num_nodes = {nodes}: training must be started on each of them, by torchrun, by srun, "
            "or with MASTER_ADDR, MASTER_PORT and NODE_RANK set; docs/many_gpus.md shows how"
        )


@contextmanager
def bound_together(trainer: pl.Trainer) -> Iterator[None]:
    """While the block runs, the processes that `trainer` starts on this machine live and die together.

    Where one that this process started dies, the block is left with a `SystemExit(1)`, or, if it hangs in wait for the
    dead, the whole process ends with 1. Lightning alone would kill the process without a word.
    """
    if trainer.local_rank > 0:
        _end_with_parent()
        yield
        return
    watch = _Watch(trainer)
    try:
        yield
    except RuntimeError as error:
        if CUT_OFF.search(str(error)) and watch.has_seen_death(within=GRACE):
            raise SystemExit(1) from None
        raise
    finally:
        watch.over.set()


def _end_with_parent() -> None:
    """Have the system kill this process when the one that started it ends, however it does."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class _Watch:
    """Waits for the processes that Lightning's launcher starts, each in a thread of its own."""

    def __init__(self, trainer: pl.Trainer) -> None:
        self.launcher = trainer.strategy.launcher
        self.world = trainer.world_size
        self.over = threading.Event()
        self.death = threading.Event()
        self.count = trainer.num_devices - 1
        if self.count and not _is_started_from_outside(trainer):
            threading.Thread(target=self._wait_for_start, daemon=True).start()

    def has_seen_death(self, within: float) -> bool:
        """Whether a process has died, or does so within some seconds."""
        return self.death.wait(within)

    def _wait_for_start(self) -> None:
        while len(procs := list(getattr(self.launcher, "procs", []))) < self.count:
            if self.over.wait(LOOK):
                return
        for rank, proc in enumerate(procs, start=1):
            threading.Thread(target=self._wait_for_end, args=(rank, proc), daemon=True).start()

    def _wait_for_end(self, rank: int, proc: "subprocess.Popen[bytes]") -> None:
        code = proc.wait()
        if code == 0 or self.over.is_set():
            return
        how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        print(
            f"error: rank {rank} of {self.world} (process {proc.pid}) {how}: training ends", file=sys.stderr, flush=True
        )
        self.death.set()
        if not self.over.wait(GRACE):  # the main thread waits for the dead where no exception reaches it
            os._exit(1)


def _is_started_from_outside(trainer: pl.Trainer) -> bool:
    environment = getattr(trainer.strategy, "cluster_environment", None)
    return environment is None or bool(environment.creates_processes_externally)
