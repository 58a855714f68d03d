"""What one GPU trains: images per second, how busy it is and how much memory it takes, all in.

The network, loss and optimiser of params.yaml go through `medseg.training.trainer.fit` on random images, once for
each size of image, batch and precision: float32 as params.yaml has it, bfloat16 (conf/train/gpu.yaml without its
compiled kernels), and bfloat16 compiled (conf/train/gpu.yaml). Online augmentation (conf/online/strong.yaml) is on. Of
three epochs the last is measured. What does not fit the memory is said so. Last, the smallest size and batch train
twice with train.deterministic on and twice with it off: whether the weights come out equal, and what that costs.

Run in the project's root: `python -m benchmarks.gpu`; half an hour, of which most is compiling. The table is printed
and written to benchmarks/results/gpu.json. `--accelerator cpu` tries the script itself where there is no GPU.
"""

import argparse
import hashlib
import itertools
import json
import statistics
import sys
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytorch_lightning as pl
import torch

from benchmarks.measuring import RESULTS, machine
from benchmarks.peers.side import ROOT, recipe
from medseg.core.errors import UserError
from medseg.core.markdown import table
from medseg.core.parallel import MachineParams
from medseg.data.geometry import Resize
from medseg.data.packed import Packed, create_arrays, describe_arrays, open_packed
from medseg.training import trainer as training
from medseg.training.trainer import Recipe

EPOCHS = 3
LOOK = 0.05  # seconds between looks at how busy the GPU is
VARIANTS: dict[str, dict[str, object]] = {
    "fp32": {},
    "bf16": {"precision": "bf16-mixed", "deterministic": False, "channels_last": True},
    "bf16 + compile": {"precision": "bf16-mixed", "deterministic": False, "channels_last": True, "compile": True},
}
Found = dict[str, object]


class Watch(pl.Callback):
    """The seconds of each epoch's steps, and the GPU's busy share during the last one."""

    def __init__(self) -> None:
        """Nothing is seen yet."""
        self.seconds: list[float] = []
        self.busy: list[int] = []
        self.over = threading.Event()

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin to count."""
        settle()
        self.start = time.perf_counter()
        if trainer.current_epoch == EPOCHS - 1 and pl_module.device.type == "cuda":
            threading.Thread(target=self.look, daemon=True).start()

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The epoch's steps are done."""
        del trainer, pl_module
        settle()
        self.seconds.append(time.perf_counter() - self.start)
        if len(self.seconds) == EPOCHS:
            self.over.set()

    def look(self) -> None:
        """See how busy the GPU is until the epoch is over."""
        while not self.over.wait(LOOK):
            self.busy.append(torch.cuda.utilization())


