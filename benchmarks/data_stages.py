"""The data stages against the way of an older project: one PNG file per patch, read back one by one.

28 pictures of 512x512 are cut at 128/20 into 11,200 patches. Both sides run in turn, start-up aside (everything is
imported, processes are up), and what is written is flushed to disk within the time. The older way: patchify, two
`cv2.imwrite` a patch, then `PIL.Image.open` and albumentations for each; DVC is called within this process.
Augmentation is held against albumentations' own time for the same number of variants on one core, divided by cores.
The last two lines are the largest anonymous memory while an output of some GiB is written, in MiB, workers included.

Run in the project's root: `python benchmarks/data_stages.py --pictures 28 --rounds 3`. Pictures are drawn: smooth
colour, nuclei and sensor noise, in PNG about as large as stained tissue.
"""

import argparse
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch  # before albumentations, which then has its conversion to tensors  # noqa: F401  # isort: skip
import albumentations as A  # noqa: N812
import cv2
import numpy as np
import pandas as pd
import psutil  # type: ignore[import-untyped]
from albumentations.pytorch import ToTensorV2
from dvc.repo import Repo
from measuring import report, row, seconds
from patchify import patchify
from PIL import Image

from medseg.augmentation import AugmentParams, Transforms, augment, build_transform
from medseg.geometry import Patchify
from medseg.imaging import Pixels
from medseg.loading import training_batches
from medseg.machine import MachineParams, worker_count
from medseg.params import read_yaml, validate
from medseg.preparation import prepare
from medseg.sampling import Sampling, Uniform
from medseg.store import create_arrays, describe_arrays, open_store

ROOT = Path(__file__).parents[1]
SIDE, PATCH, STRIDE = 512, 128, 20
DVC = ("add", "status", "checkout")
BATCH = 16
GEOMETRY = Patchify(name="patchify", channels=3, patch=PATCH, stride=STRIDE, border="drop")
THREADS = MachineParams(workers=0, backend="threading", accelerator="cpu")
PROCESSES = MachineParams(workers=0, backend="loky", accelerator="cpu")
AUGMENTED = 800  # patches at most
Step = Callable[[], float]  # gives its seconds
LIMITS = {
    "prepare": 10.0,
    "read a shuffled epoch": 30.0,
    "dvc add": 1.0,
    "dvc status": 1.0,
    "dvc checkout": 5.0,
    "augment x7": 1 / 1.3,
}


def main() -> None:
    """Run all rounds, print the table and write it to benchmarks/results/data_stages.json."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--pictures", type=int, default=28)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--gib", type=float, default=2.0, help="size of the output whose memory is measured")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = draw_pictures(folder / "raw", options.pictures)
        rounds = [one_round(rows, folder, number) for number in range(options.rounds)]
        table = [row(what, [found[what] for found in rounds], limit) for what, limit in LIMITS.items()]
        report("data_stages", table, vars(options) | memory(rows, folder, options.gib))


def draw_pictures(raw: Path, count: int) -> pd.DataFrame:
    """Pictures and masks as PNG files, and their manifest rows."""
    raw.mkdir()
    for number in range(count):
        image, mask = tissue(np.random.default_rng(number))
        Image.fromarray(image).save(raw / f"{number}.png")
        Image.fromarray(mask * np.uint8(255)).save(raw / f"{number}_mask.png")
    named = {"file": [f"{n}.png" for n in range(count)], "mask": [f"{n}_mask.png" for n in range(count)]}
    return pd.DataFrame(named | {"label": "a", "group": "g", "region": f"0:0:{SIDE}:{SIDE}"})


def tissue(chance: np.random.Generator) -> tuple[Pixels, Pixels]:
    """A picture (H, W, 3) and the mask (H, W) of its nuclei."""
    mask = np.zeros((SIDE, SIDE), np.uint8)
    for x, y, radius in zip(*chance.integers(0, SIDE, (2, 200)), chance.integers(5, 12, 200), strict=True):
        cv2.circle(mask, (int(x), int(y)), int(radius), (1,), cv2.FILLED)
    smooth = cv2.GaussianBlur(chance.normal(0, 300, (SIDE, SIDE, 3)), (0, 0), 6)
    colour = np.where(mask[..., None] > 0, (110, 70, 150), (220, 170, 205)) + smooth + chance.normal(0, 3, smooth.shape)
    return colour.clip(0, 255).astype(np.uint8), mask


def one_round(rows: pd.DataFrame, folder: Path, number: int) -> dict[str, tuple[float, float]]:
    """Seconds of every step, ours and the baseline's; who begins changes from round to round."""
    ours, files = folder / f"ours-{number}", folder / f"files-{number}"
    repositories = [new_repository(place) for place in (ours, files)]
    raw = folder / "raw"
    steps: dict[str, tuple[Step, Step]] = {
        "prepare": (
            flushed(partial(prepare, rows, raw, GEOMETRY, THREADS, ours / "data"), folder),
            flushed(partial(write_files, rows, raw, files / "data"), folder),
        ),
        "read a shuffled epoch": (partial(read_ours, ours / "data"), partial(read_files, files / "data")),
        **{f"dvc {what}": dvc_steps(repositories, what) for what in DVC},
        "augment x7": (partial(augment_ours, ours), partial(augment_alone, ours / "data")),
    }
    found = {}
    for what, (our_step, their_step) in steps.items():
        if number % 2:
            theirs, mine = their_step(), our_step()
        else:
            mine, theirs = our_step(), their_step()
        found[what] = (mine, theirs)
        print(f"round {number + 1}: {what}: {mine:.2f} s, baseline {theirs:.2f} s", flush=True)
    for repo, place in zip(repositories, (ours, files), strict=True):
        repo.close()
        shutil.rmtree(place)
    return found


