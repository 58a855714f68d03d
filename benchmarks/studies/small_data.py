"""What each option for small data brings: mean and spread of Dice on val over seeds, against the run without it.

Every run is the stage train of the real pipeline on arrays that were prepared once; only the parameters differ, and all
runs of a study see equally many samples. Val alone is read, at the size of the samples, pooled over pixels.

Run in the project's root: `MEDSEG_DATA=/path/to/data python -m benchmarks.studies.small_data busi` or `... tissue`.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from medseg.experiments.compose import compose
from medseg.models.model_yaml import Description, read_description

ROOT = Path(__file__).parents[2]
RESULTS = Path(__file__).parent / "results"
SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class Study:
    """A set of runs that differ in one option each."""

    base: Sequence[str]  # overrides of all runs
    options: dict[str, Sequence[str]]  # further overrides by what they are called; the first is the baseline


STUDIES = {
    "busi": Study(
        base=["experiment=sample_busi", "prepare.height=96", "prepare.width=96", "train.patience=99"],
        options={
            "x7 written before training": ["train.epochs=3"],
            "online augmentation instead": ["augment=none", "online=strong", "train.epochs=21"],
            "online augmentation on top": ["online=strong", "train.epochs=3"],
            "weight averaging, decay 0.98": ["train.ema_decay=0.98", "train.epochs=3"],
            "encoder at a tenth of the rate": ["optimizer.encoder_factor=0.1", "train.epochs=3"],
        },
    ),
    "tissue": Study(
        base=["experiment=sample_ucsb", "train.patience=99", "train.epochs=4"],
        options={
            "every patch once": [],
            "a third of the draws with a tenth annotated": ["sampling=foreground"],
        },
    ),
}


def main() -> None:
    """Run a study and print its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=STUDIES)
    name = parser.parse_args().study
    study = STUDIES[name]
    with tempfile.TemporaryDirectory() as folder:
        scores = {option: [0.0] * len(SEEDS) for option in study.options}
        jobs = [(option, number) for number in range(len(SEEDS)) for option in study.options]
        for option, number in tqdm(jobs, desc=name):
            overrides = [*study.base, *study.options[option], f"seed={SEEDS[number]}"]
            scores[option][number] = train(Path(folder), overrides)
    result = RESULTS / f"small_data_{name}.json"
    result.write_text(json.dumps(scores, indent=2) + "\n")
    print(table(scores))


def train(folder: Path, overrides: Sequence[str]) -> float:
    """The best Dice on val of a run; the data stages run once for all runs that share their parameters."""
    params = folder / "params.yaml"
    compose(ROOT / "conf", params, overrides)
    augmented = "augmented_none" if "augment=none" in overrides else "augmented"
    if not (folder / "raw").exists():
        stage(folder, "download", "raw")
        inputs = ("raw", str(ROOT / "conf" / "lists"), str(ROOT / "weights"))
        stage(folder, "manifest", *inputs, "manifest.csv", "splits", "overlap.csv", "manifest.json")
        stage(folder, "prepare", "raw", "manifest.csv", "prepared", "samples.png")
    if not (folder / augmented).exists():
        stage(folder, "augment", "prepared/train", augmented, "variants.png")
    weights = str(ROOT / "weights")
    stage(
        folder,
        "train",
        augmented,
        "prepared/val",
        weights,
        "overlap.csv",
        "network",
        "metrics",
        "train.json",
        "logs",
        "environment.json",
    )
    return read_description(folder / "network", Description).training.val_dice


def stage(folder: Path, name: str, *paths: str) -> None:
    """Run a stage in `folder`, as `dvc.yaml` runs it."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "src")])}
    command = [sys.executable, "-m", f"stages.{name}", "params.yaml", *paths]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")


def table(scores: dict[str, list[float]]) -> str:
    """Mean and standard deviation over seeds, and the difference from the baseline seed by seed."""
    baseline = next(iter(scores.values()))
    lines = ["| option | Dice on val | difference |", "| --- | ---: | ---: |"]
    for option, values in scores.items():
        change = [value - first for value, first in zip(values, baseline, strict=True)]
        own = f"{statistics.mean(values):.3f} ± {statistics.stdev(values):.3f}"
        other = f"{statistics.mean(change):+.3f} ± {statistics.stdev(change):.3f}" if values is not baseline else ""
        lines.append(f"| {option} | {own} | {other} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
