"""What it costs to grow: time, memory and disk of every stage against the number and the size of images.

Each point, such as 1000x96, is a run of the pipeline's own commands (from `dvc.yaml`) in an empty folder on as many
phantoms of that width. Training and evaluation are left out of points with more than 1000 images. Points are kept in
benchmarks/results/scale.json, where a new run replaces those that it measures; docs/explanation/scale.md is
written from that file alone.

Run in the project's root: `python -m benchmarks.scale`, or, for single points, `python -m benchmarks.scale 10000x96`.
All of them take some fifteen minutes on two cores, the largest a third of it. `--page` writes the page alone.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from benchmarks.measuring import RESULTS, machine, peak_anonymous, seconds
from medseg.core.markdown import table
from medseg.experiments.compose import compose

ROOT = Path(__file__).parents[1]
RESULT, PAGE = RESULTS / "scale.json", ROOT / "docs" / "explanation" / "scale.md"
POINTS = ("10x96", "100x96", "1000x96", "10000x96", "100x192", "100x384")
DATA_STAGES = ("download", "manifest", "prepare", "augment")
MOST_TRAINED = 1000  # images
FEW = 100  # images, of which the width varies
MILLION = 10**6
LINKED = ("src", "stages", "conf", "weights")
NETWORK = ("model=unet_plain", "model.init_features=8", "train.epochs=1", "evaluate=plain", "name=scale")


@dataclass(frozen=True)
class Cost:
    """What a stage took at a point."""

    stage: str
    images: int
    width: int  # pixels
    seconds: float
    memory: float  # MiB of anonymous memory at its highest, workers included
    disk: float  # MiB of its outputs


def main() -> None:
    """Measure the points, and write the results and the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("points", nargs="*", default=[], help=f"IMAGESxWIDTH; without any: {' '.join(POINTS)}")
    parser.add_argument("--page", action="store_true", help="write the page from what was measured before")
    options = parser.parse_args()
    if not options.page:
        for point in options.points or POINTS:
            keep(measured(*(int(part) for part in point.split("x"))))
    PAGE.write_text(page(json.loads(RESULT.read_text())))


def measured(images: int, width: int) -> list[Cost]:
    """The stages' costs at a point, run one after the other."""
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    costs = []
    with tempfile.TemporaryDirectory() as name:
        folder = new_project(Path(name), images, width)
        for stage in stages if images <= MOST_TRAINED else DATA_STAGES:
            costs.append(Cost(stage, images, width, *run(folder, stages[stage])))
            print(costs[-1], flush=True)
    return costs


