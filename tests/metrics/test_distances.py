"""Distances to the background."""

import cv2
import numpy as np
import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray
from scipy import ndimage

from medseg.data.image_io import Pixels
from medseg.metrics.distances import distance_to_background

DISC = tiny.circle(301, 140)
masks = arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=24), elements=st.sampled_from([0, 1, 255]))


def exact(mask: Pixels) -> NDArray[np.float32]:
    distances: NDArray[np.float32] = ndimage.distance_transform_edt(mask).astype(np.float32)
    return distances


@given(masks)
def test_distances_are_the_exact_ones_to_the_last_bit(mask: Pixels) -> None:
    if not mask.all():  # without background there is no distance to it
        np.testing.assert_array_equal(distance_to_background(mask), exact(mask))


@pytest.mark.parametrize("threads", [1, 4])
def test_they_are_on_any_number_of_threads(threads: int) -> None:
    before = cv2.getNumThreads()
    cv2.setNumThreads(threads)
    try:
        np.testing.assert_array_equal(distance_to_background(DISC), exact(DISC))
    finally:
        cv2.setNumThreads(before)


def test_the_setting_of_opencv_is_left_as_it_was() -> None:
    before = cv2.ipp.useIPP()
    try:
        for wanted in (True, False):
            cv2.ipp.setUseIPP(wanted)
            given_back = cv2.ipp.useIPP()  # without Intel's library it is never on
            distance_to_background(np.eye(3, dtype=np.uint8))
            assert cv2.ipp.useIPP() == given_back
    finally:
        cv2.ipp.setUseIPP(before)