def flushed(work: Callable[[], object], folder: Path) -> Step:
    """`work` with all that was written flushed to disk within its time, and nothing else waiting to be."""

    def measured() -> float:
        flush(folder)

        def both() -> None:
            work()
            flush(folder)

        return seconds(both)

    return measured


def flush(folder: Path) -> None:
    """Write what waits for the disk that `folder` lies on."""
    subprocess.run(["sync", "-f", str(folder)], check=True)


def write_files(rows: pd.DataFrame, raw: Path, data: Path) -> None:
    """One PNG file for each patch and each mask."""
    for name in ("images", "masks"):
        (data / name).mkdir(parents=True)
    for number, (file, mask) in enumerate(zip(rows["file"], rows["mask"], strict=True)):
        image_patches = patchify(cv2.imread(str(raw / file)), (PATCH, PATCH, 3), step=STRIDE)
        mask_patches = patchify(cv2.imread(str(raw / mask), cv2.IMREAD_GRAYSCALE), (PATCH, PATCH), step=STRIDE)
        for i, j in np.ndindex(mask_patches.shape[:2]):
            cv2.imwrite(str(data / "images" / f"{number}_{i}_{j}.png"), image_patches[i, j, 0])
            cv2.imwrite(str(data / "masks" / f"{number}_{i}_{j}.png"), mask_patches[i, j])


def read_ours(data: Path) -> float:
    """An epoch of the batches that training takes."""

    def read() -> None:
        store = open_store(data)
        sampling = Sampling(Uniform(name="uniform"), store, 0)
        for _ in training_batches(store, np.ones(sampling.count, np.uint8), sampling, STILL, BATCH, 0):
            pass

    return seconds(read)


def read_files(data: Path) -> float:
    """Every patch once, in random order, as a tensor."""
    names = sorted(path.name for path in (data / "images").iterdir())
    transform = A.Compose([ToTensorV2()])

    def read() -> None:
        for number in np.random.default_rng(0).permutation(len(names)):
            image = np.array(Image.open(data / "images" / names[number]).convert("RGB"))
            mask = np.array(Image.open(data / "masks" / names[number]).convert("L"))
            transform(image=image, mask=mask)

    return seconds(read)


def new_repository(folder: Path) -> Any:
    """A repository of git and DVC, whose cache links as this project's does."""
    folder.mkdir()
    subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
    Repo.init(str(folder)).close()
    (folder / ".dvc" / "config").write_text((ROOT / ".dvc" / "config").read_text())
    return Repo(str(folder))