def new_project(folder: Path, images: int, width: int) -> Path:
    """The project's code and the parameters of a point in `folder`."""
    for name in LINKED:
        (folder / name).symlink_to(ROOT / name)
    normal = images // 5
    counts = {"benign": (images - normal + 1) // 2, "malignant": (images - normal) // 2, "normal": normal}
    data = [f"data.{label}={count}" for label, count in counts.items()]
    sizes = [f"data.width=[{width},{width}]", f"prepare.height={width}", f"prepare.width={width}"]
    compose(ROOT / "conf", folder / "params.yaml", [*data, *sizes, *NETWORK])
    return folder


def run(folder: Path, stage: dict[str, Any]) -> tuple[float, float, float]:
    """Run a stage of `dvc.yaml`: seconds, MiB of memory, MiB of disk."""
    took: list[float] = []
    memory = peak_anonymous(lambda: took.append(seconds(partial(call, folder, stage["cmd"]))), own=False)
    disk = sum(size(folder / out) for out in outputs(stage)) / 2**20
    return round(took[0], 2), round(memory), round(disk, 3)


def call(folder: Path, command: str) -> None:
    """Run a stage's command in `folder`; end with what it printed where it fails."""
    places = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    command = command.replace("${name}", "scale")
    environment = os.environ | {"PATH": places}
    done = subprocess.run(command, shell=True, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{command} failed:\n{done.stdout}{done.stderr}")


def outputs(stage: dict[str, Any]) -> list[str]:
    """The paths of all that a stage of `dvc.yaml` writes."""
    listed = [out for kind in ("outs", "metrics", "plots") for out in stage.get(kind, [])]
    return [(out if isinstance(out, str) else next(iter(out))).replace("${name}", "scale") for out in listed]


def size(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def keep(costs: list[Cost]) -> None:
    """Put the costs of a point in place of what was known of it."""
    known = json.loads(RESULT.read_text()) if RESULT.exists() else {"costs": []}
    new = [asdict(cost) for cost in costs]
    points = {(cost["images"], cost["width"]) for cost in new}
    others = [cost for cost in known["costs"] if (cost["images"], cost["width"]) not in points]
    together = sorted([*others, *new], key=lambda cost: (cost["width"], cost["images"]))
    content = {"costs": together, "machine": machine()}
    RESULT.write_text(json.dumps(content, indent=2) + "\n")


def page(results: dict[str, Any]) -> str:
    """docs/explanation/scale.md."""
    costs = [Cost(**cost) for cost in results["costs"]]
    width = min(cost.width for cost in costs)
    by_number = [cost for cost in costs if cost.width == width]
    by_size = [cost for cost in costs if cost.images == FEW]
    largest = json.loads((RESULTS / "duplicates.json").read_text())["rows"][-1]
    hours = largest["processor seconds"] * (MILLION / largest["images"]) ** 2 / 3600
    host = results["machine"]
    disk = sum(fit(by_number, stage, "disk")[1] for stage in stages_of(by_number)) * MILLION / 1024
    values = {
        "machine": f"{host['processor']}, {host['cores']} cores, {host['memory_gib']} GiB, no GPU",
        "width": width,
        "few": FEW,
        "number_table": number_table(by_number),
        "fit_table": fit_table(by_number),
        "size_table": size_table(by_size),
        "hashes": f"{largest['images']:,}",
        "hash_seconds": f"{largest['processor seconds']:.0f}",
        "confirming": largest["processor ms to confirm one"],
        "hash_hours": f"{hours:.1f}",
        "disk": f"{disk:,.0f}",
        "augmented_share": f"{share_of_augment(by_number):.0%}",
    }
    return TEMPLATE.format(**values)


def stages_of(costs: list[Cost]) -> list[str]:
    """The stages in their order."""
    return list(dict.fromkeys(cost.stage for cost in sorted(costs, key=lambda cost: cost.images)))


def number_table(costs: list[Cost]) -> str:
    """Seconds / MiB of memory / MiB of disk by stage and number of images."""
    counts = sorted({cost.images for cost in costs})
    return _cost_table(costs, [f"{count:,}" for count in counts], "images", counts)


def size_table(costs: list[Cost]) -> str:
    """The same by width."""
    widths = sorted({cost.width for cost in costs})
    return _cost_table(costs, [f"{width} wide" for width in widths], "width", widths)


def _cost_table(costs: list[Cost], columns: list[str], key: str, values: list[int]) -> str:
    found = {(cost.stage, getattr(cost, key)): cost for cost in costs}
    rows = [[stage, *(_cell(found.get((stage, value))) for value in values)] for stage in stages_of(costs)]
    return table(["stage", *columns], rows)


def _cell(cost: Cost | None) -> str:
    return f"{cost.seconds:.1f} / {cost.memory:.0f} / {cost.disk:.1f}" if cost else ""


def fit(costs: list[Cost], stage: str, what: str) -> tuple[float, float, float]:
    """Line of a cost over images: at none, per image, and the largest deviation as a share of what was measured.

    The squares of relative deviations are least, so that ten images count as much as ten thousand.
    """
    points = [(cost.images, getattr(cost, what)) for cost in costs if cost.stage == stage]
    counts, values = (np.array(side, float) for side in zip(*points, strict=True))
    values = np.maximum(values, 1e-3)
    weights = 1 / values
    design = np.stack([weights, counts * weights], axis=1)
    start, each = np.linalg.lstsq(design, np.ones(len(values)), rcond=None)[0]
    deviation = np.abs((start + each * counts) / values - 1).max()
    return float(start), float(each), float(deviation)


def fit_table(costs: list[Cost]) -> str:
    """The fitted lines, and what they say of a million images."""
    rows = []
    for stage in stages_of(costs):
        start, each, deviation = fit(costs, stage, "seconds")
        memory, disk = (sum(np.array(fit(costs, stage, what)[:2]) * (1, MILLION)) / 1024 for what in ("memory", "disk"))
        cells = [f"{start:.1f} s + {each * 1000:.2f} s", f"{deviation:.0%}", f"{(start + each * MILLION) / 3600:.1f} h"]
        rows.append([stage, *cells, f"{memory:.1f} GiB", f"{disk:.1f} GiB"])
    columns = ["stage", "start + each 1000", "off by at most", "10^6: time", "10^6: memory", "10^6: disk"]
    return table(columns, rows)


def share_of_augment(costs: list[Cost]) -> float:
    """The part of the disk that the written variants take."""
    each = {stage: fit(costs, stage, "disk")[1] for stage in stages_of(costs)}
    return each["augment"] / sum(each.values())


TEMPLATE = """# What it costs to grow

Written by `python -m benchmarks.scale` from `benchmarks/results/scale.json`; measured on {machine}.
Every cell is seconds of wall-clock time / MiB of anonymous memory at its highest, workers included / MiB of outputs.
The commands are those of `dvc.yaml`, start-up included, on simulated ultrasound, resized to its own width, with the
sevenfold augmentation; `download` is the simulation itself. The network is small (plain U-Net, 8 features), one epoch.

## Number of images

Images {width} pixels wide:

{number_table}

The straight line through these points (least squares of relative deviations), and what it says of a million images.
**The last three columns are that line drawn on, no measurement.** Nothing was measured with more images than the
table above has.

{fit_table}

Linear: all stages but one part of `manifest`. That compares every perceptual hash with every other one, so its time
grows with the square (its memory does not: a block at a time): {hash_seconds} s of one core for {hashes} images, and by
the square {hash_hours} h for a million, to be added to the line (`python -m benchmarks.duplicates`). So is
{confirming} ms for each pair whose hashes are near, of which there are many where images are alike
([near-duplicates](reliability.md#near-duplicates)).

## Size of images

{few} images:

{size_table}

Costs follow the number of pixels, beside the start-up. Patches are samples of their own: an image that is cut into
400 costs `augment` and `train` what 400 images of a patch's size cost.

## Where one machine ends, and what to turn there

- **Disk first.** A million of these small images need {disk} GiB by the line, {augmented_share} of it variants that
  `augment` writes. `-S augment=none -S online=strong` draws them while training instead; then the arrays are as large
  as the samples. `dvc` links its cache to the working tree (`cache.type` in `.dvc/config`), so that a file counts
  once where the file system has reflinks or the cache lies on the same one. `prepare.stride` decides how often
  patches overlap, which is how often a pixel is stored.
- **Time of `manifest`, `prepare` and `augment`** divides by `machine.workers`, on one machine as many as it has
  cores, beyond it with `machine.backend=tcp://HOST:8786`, a dask cluster that sees the same folder: the bytes stay
  the same.
- **Time of `train`** is samples times epochs: `train.devices`, `train.num_nodes` and `train.strategy` (see
  `many-gpus.md`).
- **Memory**: arrays are read by memory map and written in pieces, so they need not fit. What grows is the tables, a
  row per image or sample; that is the slope in the column of memory.
- **`evaluate` and `report`** keep and show every test image. `split.test` decides how many these are; a test set
  need not grow with the training set.
"""

if __name__ == "__main__":
    main()
