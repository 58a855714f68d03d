"""Which copies of an image are found as near-duplicates, and which unlike images are joined.

Copies are made of 40 images of each set, one image and one copy at a time. Beside the check stands what a perceptual
hash alone finds, 8 bits of difference being the limit, as this project once grouped. Then the images of each set are
searched for pairs among themselves, by both. `eyes` are simulated discs under one round mask, with curves of their own:
no two are the same, so every pair of them is a false one. Pairs of real images are listed, to be looked at.

Run in the project's root, some minutes on a core, with the folder that holds busi/, isic2017/, wbc/ and so on:
`python -m benchmarks.studies.duplicates /path/to/data`. The tables are printed, and all is written to
benchmarks/studies/results/duplicates.json.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.sparse.csgraph import connected_components

from benchmarks.measuring import machine
from medseg.core.markdown import table
from medseg.core.parallel import MachineParams
from medseg.data.duplicates import confirmed, find_groups, near_hashes
from medseg.data.image_io import Pixels, read_image, to_channels
from medseg.data.thumbnails import BITS, WHOLE, cosines, hashes, thumbnail

RESULTS = Path(__file__).parent / "results"
SETS = {
    "busi": "busi/**/*).png",
    "isic2017": "isic2017/**/*.jpg",
    "wbc": "wbc/**/*.bmp",
    "tissue": "[cu]*/[tI]*/*.tif",  # CryoNuSeg and UCSB
    "busi_train": "busi_train/**/*).png",
}
COPIED = ("busi", "isic2017", "wbc", "eyes")
MOST_COPIED = 40
DISTANCES = (14, 16)  # the default, and looser
ALONE = 8  # bits, for the hash alone
MACHINE = MachineParams(workers=0, backend="threading", accelerator="cpu")


def moved(image: Pixels, right: float, down: float) -> Pixels:
    """Moved by shares of width and height; what comes in is black."""
    height, width = image.shape
    return cv2.warpAffine(image, np.array([[1, 0, right * width], [0, 1, down * height]]), (width, height)).astype(
        np.uint8
    )


def turned(image: Pixels, degrees: float) -> Pixels:
    """Turned about its middle; what comes in is black."""
    height, width = image.shape
    about = cv2.getRotationMatrix2D((width / 2, height / 2), degrees, 1)
    return cv2.warpAffine(image, about, (width, height)).astype(np.uint8)


def cropped(image: Pixels, top: float, left: float, bottom: float, right: float) -> Pixels:
    """Less these shares of height and width."""
    height, width = image.shape
    return image[int(top * height) : height - int(bottom * height), int(left * width) : width - int(right * width)]


def recompressed(image: Pixels, quality: int) -> Pixels:
    """Through JPEG."""
    compressed = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return cv2.imdecode(compressed, cv2.IMREAD_GRAYSCALE).astype(np.uint8)


def written_on(image: Pixels) -> Pixels:
    """With two lines of text burnt in, as scanners do."""
    height, width = image.shape
    font, thick = cv2.FONT_HERSHEY_SIMPLEX, max(1, width // 200)
    once = cv2.putText(image.copy(), "LEFT BREAST", (width // 20, height * 9 // 10), font, width / 400, (255,), thick)
    return cv2.putText(once, "12:30", (width // 2, height // 9), font, width / 400, (255,), thick).astype(np.uint8)


def scaled_levels(image: Pixels, contrast: float, gamma: float) -> Pixels:
    """With other contrast about the middle, saturated, and another gamma."""
    levels = np.clip((image / 255.0 - 0.5) * contrast + 0.5, 0, 1) ** gamma
    return np.round(levels * 255).astype(np.uint8)


COPIES: dict[str, Callable[[Pixels], Pixels]] = {
    "mirrored": lambda image: image[:, ::-1],
    "upside down": lambda image: image[::-1],
    "quarter turn": lambda image: np.rot90(image),
    "inverted": lambda image: 255 - image,
    "mirrored, inverted": lambda image: 255 - image[:, ::-1],
    "turned by 3 degrees": lambda image: turned(image, 3),
    "cropped by 5 %": lambda image: cropped(image, 0.025, 0.025, 0.025, 0.025),
    "cropped by 10 %": lambda image: cropped(image, 0.05, 0.05, 0.05, 0.05),
    "cropped by 10 % at a corner": lambda image: cropped(image, 0.1, 0.1, 0, 0),
    "cropped by 15 % at the top": lambda image: cropped(image, 0.15, 0, 0, 0),
    "cropped by 20 %": lambda image: cropped(image, 0.1, 0.1, 0.1, 0.1),
    "cropped by 10 %, mirrored": lambda image: cropped(image, 0.08, 0.06, 0.02, 0.04)[:, ::-1],
    "moved by 3 %": lambda image: moved(image, 0.03, 0.02),
    "moved by 5 %": lambda image: moved(image, -0.05, 0.04),
    "moved by 10 %": lambda image: moved(image, 0.1, 0.06),
    "contrast x 1.5": lambda image: scaled_levels(image, 1.5, 1),
    "gamma 0.6": lambda image: scaled_levels(image, 1, 0.6),
    "JPEG, quality 10": lambda image: recompressed(image, 10),
    "text burnt in": written_on,
    "a third of the size": lambda image: cv2.resize(
        image, None, fx=1 / 3, fy=1 / 3, interpolation=cv2.INTER_AREA
    ).astype(np.uint8),
}


def main() -> None:
    """Make and search the copies, search the sets, print the tables and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    data = parser.parse_args().data
    images = {name: [grey(path) for path in sorted(data.glob(pattern))] for name, pattern in SETS.items()}
    names = {name: [path.stem for path in sorted(data.glob(pattern))] for name, pattern in SETS.items()}
    images["eyes"], names["eyes"] = [eye(seed) for seed in range(40)], [str(seed) for seed in range(40)]
    found = {name: {kind: shares(images[name], copy) for kind, copy in COPIES.items()} for name in COPIED}
    columns = ["copies found, %", *(f"{name}: hash alone / {' / '.join(map(str, DISTANCES))} bits" for name in COPIED)]
    print(table(columns, [[kind, *(" / ".join(map(str, found[name][kind])) for name in COPIED)] for kind in COPIES]))
    joined = {name: pairs(images[name], names[name]) for name in images}
    counts = ["images", "hash alone: pairs", "largest group", "compared", "confirmed", "largest group now"]
    print(table(["set", *counts], [[name, *(str(joined[name][count]) for count in counts)] for name in joined]))
    content = {"copies": found, "joined": joined, "machine": machine()}
    (RESULTS / "duplicates.json").write_text(json.dumps(content, indent=2) + "\n")


