"""Several processes (ranks) that train one network. Lightning starts them; rank 0 alone writes results.

Where a further rank is killed, the run ends without help (measured with gloo on the CPU): after 4 s with exit code 1,
through the broken connection, or, while ranks still start, after 5 s by Lightning's observer of child processes, which
names the dead. Nothing observes rank 0: see `end_with_parent`.
"""

import ctypes
import os
import signal

import pytorch_lightning as pl
from lightning_fabric.plugins.environments.lightning import LightningEnvironment

from medseg.core.errors import UserError

PR_SET_PDEATHSIG = 1  # of prctl(2)


def check_nodes(trainer: pl.Trainer) -> None:
    """Raise `UserError` where a run on several machines was started without what lets them find each other."""
    nodes = trainer.num_nodes
    alone = isinstance(getattr(trainer.strategy, "cluster_environment", None), LightningEnvironment)
    if nodes > 1 and alone and not {"MASTER_ADDR", "MASTER_PORT", "NODE_RANK"} <= os.environ.keys():
        raise UserError(
            f"params.yaml: train.num_nodes = {nodes}: training must be started on each of them, by torchrun, by srun, "
            "or with MASTER_ADDR, MASTER_PORT and NODE_RANK set; docs/how-to/many-gpus.md shows how"
        )


def end_with_parent() -> None:
    """Have the kernel kill this process when the one that started it ends.

    Without it a rank whose rank 0 was killed ends only when its connection fails: with NCCL after the timeout of its
    collectives, 10 minutes by default, in which it holds its GPU.
    """
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
