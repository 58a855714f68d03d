"""Distance transform with reproducible bits."""

import cv2
import numpy as np
from numpy.typing import NDArray

from medseg.metrics.overlap import Mask


def distance_to_background(mask: Mask) -> NDArray[np.float32]:
    """The distance of every pixel of a mask (H, W) to the nearest one that is 0, in pixels, rounded to float32.

    The exact Euclidean distance (Felzenszwalb & Huttenlocher, "Distance Transforms of Sampled Functions", Theory of
    Computing 8, 2012), in OpenCV's own implementation. That of Intel's library, which OpenCV uses on one thread or for
    small images, depends in its last bits on the mask's memory alignment, which would break ties differently.
    """
    intel = cv2.ipp.useIPP()  # a setting of this thread alone
    cv2.ipp.setUseIPP(False)
    try:
        distance = cv2.distanceTransform((mask != 0).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    finally:
        cv2.ipp.setUseIPP(intel)
    return np.asarray(distance, np.float32)
