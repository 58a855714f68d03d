"""Distances to the background, the same for the same mask wherever and however often they are computed."""

import cv2
import numpy as np
from numpy.typing import NDArray

from medseg.metrics.overlap import Mask


def distance_to_background(mask: Mask) -> NDArray[np.float32]:
    """The distance of every pixel of a mask (H, W) to the nearest one that is 0, in pixels, rounded to float32.

    The exact Euclidean distance (Felzenszwalb & Huttenlocher, "Distance Transforms of Sampled Functions", Theory of
    Computing 8, 2012) as OpenCV computes it itself. The form of Intel's library, which OpenCV takes on one thread or
    for small images, differs in the last bits with where the mask lies in memory, and with them equal distances.
    """
    intel = cv2.ipp.useIPP()  # a setting of this thread alone
    cv2.ipp.setUseIPP(False)
    try:
        distance = cv2.distanceTransform((mask != 0).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    finally:
        cv2.ipp.setUseIPP(intel)
    return np.asarray(distance, np.float32)
