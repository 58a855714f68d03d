"""The smallest things that training and evaluation take: samples of bright squares, images with a manifest."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import pandas as pd

from medseg.core.parallel import MachineParams
from medseg.core.params import validate
from medseg.data.augment import Transforms
from medseg.data.geometry import Geometry, Patchify, Resize
from medseg.data.image import Image
from medseg.data.image_io import Pixels, write_png
from medseg.data.intensity import FULL
from medseg.data.packed import Packed, create_arrays, describe_arrays, open_packed
from medseg.data.task import Binary, Multiclass, TaskParams
from medseg.data.training_images import no_images, write_training_images
from medseg.datasets.record import Region
from medseg.inference.postprocess import Postprocess
from medseg.inference.settings import Augmentation, Choices, Chosen, Counting, Scoring, SegmenterDescription
from medseg.metrics.counting import CountingParams
from medseg.metrics.surface import Tolerance
from medseg.models.checkpoint import save_bundle
from medseg.models.model_yaml import Description, Training
from medseg.models.network import Network
from medseg.models.params import ModelParams, Unet

BINARY = Binary(name="binary")
LESIONS = Multiclass(name="multiclass", background="normal", labels=["benign", "malignant"])
SMALL_ENCODER = "timm-mobilenetv3_small_minimal_100"
CPU = MachineParams(workers=1, backend="threading", accelerator="cpu")
UNKNOWN = {"sha256": "0" * 64, "phash": "0" * 16, "patient": ""}  # of an image whose file plays no part
STILL: dict[str, Any] = {
    "horizontal_flip": 0.0,
    "vertical_flip": 0.0,
    "quarter_turns": 0.0,
    "rotate": {"p": 0.0, "degrees": 30},
    "scale": {"p": 0.0, "share": 0.3},
    "elastic": {"p": 0.0, "alpha": 300, "sigma": 6},
    "brightness_contrast": {"p": 0.0, "brightness": 0.2, "contrast": 0.2},
    "gamma": {"p": 0.0, "percent": 20},
    "gaussian_noise": {"p": 0.0, "deviation": 0.1},
    "blur": {"p": 0.0, "sigma": 2.0},
}


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
    return Resize(name="resize", channels=channels, height=side, width=side, aspect="squash", small_objects="drop")


def frame(height: int, width: int, aspect: str, channels: int = 1) -> Resize:
    """Samples of any shape: the aspect of images is squashed or kept."""
    return Resize.model_validate(
        {
            "name": "resize",
            "channels": channels,
            "height": height,
            "width": width,
            "aspect": aspect,
            "small_objects": "drop",
        }
    )


def patches(patch: int = 16, channels: int = 1) -> Patchify:
    """Square samples cut from images."""
    return Patchify.model_validate(
        {"name": "patchify", "channels": channels, "patch": patch, "stride": 5, "border": "drop"}
    )


def noise(height: int, width: int, channels: int = 1) -> Pixels:
    """An image (H, W, C) of random pixels, the same for the same size."""
    return np.random.default_rng(height * 1000 + width).integers(0, 256, (height, width, channels), np.uint8)


def square(seed: int, height: int, width: int, channels: int = 1) -> tuple[Pixels, Pixels]:
    """A noisy image (H, W, C) with a bright rectangle, and its mask (H, W)."""
    rng = np.random.default_rng(seed)
    mask = np.zeros((height, width), np.uint8)
    top, left = int(rng.integers(2, height // 2)), int(rng.integers(2, width // 2))
    mask[top : top + height // 3, left : left + width // 3] = 1
    noise = rng.integers(0, 60, (height, width, channels), np.uint8)
    return noise + mask[..., None] * np.uint8(150), mask


def online(*steps: str, p: float = 1.0) -> Transforms:
    """The section `online`: `steps` happen with probability `p`, nothing else does."""
    changed = {step: {**STILL[step], "p": p} if isinstance(STILL[step], dict) else p for step in steps}
    checked: Transforms = validate({**STILL, **changed}, Transforms, "online")
    return checked


def write_packed(
    folder: Path,
    count: int,
    channels: Literal[1, 3] = 1,
    seed: int = 0,
    labels: Sequence[str] = ("a",),
    side: int = 32,
) -> Packed:
    """`count` samples of `side` x `side` pixels, their labels in turn; nothing is annotated where it is `normal`."""
    images, masks = create_arrays(folder, count, side, side, channels)
    lines = []
    for number in range(count):
        label = labels[number % len(labels)]
        images[number], masks[number] = square(1000 * seed + number, side, side, channels)
        if label == LESIONS.background:
            masks[number] = 0
        place = {"top": 0, "left": 0, "variant": 0}
        lines.append({"file": f"{number}.png", "label": label, "group": f"g{number}"} | UNKNOWN | place)
    describe_arrays(folder, pd.DataFrame(lines), resize(channels, side))
    return open_packed(folder)


def description(
    geometry: Geometry | None = None,
    model: ModelParams | None = None,
    task: TaskParams = BINARY,
) -> Description:
    """`model.yaml` of a small network for grey images."""
    training = Training(
        initial_weights="random",
        initial_network=None,
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
        intensity=FULL,
        training=training,
    )


def segmenter(
    geometry: Geometry | None = None,
    model: ModelParams | None = None,
    task: TaskParams = BINARY,
    uncertainty: Augmentation = "none",
    **choices: Any,
) -> SegmenterDescription:
    """`model.yaml` of a segmenter with that network: threshold 0.5 and nothing else, but for `choices`."""
    plain = {"threshold": 0.5, "fill_holes": False, "smallest_object": 0, "largest_component": False}
    last = Postprocess.model_validate(plain | {key: choices.pop(key) for key in list(choices) if key in plain})
    chosen = {"test_time_augmentation": "none", "crf": None} | choices
    rule = CountingParams(smallest=0, split=False, depth=1.0)
    return SegmenterDescription(
        **dict(description(geometry, model, task)),
        overlap=0.5,
        chosen=Chosen(choices=Choices(postprocess=last, **chosen), options=[], images=0, groups=0, warnings=[]),
        scoring=Scoring(
            tolerance=Tolerance(pixels=1.0, diagonal=0.01),
            counting=Counting(truth=rule, prediction=rule),
            uncertainty=uncertainty,
        ),
    )


def save_model(folder: Path, network: Network, description: Description, images: pd.DataFrame | None = None) -> None:
    """A whole model folder: weights, description and the images that trained it, by default none."""
    save_bundle(folder, network, description)
    write_training_images(no_images() if images is None else images, folder)


def image(raw: Path, file: str, pixels: Pixels, mask: Pixels, **changes: Any) -> Image:
    """Write an image and its mask under `raw`: an image of the test set, but for `changes` of its fields."""
    write_png(raw / file, pixels)
    name = f"{Path(file).with_suffix('')}_mask.png"
    write_png(raw / name, mask * np.uint8(255))
    height, width = mask.shape
    region = changes.get("region", Region(0, 0, height, width))
    fields: dict[str, Any] = {
        "root": raw,
        "file": file,
        "name": Path(file).with_suffix("").as_posix(),
        "masks": (name,),
        "label": "a",
        "group": file,
        "split": "test",
        "height": height,
        "width": width,
        "region": region,
        "foreground": float(region.crop(mask).mean()),
    } | UNKNOWN
    return Image(**(fields | changes))


def row(raw: Path, file: str, pixels: Pixels, mask: Pixels, **changes: str) -> dict[str, Any]:
    """As `image`, but the row of the manifest."""
    height, width = mask.shape
    name = image(raw, file, pixels, mask).masks[0]
    return {
        "file": file,
        "mask": name,
        "label": "a",
        "group": file,
        "split": "test",
        "height": height,
        "width": width,
        "channels": pixels.shape[2],
        "foreground": float(mask.mean()),
        "sha256": "0" * 64,
        "mask_sha256": "0" * 64,
        "phash": "0" * 16,
        "chained": False,
        "region": f"0:0:{height}:{width}",
        "patient": "",
        "official": "",
    } | changes


def circle(side: int, radius: int) -> Pixels:
    """A mask with a disc in its middle."""
    mask = np.zeros((side, side), np.uint8)
    cv2.circle(mask, (side // 2, side // 2), radius, (1,), cv2.FILLED)
    return mask
