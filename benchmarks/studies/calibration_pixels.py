"""What the expected calibration error says, by which pixels count: of networks whose calibration is known.

Labels are drawn from simulated probabilities: whoever says these probabilities is right. They are drawn object by
object, as annotations are: at one level for all of an image, so that an object is there as a whole or not at all. The
same labels are then set against logits three times as large (overconfident) and a third as large (timid). A measure
should give the first about 0 and the others clearly more. A minute on one core:

    python -m benchmarks.studies.calibration_pixels
"""

from collections.abc import Callable
from itertools import product

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medseg.core.markdown import table
from medseg.metrics.calibration import Calibration, not_ruled_out

SCENES, DRAWS, SIDE, BINS, BAND = 8, 20, 256, 15, 0.02
Map = NDArray[np.float32]
Mask = NDArray[np.uint8]

COLUMNS = {  # strength of the objects, factor of the logits, pixels of plain background around each image
    "as it is": (5.0, 1.0, 0),
    "as it is, faint objects": (1.5, 1.0, 0),
    "logits times 3": (5.0, 3.0, 0),
    "logits times 1/3": (5.0, 1 / 3, 0),
    "times 3, wider images": (5.0, 3.0, 128),
}


def around_objects(probabilities: Map, truth: Mask) -> NDArray[np.bool_]:
    """Pixels of the truth or the prediction, and those within 2 % of the diagonal around them: the truth chooses."""
    objects = truth.astype(bool) | (probabilities >= 0.5)
    far = cv2.distanceTransform((~objects).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.asarray(far <= BAND * np.hypot(*truth.shape))


PIXELS: dict[str, Callable[[Map, Mask], NDArray[np.bool_]]] = {
    "annotated or found, and around (until now)": around_objects,
    "all": lambda probabilities, _: np.ones(probabilities.shape, bool),
    "undecided: 0.01 to 0.99": lambda probabilities, _: not_ruled_out(probabilities) & not_ruled_out(1 - probabilities),
    "foreground not ruled out: above 0.01": lambda probabilities, _: not_ruled_out(probabilities),
}


def logits(seed: int, strength: float) -> NDArray[np.float64]:
    """Blobs of foreground in much background."""
    field = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(SIDE, SIDE)), SIDE / 24)
    return np.asarray(strength * field / field.std() - 6)


def probability(values: NDArray[np.float64]) -> Map:
    """Of logits."""
    return (1 / (1 + np.exp(-values))).astype(np.float32)


def error(choose: Callable[[Map, Mask], NDArray[np.bool_]], strength: float, factor: float, background: int) -> float:
    """The ECE over all images."""
    pool = Calibration(BINS)
    for seed, draw in product(range(SCENES), range(DRAWS)):
        said = logits(seed, strength)
        truth = (probability(said) > (draw + 0.5) / DRAWS).astype(np.uint8)
        given, truth = np.pad(probability(factor * said), background), np.pad(truth, background)
        chosen = choose(given, truth)
        pool.add(given[chosen], truth[chosen])
    # Not `errors().ece`, which leaves out what is ruled out: the pixels were chosen here.
    return float(np.abs(pool.probability - pool.foreground).sum() / pool.pixels.sum())


def main() -> None:
    """Print the table."""
    rows = [[name, *(f"{error(choose, *way):.3f}" for way in COLUMNS.values())] for name, choose in PIXELS.items()]
    print(table(["pixels that count", *COLUMNS], rows))


if __name__ == "__main__":
    main()
