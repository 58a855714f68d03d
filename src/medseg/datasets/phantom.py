"""Simulated breast ultrasound in BUSI's layout, which needs no download.

It serves to try the pipeline: a score on it says nothing about a score on patients' images.
"""

from functools import partial
from pathlib import Path
from typing import Annotated, Literal, Self

import numpy as np
from PIL import Image
from pydantic import Field, model_validator

from medseg.core.parallel import MachineParams, run_parallel
from medseg.core.params import Seed
from medseg.datasets.busi import LABELS, scan_busi_layout
from medseg.datasets.record import Record
from medseg.datasets.source import SourceParams
from medseg.datasets.ultrasound import Kind, simulate

TOP_FOLDER = "Dataset_BUSI_with_GT"  # the name that BUSI ships with

Count = Annotated[int, Field(ge=1, le=100_000)]  # a label without an image would not be BUSI's layout
Width = Annotated[int, Field(ge=64, le=1024)]
Decibels = Annotated[float, Field(ge=0, le=40)]


class PhantomParams(SourceParams):
    """The number of images per label, and how hard they are."""

    name: Literal["phantom"]
    title = "simulated breast ultrasound"
    simulated = True
    seed: Seed
    benign: Count
    malignant: Count
    normal: Count
    width: tuple[Width, Width]  # lowest and highest, pixels
    contrast: tuple[Decibels, Decibels]  # lowest and highest, dB below the surroundings
    looks: Annotated[int, Field(ge=1, le=16)]

    @model_validator(mode="after")
    def _ranges_ascend(self) -> Self:
        for name, (low, high) in {"width": self.width, "contrast": self.contrast}.items():
            if low > high:
                raise ValueError(f"{name} = [{low}, {high}] must be [lowest, highest]")
        return self

    def fetch(self, destination: Path, machine: MachineParams) -> list[Path]:
        """Write the images and masks below `destination`, which is made where it is missing.

        Every image has a random stream of its own, so its bytes depend on `seed`, label and number alone, and neither
        on the other images nor on `machine`.
        """
        todo = [(label, number) for label in LABELS for number in range(1, getattr(self, label) + 1)]
        for label in LABELS:
            (destination / TOP_FOLDER / label).mkdir(parents=True, exist_ok=True)
        run_parallel(machine, partial(_write, params=self, top=destination.absolute() / TOP_FOLDER), todo, "phantom")
        return []

    def scan(self, root: Path) -> list[Record]:
        """As `scan_busi_layout`, with all labels."""
        return scan_busi_layout(root)


def _write(place: tuple[Kind, int], params: PhantomParams, top: Path) -> None:
    label, number = place
    folder = top / label
    rng = np.random.default_rng(np.random.SeedSequence((params.seed, LABELS.index(label), number)))
    width = int(rng.integers(*params.width, endpoint=True))
    scan = simulate(label, width, params.contrast, params.looks, rng)
    Image.fromarray(scan.image).save(folder / f"{label} ({number}).png")
    empty = np.zeros(scan.image.shape, bool)
    for position, mask in enumerate(scan.masks or (empty,)):
        suffix = f"_{position}" if position else ""
        Image.fromarray(mask.astype(np.uint8) * 255).save(folder / f"{label} ({number})_mask{suffix}.png")
