"""The data stages against the way of an older project: one PNG file per patch, read back one by one.

28 images of 512x512 are cut at 128/20 into 11,200 patches. Both sides run in turn, start-up aside (everything is
imported, processes are up), and what is written is flushed to disk within the time. The older way: patchify, two
`cv2.imwrite` a patch, then `PIL.Image.open` and albumentations for each; DVC is called within this process.
Augmentation: ours is the whole stage on all cores, samples read and variants written (processes are up, nothing waits
for the disk). Its baseline is albumentations alone, as its documentation writes it: one core, the same samples in
memory, the same number of variants drawn and thrown away, divided by the number of cores.

Run in the project's root: `python -m benchmarks.data_stages`, some four minutes on two cores. Images are drawn:
smooth colour, nuclei and sensor noise, in PNG about as large as stained tissue.
"""

import argparse
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch  # before albumentations, which then has its conversion to tensors  # noqa: F401  # isort: skip
import albumentations as A  # noqa: N812
import cv2
import numpy as np
import PIL.Image
from albumentations.pytorch import ToTensorV2
from dvc.repo import Repo
from patchify import patchify

from benchmarks.measuring import report, row, seconds
from medseg.core.parallel import MachineParams, worker_count
from medseg.core.params import read_yaml, validate
from medseg.data.augment import AugmentParams, Transforms, augment
from medseg.data.geometry import Patchify
from medseg.data.image import Image
from medseg.data.image_io import Pixels
from medseg.data.packed import create_arrays, describe_arrays, open_packed
from medseg.data.prepare import prepare
from medseg.datasets.record import Region
from medseg.training.dataloader import training_batches
from medseg.training.params import Uniform
from medseg.training.sampler import Sampling

ROOT = Path(__file__).parents[1]
SIDE, PATCH, STRIDE = 512, 128, 20
DVC = ("add", "status", "checkout")
BATCH = 16
GEOMETRY = Patchify(name="patchify", channels=3, patch=PATCH, stride=STRIDE, border="drop")
THREADS = MachineParams(workers=0, backend="threading", accelerator="cpu")
PROCESSES = MachineParams(workers=0, backend="loky", accelerator="cpu")
AUGMENTED = 1000  # patches at most
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
    parser.add_argument("--images", type=int, default=28)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        drawn = draw_images(folder / "raw", options.images)
        rounds = [one_round(drawn, folder, number) for number in range(options.rounds)]
        table = [row(what, [found[what] for found in rounds], limit) for what, limit in LIMITS.items()]
        report("data_stages", table, vars(options))


def draw_images(raw: Path, count: int) -> list[Image]:
    """Write images and masks as PNG files."""
    raw.mkdir()
    for number in range(count):
        image, mask = tissue(np.random.default_rng(number))
        PIL.Image.fromarray(image).save(raw / f"{number}.png")
        PIL.Image.fromarray(mask * np.uint8(255)).save(raw / f"{number}_mask.png")
    return [
        Image(
            root=raw,
            file=f"{number}.png",
            name=str(number),
            masks=(f"{number}_mask.png",),
            label="a",
            group="g",
            split="train",
            height=SIDE,
            width=SIDE,
            region=Region(0, 0, SIDE, SIDE),
            foreground=0.5,
            sha256="0" * 64,
            phash="0" * 16,
            patient="",
        )
        for number in range(count)
    ]


def tissue(rng: np.random.Generator) -> tuple[Pixels, Pixels]:
    """An image (H, W, 3) and the mask (H, W) of its nuclei."""
    mask = np.zeros((SIDE, SIDE), np.uint8)
    for x, y, radius in zip(*rng.integers(0, SIDE, (2, 200)), rng.integers(5, 12, 200), strict=True):
        cv2.circle(mask, (int(x), int(y)), int(radius), (1,), cv2.FILLED)
    smooth = cv2.GaussianBlur(rng.normal(0, 300, (SIDE, SIDE, 3)), (0, 0), 6)
    colour = np.where(mask[..., None] > 0, (110, 70, 150), (220, 170, 205)) + smooth + rng.normal(0, 3, smooth.shape)
    return colour.clip(0, 255).astype(np.uint8), mask


