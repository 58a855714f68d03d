"""Training all in against pure compute, and against the loops of others, on the same images, network and batch.

Simulated ultrasound, cut to 128x128 patches as `prepare` writes them; the network, loss, optimiser, precision and batch
size of params.yaml. Each side is a process of its own (benchmarks/peers), all with as many threads; they train an epoch
in turn, the others stopped meanwhile, who begins changes from round to round, and the first epoch of each does not
count. The sides: the pipeline (`trainer.fit` with loading and logging, validation aside), the same with online
augmentation (conf/online/strong.yaml), pure compute (the same steps on one resident batch), the older project's loop (a
PNG file per patch, one process, float32), segmentation-models-pytorch with Lightning as its example shows, and with
`--nnunet` nnU-Net v2's trainer, which benchmarks/peers/nnunet_setup.sh installs; it is held against the pipeline with
online augmentation, since it varies its images, too.

What comes after an epoch's steps (metrics written, the best weights kept) takes its seconds however long the epoch is.
Epochs are short here, so it does not count on any side; its seconds stand below the table.

Run in the project's root: `python -m benchmarks.training`. A GPU is taken where one is.
"""

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.measuring import Row, report, row
from medseg.core.parallel import MachineParams
from medseg.core.params import read_section, read_yaml
from medseg.data.geometry import Patchify
from medseg.data.image import images_of
from medseg.data.manifest import ManifestParams, measure
from medseg.data.packed import Packed, create_arrays, describe_arrays, open_packed
from medseg.data.prepare import prepare
from medseg.datasets.phantom import PhantomParams

ROOT = Path(__file__).parents[1]
PEERS = Path(__file__).parent / "peers"
PATCH = 128
GEOMETRY = Patchify(name="patchify", channels=1, patch=PATCH, stride=64, border="pad")
FEWEST = 6  # patches of an image
VALIDATED = 16  # samples
MACHINE = MachineParams(workers=0, backend="auto", accelerator="auto")
HAS_GPU = torch.cuda.is_available()
SIDES = {
    "pipeline, online augmentation": ["pipeline.py", "strong"],
    "pure compute": ["pure.py"],  # runs right beside both that it is held against
    "pipeline": ["pipeline.py", "none"],
    "older loop": ["older.py"],
    "smp script": ["smp_script.py"],
}
NNUNET = {"nnU-Net v2": ["nnunet.py"]}
COMPARED = [  # ours, baseline, least ratio
    ("pipeline", "pure compute", 0.95),
    ("pipeline, online augmentation", "pure compute", 0.90),
    ("pipeline", "older loop", 5.0 if HAS_GPU else 1.0),
    ("pipeline", "smp script", 1.0),
    ("pipeline, online augmentation", "nnU-Net v2", 1.0),
]
Round = dict[str, tuple[float, float]]  # seconds of each side: of the steps, of what came after them