def dvc_steps(repositories: Sequence[Any], what: str) -> tuple[Step, Step]:
    """A DVC command in our repository and in the baseline's."""
    ours, files = repositories
    return partial(call_dvc, ours, what), partial(call_dvc, files, what)


def call_dvc(repo: Any, what: str) -> float:
    """Seconds of a DVC command on the folder `data`; before `checkout` it is removed."""
    data = Path(repo.root_dir) / "data"
    if what == "checkout":
        shutil.rmtree(data)
    arguments = [str(data)] if what == "add" else []
    return seconds(partial(getattr(repo, what), *arguments))


def augment_ours(folder: Path) -> float:
    """The sevenfold augmentation, read and written; the processes are there already."""
    first_samples(folder / "data", folder / "few", AUGMENTED)
    augment(folder / "few", SEVENFOLD, PROCESSES, folder / "warm")
    return seconds(partial(augment, folder / "few", SEVENFOLD, PROCESSES, folder / "augmented"))


def augment_alone(data: Path) -> float:
    """Albumentations alone on the same samples and one core, nothing read or written, divided by cores."""
    store = open_store(data)
    images, masks = np.array(store.images[:AUGMENTED]), np.array(store.masks[:AUGMENTED])
    transform, threads = build_transform(SEVENFOLD), cv2.getNumThreads()

    def draw() -> None:
        for image, mask in zip(images, masks, strict=True):
            for _ in range(SEVENFOLD.factor - 1):
                transform(image=image, mask=mask)

    cv2.setNumThreads(1)
    own = seconds(draw)
    cv2.setNumThreads(threads)
    return own / worker_count(PROCESSES)


def first_samples(data: Path, folder: Path, count: int) -> None:
    """Packed arrays of the first `count` samples."""
    store = open_store(data)
    chosen = slice(0, count)
    images, masks = create_arrays(folder, len(store.images[chosen]), PATCH, PATCH, GEOMETRY.channels)
    images[:], masks[:] = store.images[chosen], store.masks[chosen]
    describe_arrays(folder, store.index.iloc[chosen], store.geometry)


def memory(rows: pd.DataFrame, folder: Path, gib: float) -> dict[str, object]:
    """The largest anonymous memory (MiB) while `gib` are written by each of prepare and augment, workers included."""
    picture = 400 * PATCH * PATCH * 4
    many = pd.concat([rows] * max(1, round(gib * 2**30 / picture / len(rows))), ignore_index=True)
    found = {"prepare": peak_anonymous(partial(prepare, many, folder / "raw", GEOMETRY, THREADS, folder / "large"))}
    shutil.rmtree(folder / "large")
    few = many.head(max(1, round(gib * 2**30 / picture / SEVENFOLD.factor)))
    prepare(few, folder / "raw", GEOMETRY, THREADS, folder / "seventh")
    found["augment"] = peak_anonymous(partial(augment, folder / "seventh", SEVENFOLD, PROCESSES, folder / "large"))
    return {f"largest anonymous memory of {stage}, MiB (limit 1024)": round(value) for stage, value in found.items()}


def peak_anonymous(work: Callable[[], object]) -> float:
    """MiB of the processes' RssAnon together at its largest while `work` runs, looked at every 50 ms."""
    done, seen = threading.Event(), [anonymous()]

    def watch() -> None:
        while not done.wait(0.05):
            seen.append(anonymous())

    watcher = threading.Thread(target=watch)
    watcher.start()
    work()
    done.set()
    watcher.join()
    return max(seen)


def anonymous() -> float:
    """RssAnon of this process and its children, MiB."""
    processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
    return sum(_anonymous(process.pid) for process in processes) / 1024


def _anonymous(process: int) -> int:
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:  # it has ended
        return 0
    return sum(int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon"))


def _section(path: str, kind: Any) -> Any:
    return validate(read_yaml(ROOT / "conf" / path), kind, path)


SEVENFOLD: AugmentParams = _section("augment/sevenfold.yaml", AugmentParams)
STILL: Transforms = _section("online/none.yaml", Transforms)

if __name__ == "__main__":
    main()
