"""What early stopping keeps where learning begins late: faint ellipses, a plain U-Net, five seeds, three rules.

`dice`: the highest val/dice is kept, and patience always counts. `above constant`: the same once val/dice is above that
of one class for all pixels; before, the lowest val/loss is kept and patience does not count. `clearly above`: the
project's rule, which asks for a margin. The score is the mean Dice over test images.

Run in the project's root: `OMP_NUM_THREADS=1 python -m benchmarks.studies.early_stopping`.
"""

import json
import statistics
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from medseg.core.parallel import MachineParams
from medseg.core.params import read_section
from medseg.data.augment import Transforms
from medseg.data.geometry import Resize
from medseg.data.packed import Packed
from medseg.data.task import Binary
from medseg.models.params import UnetPlain
from medseg.training import checkpointing
from medseg.training.params import LossParams, OptimizerParams, SchedulerParams, TrainParams, Uniform
from medseg.training.trainer import Folders, Recipe, Trained, fit

PARAMS = Path("params.yaml")
RESULTS = Path(__file__).parent / "results/early_stopping.json"
SEEDS = range(5)
EPOCHS = 20
SIDE, CONTRAST, NOISE = 64, 12, 6  # pixels, grey levels of 255
SIZES = {"train": 40, "val": 10, "test": 10}
RULES = {"dice": -1e9, "above constant": 0.0, "clearly above": checkpointing.MARGIN}  # margins
PATIENCES = (4, 20)


@dataclass(frozen=True)
class Result:
    """One run."""

    rule: str
    patience: int
    seed: int
    best_epoch: int
    epochs: int
    test_dice: float


def main() -> None:
    """Train all runs, write them, and print one line a rule."""
    runs = [(rule, patience, seed) for rule in RULES for patience in PATIENCES for seed in SEEDS]
    results = [_run(*run) for run in tqdm(runs)]
    RESULTS.write_text(json.dumps([asdict(result) for result in results], indent=1) + "\n", encoding="utf-8")
    for rule in RULES:
        for patience in PATIENCES:
            scores = [r.test_dice for r in results if (r.rule, r.patience) == (rule, patience)]
            last = [r.epochs for r in results if (r.rule, r.patience) == (rule, patience)]
            print(
                f"{rule:15s} patience {patience:2d}: test Dice {statistics.mean(scores):.3f} "
                f"(lowest {min(scores):.3f}), {statistics.mean(last):.1f} epochs"
            )


def _run(rule: str, patience: int, seed: int) -> Result:
    splits = {name: _ellipses(size, 1000 * seed + number) for number, (name, size) in enumerate(SIZES.items())}
    with tempfile.TemporaryDirectory() as folder, patch.object(checkpointing, "MARGIN", RULES[rule]):
        trained = fit(splits["train"], splits["val"], _recipe(patience, seed), _folders(Path(folder)), _machine())
    assert trained is not None
    record = trained.description.training
    return Result(rule, patience, seed, record.best_epoch, record.epochs, _dice(trained, splits["test"]))


def _ellipses(number: int, seed: int) -> Packed:
    """One faint ellipse in each image, on an uneven background."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:SIDE, :SIDE]
    images, masks = [], []
    for _ in range(number):
        centre, radii = rng.uniform(16, SIDE - 16, 2), rng.uniform(5, 14, 2)
        mask = ((y - centre[0]) / radii[0]) ** 2 + ((x - centre[1]) / radii[1]) ** 2 <= 1
        slope = rng.uniform(-30, 30, 2)
        grey = 110 + slope[0] * (y / SIDE - 0.5) + slope[1] * (x / SIDE - 0.5) + CONTRAST * mask
        images.append(np.clip(grey + rng.normal(0, NOISE, grey.shape), 0, 255).astype(np.uint8)[..., None])
        masks.append(mask.astype(np.uint8))
    index = pd.DataFrame({"label": ["ellipse"] * number})
    return Packed(
        np.stack(images),
        np.stack(masks),
        index,
        Resize(name="resize", channels=1, height=SIDE, width=SIDE, aspect="squash", small_objects="drop"),
    )


def _recipe(patience: int, seed: int) -> Recipe:
    train = read_section(PARAMS, "train", TrainParams)
    return Recipe(
        task=Binary(name="binary"),
        model=UnetPlain(name="unet_plain", init_features=8, input_mean=[0.5], input_std=[0.25]),
        loss=read_section(PARAMS, "loss", LossParams),
        optimizer=read_section(PARAMS, "optimizer", OptimizerParams),
        scheduler=read_section(PARAMS, "scheduler", SchedulerParams),
        sampling=Uniform(name="uniform"),
        online=read_section(PARAMS, "online", Transforms),
        train=train.model_copy(update={"epochs": EPOCHS, "patience": patience, "batch_size": 8}),
        seed=seed,
    )


def _folders(folder: Path) -> Folders:
    return Folders(folder / "weights", folder / "metrics", folder / "logs")


def _machine() -> MachineParams:
    return MachineParams(workers=1, backend="threading", accelerator="cpu")


def _dice(trained: Trained, test: Packed) -> float:
    pixels = torch.from_numpy(test.images.transpose(0, 3, 1, 2).astype(np.float32))
    with torch.no_grad():
        found = trained.network(pixels)[:, 0].numpy() >= 0
    truth = test.masks > 0
    return float(np.mean([2 * (f & t).sum() / (f.sum() + t.sum()) for f, t in zip(found, truth, strict=True)]))


if __name__ == "__main__":
    main()