def main() -> None:
    """Run all rounds, print the table and write it to benchmarks/results/training.json."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the sides are ended, too
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=200 if HAS_GPU else 5, help="of an epoch")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="that compute, of each side")
    parser.add_argument("--nnunet", action="store_true", help="measure nnU-Net, too")
    options = parser.parse_args()
    batch = int(read_yaml(ROOT / "params.yaml")["train"]["batch_size"])
    with tempfile.TemporaryDirectory() as name:
        write_samples(Path(name), options.steps * batch)
        rounds = measured(Path(name), options)
    report("training", rows(rounds), facts(rounds, options, batch))


def write_samples(folder: Path, count: int) -> None:
    """`count` patches in all forms that the sides read."""
    kinds = dict.fromkeys(("benign", "malignant", "normal"), -(-count // (3 * FEWEST)) + 1)
    raw = folder / "raw"
    params = read_section(ROOT / "params.yaml", "manifest", ManifestParams)
    scans = PhantomParams(name="phantom", seed=0, width=(250, 400), contrast=(8.0, 20.0), looks=1, **kinds)
    scans.fetch(raw, MACHINE)
    table, _ = measure(scans.scan(raw), raw, params, MACHINE)
    prepare(images_of(table.assign(split="train"), raw), GEOMETRY, MACHINE, folder / "all")
    everything = open_packed(folder / "all")
    order = np.random.default_rng(0).permutation(len(everything.images))
    write_part(everything, order[:count], folder / "train")
    write_part(everything, order[-VALIDATED:], folder / "val")
    write_files(open_packed(folder / "train"), folder)


def write_part(store: Packed, chosen: NDArray[np.int64], folder: Path) -> None:
    """Packed arrays of some samples."""
    images, masks = create_arrays(folder, len(chosen), PATCH, PATCH, GEOMETRY.channels)
    images[:], masks[:] = store.images[chosen], store.masks[chosen]
    describe_arrays(folder, store.index.iloc[chosen], store.geometry)


def write_files(store: Packed, folder: Path) -> None:
    """A PNG file of each sample and each mask (0 and 255)."""
    for name in ("images", "masks"):
        (folder / name).mkdir()
    for number, (image, mask) in enumerate(zip(store.images, store.masks, strict=True)):
        cv2.imwrite(str(folder / "images" / f"{number:05d}.png"), image[..., ::-1])
        cv2.imwrite(str(folder / "masks" / f"{number:05d}.png"), mask * np.uint8(255))


class Side:
    """A process that trains an epoch when told to, and stands still else."""

    def __init__(self, script: list[str], folder: Path, steps: int, threads: int) -> None:
        """Start it."""
        name, *rest = script
        self.log = folder / f"{'-'.join(script)}.log"
        paths = os.pathsep.join([str(ROOT), str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
        self.process = subprocess.Popen(
            [str(Path(sys.executable).absolute()), str(PEERS / name), str(folder), str(steps), *rest],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log.open("w"),
            text=True,
            cwd=folder,
            env=os.environ | {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": paths},
            start_new_session=True,
        )

    def wait(self) -> None:
        """Wait until it is ready, and stop it."""
        self.read()
        self.signal(signal.SIGSTOP)

    def epoch(self) -> tuple[float, float]:
        """The seconds of the next epoch's steps, and of what comes after them."""
        self.signal(signal.SIGCONT)
        print(file=self.process.stdin, flush=True)
        steps, after = (float(part) for part in self.read().split())
        self.wait()
        return steps, after

    def read(self) -> str:
        """The next answer. Raises `RuntimeError` with what the process said where it died."""
        assert self.process.stdout
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError(f"{self.log.name}: {self.log.read_text()[-3000:]}")
        return answer

    def signal(self, number: signal.Signals) -> None:
        """Send it to the process and its workers."""
        os.killpg(self.process.pid, number)

    def end(self) -> None:
        """Kill it and its workers."""
        self.signal(signal.SIGKILL)
        self.process.wait()


def measured(folder: Path, options: argparse.Namespace) -> list[Round]:
    """All rounds but the first."""
    sides: dict[str, Side] = {}
    try:
        for name, script in (SIDES | (NNUNET if options.nnunet else {})).items():
            sides[name] = Side(script, folder, options.steps, options.threads)
            sides[name].wait()
        found = [one_round(sides, number) for number in range(options.rounds + 1)]
    finally:
        for side in sides.values():
            side.end()
    return found[1:]


def one_round(sides: dict[str, Side], number: int) -> Round:
    """An epoch of each side."""
    order = list(sides) if number % 2 else list(reversed(sides))
    found = {}
    for name in order:
        found[name] = sides[name].epoch()
        print(f"round {number}: {name}: {found[name][0]:.2f} s", flush=True)
    return found


def rows(rounds: list[Round]) -> list[Row]:
    """What is compared, of the sides that ran."""
    return [
        row(f"{ours} / {baseline}", [(found[ours][0], found[baseline][0]) for found in rounds], limit)
        for ours, baseline, limit in COMPARED
        if baseline in rounds[0]
    ]


def facts(rounds: list[Round], options: argparse.Namespace, batch: int) -> dict[str, object]:
    """Images per second of each side, and what they were measured with."""
    speeds = {name: round(options.steps * batch / middle(rounds, name, 0), 1) for name in rounds[0]}
    return {
        "device": torch.cuda.get_device_name() if HAS_GPU else "CPU (no GPU at hand: the limits are those of a CPU)",
        **{f"images per second, {name}": speed for name, speed in speeds.items()},
        "seconds after the steps of an epoch, pipeline": round(middle(rounds, "pipeline", 1), 2),
        "images": f"{PATCH}x{PATCH}, {GEOMETRY.channels} channel",
        "batch": batch,
        **{key: value for key, value in vars(options).items() if key != "nnunet"},
        "torch": version("torch"),
    }


def middle(rounds: list[Round], side: str, part: int) -> float:
    """The median over the rounds."""
    return statistics.median(found[side][part] for found in rounds)


if __name__ == "__main__":
    main()
