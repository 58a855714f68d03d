"""How much anonymous memory prepare and augment take while they write an output of 8 GiB: the limit is 1 GiB.

Anonymous memory (RssAnon, workers included, looked at every 50 ms) is what a process holds for itself; pages of
files are the system's to drop. Images are those of `benchmarks/data_stages.py`, cut into the same patches, repeated.

Run in the project's root: `python -m benchmarks.data_memory --gib 8`, some two minutes on two cores; it needs as much
of the disk that temporary files lie on, and a seventh more.
"""

import argparse
import shutil
import tempfile
from collections.abc import Sequence
from functools import partial
from itertools import cycle, islice
from pathlib import Path

from benchmarks.data_stages import GEOMETRY, PATCH, PROCESSES, SEVENFOLD, THREADS, draw_images
from benchmarks.measuring import Row, peak_anonymous, report, row
from medseg.data.augment import augment
from medseg.data.image import Image
from medseg.data.prepare import prepare

LIMIT = 1024.0  # MiB
PATCHES = 400  # of an image
IMAGES = 28


def main() -> None:
    """Print the table and write it to benchmarks/results/data_memory.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gib", type=float, default=8.0, help="size of the output of each stage")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report("data_memory", measured(Path(folder), options.gib), vars(options))


def measured(folder: Path, gib: float) -> list[Row]:
    """The rows of both stages."""
    drawn = draw_images(folder / "raw", IMAGES)
    image = PATCHES * PATCH * PATCH * (GEOMETRY.channels + 1)  # bytes
    many = repeated(drawn, round(gib * 2**30 / image))
    found = {"prepare": peak_anonymous(partial(prepare, many, GEOMETRY, THREADS, folder / "large"))}
    shutil.rmtree(folder / "large")
    few = repeated(drawn, round(gib * 2**30 / image / SEVENFOLD.factor))
    prepare(few, GEOMETRY, THREADS, folder / "seventh")
    found["augment"] = peak_anonymous(partial(augment, folder / "seventh", SEVENFOLD, PROCESSES, folder / "large"))
    return [row(f"anonymous memory of {stage}", [(value, LIMIT)], 1.0, "MiB") for stage, value in found.items()]


def repeated(drawn: Sequence[Image], count: int) -> list[Image]:
    """`count` images, at least one, the given ones over and over."""
    return list(islice(cycle(drawn), max(1, count)))


if __name__ == "__main__":
    main()
