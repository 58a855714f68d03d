"""The pipeline's own training, all in: `trainer.fit` on packed arrays. A third argument names conf/online."""

import sys
from typing import Any
from unittest.mock import patch

import pytorch_lightning as pl

from benchmarks.peers.side import ROOT, TurnsOfEpochs, order, recipe
from medseg.core.parallel import MachineParams
from medseg.data.packed import open_packed
from medseg.training import trainer as training


def main() -> None:
    """Train until the benchmark ends."""
    asked = order()
    folders = training.Folders(ROOT / "weights", asked.folder / "metrics" / sys.argv[3], asked.folder / "logs")
    machine = MachineParams(workers=0, backend="auto", accelerator="auto")
    stores = open_packed(asked.folder / "train"), open_packed(asked.folder / "val")
    clock, plain = TurnsOfEpochs(asked), pl.Trainer

    def timed_trainer(callbacks: list[pl.Callback], **settings: Any) -> pl.Trainer:
        return plain(callbacks=[clock, *callbacks], **settings)  # first, so that what the others do counts

    with patch.object(pl, "Trainer", timed_trainer):
        training.fit(*stores, recipe(sys.argv[3]), folders, machine)


if __name__ == "__main__":
    main()
