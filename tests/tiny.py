"""The smallest things that training and evaluation take: samples of bright squares, pictures with a manifest."""

from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import pandas as pd

from medseg.classes import Binary, TaskParams
from medseg.description import Description, Training
from medseg.geometry import Geometry, Resize
from medseg.imaging import Pixels, write_png
from medseg.machine import MachineParams
from medseg.models.params import Unet
from medseg.store import Store, create_arrays, describe_arrays, open_store

BINARY = Binary(name="binary")
SMALL_ENCODER = "timm-mobilenetv3_small_minimal_100"
CPU = MachineParams(workers=1, backend="threading", accelerator="cpu")


def unet(**changes: Any) -> Unet:
    """The section `model` of a small network."""
    values: dict[str, Any] = {
        "name": "unet",
        "encoder": SMALL_ENCODER,
        "encoder_weights": "none",
        "decoder_channels": [16, 16, 8, 8, 8],
        "input_mean": [0.5],
        "input_std": [0.5],
    }
    return Unet(**(values | changes))


def resize(channels: Literal[1, 3] = 1, side: int = 32) -> Resize:
    """Square samples."""
    return Resize(name="resize", channels=channels, height=side, width=side, aspect="squash")


def square(seed: int, height: int, width: int, channels: int = 1) -> tuple[Pixels, Pixels]:
    """A noisy picture (H, W, C) with a bright rectangle, and its mask (H, W)."""
    chance = np.random.default_rng(seed)
    mask = np.zeros((height, width), np.uint8)
    top, left = int(chance.integers(2, height // 2)), int(chance.integers(2, width // 2))
    mask[top : top + height // 3, left : left + width // 3] = 1
    noise = chance.integers(0, 60, (height, width, channels), np.uint8)
    return noise + mask[..., None] * np.uint8(150), mask


def write_store(folder: Path, count: int, channels: Literal[1, 3] = 1, seed: int = 0) -> Store:
    """`count` samples of 32 x 32 pixels."""
    images, masks = create_arrays(folder, count, 32, 32, channels)
    for number in range(count):
        images[number], masks[number] = square(1000 * seed + number, 32, 32, channels)
    lines = [
        {"file": f"{number}.png", "label": "a", "group": f"g{number}", "top": 0, "left": 0, "variant": 0}
        for number in range(count)
    ]
    describe_arrays(folder, pd.DataFrame(lines), resize(channels))
    return open_store(folder)


def description(
    geometry: Geometry | None = None, model: Unet | None = None, threshold: float = 0.5, task: TaskParams = BINARY
) -> Description:
    """`model.yaml` of a small network for grey pictures."""
    training = Training(
        first_weights="random",
        former=None,
        warnings=[],
        best_epoch=1,
        epochs=1,
        val_dice=0.5,
        samples=4,
        packages={"torch": "1"},
    )
    geometry = geometry or resize()
    return Description(
        model=model or unet(),
        channels=geometry.channels,
        task=task,
        geometry=geometry,
        threshold=threshold,
        training=training,
    )


def row(raw: Path, file: str, image: Pixels, mask: Pixels, **changes: str) -> dict[str, Any]:
    """Write a picture and its mask under `raw` and give their manifest row."""
    write_png(raw / file, image)
    name = f"{Path(file).with_suffix('')}_mask.png"
    write_png(raw / name, mask * np.uint8(255))
    height, width = mask.shape
    return {
        "file": file,
        "mask": name,
        "label": "a",
        "group": file,
        "split": "test",
        "height": height,
        "width": width,
        "channels": image.shape[2],
        "foreground": float(mask.mean()),
        "sha256": "0" * 64,
        "mask_sha256": "0" * 64,
        "phash": "0" * 16,
        "region": f"0:0:{height}:{width}",
        "patient": "",
        "official": "",
    } | changes


def circle(side: int, radius: int) -> Pixels:
    """A mask with a disc in its middle."""
    mask = np.zeros((side, side), np.uint8)
    cv2.circle(mask, (side // 2, side // 2), radius, (1,), cv2.FILLED)
    return mask