def main() -> None:
    """Measure all, print the table and write it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--sizes", type=int, nargs="+", default=[128, 256, 512], help="pixels a side")
    parser.add_argument("--batches", type=int, nargs="+", default=[16, 64, 256])
    parser.add_argument("--steps", type=int, default=40, help="of an epoch")
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--accelerator", choices=["gpu", "cpu"], default="gpu")
    options = parser.parse_args()
    if options.accelerator == "gpu" and not torch.cuda.is_available():
        sys.exit("error: no GPU can be used here; --accelerator cpu tries the script without one")
    found = []
    for size, batch, variant in itertools.product(options.sizes, options.batches, options.variants):
        found.append(one(size, batch, variant, options.steps, options.accelerator))
        print(json.dumps(found[-1]), flush=True)
    gpu = torch.cuda.get_device_name() if options.accelerator == "gpu" else "no GPU: the script was tried on the CPU"
    print(f"{gpu}\n\n{table(list(found[0]), [[str(value) for value in row.values()] for row in found])}")
    again = repeated(min(options.sizes), min(options.batches), options.steps, options.accelerator)
    print(f"\n{table(list(again[0]), [[str(value) for value in row.values()] for row in again])}")
    content = {"gpu": gpu, "torch": torch.__version__, "rows": found, "repeated": again, "machine": machine()}
    (RESULTS / "gpu.json").write_text(json.dumps(content, indent=2) + "\n")


def one(size: int, batch: int, variant: str, steps: int, accelerator: str) -> Found:
    """One row: training in one way."""
    plan = planned(batch, VARIANTS[variant])
    row: Found = {"pixels": f"{size}x{size}", "batch": batch, "precision": variant}
    if accelerator == "gpu":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    try:
        watch, _ = trained(plan, size, steps, accelerator)
    except UserError as error:
        return row | {"images/s": str(error).partition(": ")[2], "busy, %": "", "peak memory, GiB": ""}
    memory = torch.cuda.max_memory_allocated() / 2**30 if accelerator == "gpu" else float("nan")
    busy = round(statistics.mean(watch.busy)) if watch.busy else "not seen"
    speed = round(steps * batch / watch.seconds[-1])
    return row | {"images/s": speed, "busy, %": busy, "peak memory, GiB": round(memory, 2)}


def repeated(size: int, batch: int, steps: int, accelerator: str) -> list[Found]:
    """A row with train.deterministic on and one with it off: two runs of each in float32, in turn."""
    kinds = (True, False)
    runs = [trained(planned(batch, {"deterministic": kind}), size, steps, accelerator) for kind in kinds * 2]
    rows: list[Found] = []
    for place, kind in enumerate(kinds):
        (watch, digest), (watch_again, digest_again) = runs[place], runs[place + len(kinds)]
        speed = round(steps * batch / statistics.mean([watch.seconds[-1], watch_again.seconds[-1]]), 1)
        rows.append({"deterministic": kind, "equal weights twice": digest == digest_again, "images/s": speed})
    return rows


def planned(batch: int, changes: dict[str, object]) -> Recipe:
    """The recipe of params.yaml with online augmentation and other settings of its section train."""
    plan = recipe("strong")
    return replace(plan, train=plan.train.model_copy(update={"epochs": EPOCHS, "batch_size": batch} | changes))


def trained(plan: Recipe, size: int, steps: int, accelerator: str) -> tuple[Watch, str]:
    """Train, watched; and the SHA-256 of all weights that came out, in their order."""
    watch, plain = Watch(), pl.Trainer

    def watched_trainer(callbacks: list[pl.Callback], **settings: object) -> pl.Trainer:
        return plain(callbacks=[*callbacks, watch], **settings)  # type: ignore[arg-type]  # Lightning's own settings

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        stores = noise(folder / "train", steps * plan.train.batch_size, size), noise(folder / "val", 1, size)
        folders = training.Folders(ROOT / "weights", folder / "metrics", folder / "logs")
        device = MachineParams.model_validate({"workers": 0, "backend": "auto", "accelerator": accelerator})
        pl.Trainer = watched_trainer  # type: ignore[assignment, misc]
        try:
            found = training.fit(*stores, plan, folders, device)
        finally:
            pl.Trainer = plain  # type: ignore[misc]
    digest = hashlib.sha256()
    for tensor in found.network.state_dict().values() if found else ():
        digest.update(tensor.cpu().numpy().tobytes())
    return watch, digest.hexdigest()


def noise(folder: Path, count: int, side: int) -> Packed:
    """Random images and masks, packed: what they show costs a network nothing."""
    images, masks = create_arrays(folder, count, side, side, 1)
    rng = np.random.default_rng(0)
    for image, mask in zip(images, masks, strict=True):
        image[:] = rng.integers(0, 256, image.shape, np.uint8)
        mask[:] = rng.integers(0, 2, mask.shape, np.uint8)
    columns: dict[str, str | int] = {"file": "none.png", "label": "a", "group": "a"}
    columns |= {"sha256": "0" * 64, "phash": "0" * 16, "patient": "", "top": 0, "left": 0, "variant": 0}
    geometry = Resize(name="resize", channels=1, height=side, width=side, aspect="squash", small_objects="drop")
    describe_arrays(folder, pd.DataFrame(columns, index=range(count)), geometry)
    return open_packed(folder)


def settle() -> None:
    """Wait until the GPU has done what it was told."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