def one_round(drawn: Sequence[Image], folder: Path, number: int) -> dict[str, tuple[float, float]]:
    """Seconds of every step, ours and the baseline's; who begins changes from round to round."""
    ours, files = folder / f"ours-{number}", folder / f"files-{number}"
    repositories = [new_repository(place) for place in (ours, files)]
    steps: dict[str, tuple[Step, Step]] = {
        "prepare": (
            flushed(partial(prepare, drawn, GEOMETRY, THREADS, ours / "data"), folder),
            flushed(partial(write_files, drawn, files / "data"), folder),
        ),
        "read a shuffled epoch": (partial(read_ours, ours / "data"), partial(read_files, files / "data")),
        **{f"dvc {what}": dvc_steps(repositories, what) for what in DVC},
        "augment x7": (partial(augment_ours, ours, folder), partial(augment_alone, ours / "data")),
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


def write_files(drawn: Sequence[Image], data: Path) -> None:
    """One PNG file for each patch and each mask."""
    for name in ("images", "masks"):
        (data / name).mkdir(parents=True)
    for number, one in enumerate(drawn):
        image_patches = patchify(cv2.imread(str(one.root / one.file)), (PATCH, PATCH, 3), step=STRIDE)
        mask = cv2.imread(str(one.root / one.masks[0]), cv2.IMREAD_GRAYSCALE)
        mask_patches = patchify(mask, (PATCH, PATCH), step=STRIDE)
        for i, j in np.ndindex(mask_patches.shape[:2]):
            cv2.imwrite(str(data / "images" / f"{number}_{i}_{j}.png"), image_patches[i, j, 0])
            cv2.imwrite(str(data / "masks" / f"{number}_{i}_{j}.png"), mask_patches[i, j])


def read_ours(data: Path) -> float:
    """An epoch of the batches that training takes."""

    def read() -> None:
        store = open_packed(data)
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
            image = np.array(PIL.Image.open(data / "images" / names[number]).convert("RGB"))
            mask = np.array(PIL.Image.open(data / "masks" / names[number]).convert("L"))
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


def augment_ours(ours: Path, folder: Path) -> float:
    """The sevenfold augmentation on all cores, read and written; the processes are there already."""
    for name, count in (("few", 2 * worker_count(PROCESSES)), ("some", AUGMENTED)):
        first_samples(ours / "data", ours / name, count)
    augment(ours / "few", SEVENFOLD, PROCESSES, ours / "warm")
    flush(folder)
    return seconds(partial(augment, ours / "some", SEVENFOLD, PROCESSES, ours / "augmented"))


def augment_alone(data: Path) -> float:
    """Albumentations alone on the same samples and one core, nothing read or written, divided by cores."""
    store = open_packed(data)
    images, masks = np.array(store.images[:AUGMENTED]), np.array(store.masks[:AUGMENTED])
    transform, threads = plain_albumentations(SEVENFOLD), cv2.getNumThreads()

    def draw() -> None:
        for image, mask in zip(images, masks, strict=True):
            for _ in range(SEVENFOLD.factor - 1):  # ours keeps the sample as its first variant
                transform(image=image, mask=mask)

    cv2.setNumThreads(1)
    own = seconds(draw)
    cv2.setNumThreads(threads)
    return own / worker_count(PROCESSES)


def plain_albumentations(params: AugmentParams) -> A.Compose:
    """The steps of `conf/augment/sevenfold.yaml` that act."""
    light, mirror = params.brightness_contrast, cv2.BORDER_REFLECT_101
    zoom = (1 - params.scale.share, 1 + params.scale.share)
    return A.Compose(
        [
            A.HorizontalFlip(p=params.horizontal_flip),
            A.Rotate(limit=params.rotate.degrees, border_mode=mirror, p=params.rotate.p),
            A.Affine(scale=zoom, keep_ratio=True, border_mode=mirror, p=params.scale.p),
            A.RandomBrightnessContrast(brightness_limit=light.brightness, contrast_limit=light.contrast, p=light.p),
            A.GaussNoise(std_range=(0, params.gaussian_noise.deviation), p=params.gaussian_noise.p),
        ]
    )


def first_samples(data: Path, folder: Path, count: int) -> None:
    """Packed arrays of the first `count` samples."""
    store = open_packed(data)
    chosen = slice(0, count)
    images, masks = create_arrays(folder, len(store.images[chosen]), PATCH, PATCH, GEOMETRY.channels)
    images[:], masks[:] = store.images[chosen], store.masks[chosen]
    describe_arrays(folder, store.index.iloc[chosen], store.geometry)


def _section(path: str, kind: Any) -> Any:
    return validate(read_yaml(ROOT / "conf" / path), kind, path)


SEVENFOLD: AugmentParams = _section("augment/sevenfold.yaml", AugmentParams)
STILL: Transforms = _section("online/none.yaml", Transforms)

if __name__ == "__main__":
    main()