def grey(path: Path) -> Pixels:
    """An image (H, W)."""
    return to_channels(read_image(path), 1)[..., 0]


def eye(seed: int, side: int = 400) -> Pixels:
    """A disc with a bright spot to one side and dark curves from it, black around; something like a fundus."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:side, :side] / side * 2 - 1
    to_left = rng.choice([-1, 1])
    spot = 90 * np.exp(-((columns - 0.55 * to_left) ** 2 + rows**2) / 0.02)
    pixels = 120 - 45 * (rows**2 + columns**2) + spot + cv2.GaussianBlur(rng.normal(0, 20, (side, side)), (0, 0), 3)
    drawn: Pixels = np.clip(pixels, 0, 255).astype(np.uint8)
    for _ in range(9):
        directions = rng.uniform(0, 2 * np.pi) + np.cumsum(rng.normal(0, 0.12, 60))
        steps = np.cumsum(np.stack([np.cos(directions), np.sin(directions)], 1) * side / 60, axis=0)
        path = np.array([side / 2 * (1 + 0.55 * to_left), side / 2]) + steps
        cv2.polylines(drawn, [np.round(path).astype(np.int32)], False, (70,), int(rng.integers(2, 6)))
    drawn[rows**2 + columns**2 > 0.92] = 0
    return drawn


def small(images: list[Pixels]) -> Pixels:
    """Their thumbnails."""
    return np.stack([thumbnail(np.ascontiguousarray(image)[..., None]) for image in images])


def shares(images: list[Pixels], copy: Callable[[Pixels], Pixels]) -> list[int]:
    """Per cent of copies that are found: by the hash alone, and by the check at each of `DISTANCES`."""
    chosen = images[:: max(1, len(images) // MOST_COPIED)][:MOST_COPIED]
    found = []
    for image in chosen:
        both = small([image, copy(image)])
        near = near_hashes(both, max(DISTANCES), MACHINE)
        same = len(near) > 0 and bool(confirmed(both, near, MACHINE)[0])
        distance = int(near.distance[0]) if len(near) else BITS
        found.append([alone(both)[0, 1] <= ALONE, *(same and distance <= limit for limit in DISTANCES)])
    return [round(100 * share) for share in np.mean(found, axis=0)]


def alone(thumbnails: Pixels) -> NDArray[np.uint8]:
    """Bits (N, N) in which the hashes of whole, unturned images differ."""
    found = hashes(cosines(thumbnails, WHOLE), 0)
    bits: NDArray[np.uint8] = np.bitwise_count(found[:, None] ^ found[None, :])
    return bits


def pairs(images: list[Pixels], names: list[str]) -> dict[str, Any]:
    """What a search of a set among itself finds, by the hash alone and by the check."""
    thumbnails = small(images)
    by_hash = np.triu(alone(thumbnails) <= ALONE, 1)
    near = near_hashes(thumbnails, DISTANCES[0], MACHINE)
    same = near.only(confirmed(thumbnails, near, MACHINE))
    groups = find_groups(thumbnails, [""] * len(images), DISTANCES[0], MACHINE)
    listed = [[names[first], names[second]] for first, second in zip(same.first, same.second, strict=True)]
    return {
        "images": len(images),
        "hash alone: pairs": int(by_hash.sum()),
        "largest group": largest_component(by_hash),
        "compared": len(near),
        "confirmed": len(same),
        "largest group now": max(groups.names.count(name) for name in set(groups.names)),
        "pairs": listed,
    }


def largest_component(joined: NDArray[np.bool_]) -> int:
    """Images in the largest group that pairs (N, N) chain together."""
    return int(np.bincount(connected_components(joined, directed=False)[1]).max())


if __name__ == "__main__":
    main()
