"""Near-duplicates: which copies are found, what is none, and that groups keep every pair together."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg.data.duplicates import PLACINGS, find_groups, near_hashes
from medseg.data.image_io import Pixels, read_image
from medseg.data.thumbnails import BITS, WHOLE, Placing, cosines, hashes, oriented, same_picture, thumbnail

DISTANCE = 14
SIZE = 200


def landscape(seed: int) -> Pixels:
    """An image (200, 200, 1) of soft blobs of many sizes, with a frequency spectrum as photographs have it."""
    rng = np.random.default_rng(seed)
    layers = [
        cv2.GaussianBlur(rng.normal(0, 1, (SIZE, SIZE)), (0, 0), deviation) * deviation for deviation in (2, 5, 12, 30)
    ]
    heights = np.sum(layers, axis=0)
    pixels: Pixels = np.round(np.interp(heights, (heights.min(), heights.max()), (0, 255))).astype(np.uint8)
    return pixels[..., None]


def eye(seed: int) -> Pixels:
    """A bright disc (200, 200, 1) on black with dark curves of its own: what all share is most of what there is."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:SIZE, :SIZE] / SIZE * 2 - 1
    nerve = 80 * np.exp(-((columns - 0.5) ** 2 + rows**2) / 0.05)
    pixels: Pixels = np.round(170 - 60 * (rows**2 + columns**2) + nerve).clip(0, 255).astype(np.uint8)
    for _ in range(8):
        steps = np.cumsum(rng.normal(0, 0.15, 60)) + rng.uniform(0, 7)
        path = rng.uniform(20, 180, 2) + np.cumsum(np.stack([np.cos(steps), np.sin(steps)], 1) * 4, axis=0)
        cv2.polylines(pixels, [np.round(path).astype(np.int32)], False, (100,), 2)
    pixels[rows**2 + columns**2 > 0.95] = 0
    return pixels[..., None]


def shifted(image: Pixels) -> Pixels:
    by = np.array([[1, 0, 6], [0, 1, -4]], float)
    return cv2.warpAffine(image, by, (SIZE, SIZE), borderMode=cv2.BORDER_REPLICATE)[..., None].astype(np.uint8)


def recompressed(image: Pixels) -> Pixels:
    compressed = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 20])[1]
    return cv2.imdecode(compressed, cv2.IMREAD_GRAYSCALE)[..., None].astype(np.uint8)


def written_on(image: Pixels) -> Pixels:
    place, font = (20, 190), cv2.FONT_HERSHEY_SIMPLEX
    return cv2.putText(image.copy(), "LEFT BREAST", place, font, 0.5, (255,), 1).astype(np.uint8)


COPIES: dict[str, Callable[[Pixels], Pixels]] = {
    "mirrored": lambda image: image[:, ::-1],
    "a quarter turn": lambda image: np.rot90(image),
    "upside down": lambda image: image[::-1, ::-1],
    "transposed": lambda image: image.swapaxes(0, 1),
    "inverted": lambda image: 255 - image,
    "mirrored and inverted": lambda image: 255 - image[:, ::-1],
    "cropped by 5 %": lambda image: image[5:-5, 5:-5],
    "cropped by 10 %": lambda image: image[10:-10, 10:-10],
    "cropped by 10 % at a corner": lambda image: image[20:, :-20],
    "cropped and mirrored": lambda image: image[8:-12, 10:-10][:, ::-1],
    "moved by 3 %": shifted,
    "squashed": lambda image: cv2.resize(image, (150, 90), interpolation=cv2.INTER_AREA)[..., None].astype(np.uint8),
    "of less contrast": lambda image: (image // 2 + 40).astype(np.uint8),
    "recompressed": recompressed,
    "written on": written_on,
}


def are_grouped(*images: Pixels) -> bool:
    pixels = np.stack([thumbnail(image) for image in images])
    return len(set(find_groups(pixels, [""] * len(images), DISTANCE, tiny.CPU).names)) == 1


@pytest.mark.parametrize("kind", COPIES)
def test_copies_are_near_duplicates(kind: str) -> None:
    for seed in range(8):
        image = landscape(seed)
        assert are_grouped(image, COPIES[kind](image)), seed


@pytest.mark.parametrize("kind", ["mirrored", "a quarter turn", "inverted", "cropped by 10 %", "moved by 3 %"])
def test_copies_of_real_images_are_near_duplicates(samples: Path, kind: str) -> None:
    files = sorted((samples / "busi").rglob("benign (?).png"))
    assert len(files) == 9
    for file in files:
        image = read_image(file)[..., :1]
        image = cv2.resize(image, (SIZE, SIZE), interpolation=cv2.INTER_AREA)[..., None].astype(np.uint8)
        assert are_grouped(image, COPIES[kind](image)), file


def test_unlike_images_of_one_template_are_none_though_their_hashes_are_near() -> None:
    pixels = np.stack([thumbnail(eye(seed)) for seed in range(24)])
    assert len(near_hashes(pixels, DISTANCE, tiny.CPU)) > 50
    groups = find_groups(pixels, [""] * 24, DISTANCE, tiny.CPU)
    assert len(set(groups.names)) == 24
    assert are_grouped(eye(0), eye(0)[:, ::-1])


def test_images_without_detail_are_one_where_they_are_equal() -> None:
    flat, brighter = (np.full((30, 40, 1), value, np.uint8) for value in (7, 200))
    assert are_grouped(flat, brighter)  # a thumbnail has no brightness
    slope = np.repeat(np.arange(200, dtype=np.uint8)[None, :, None], 200, axis=0)
    assert are_grouped(slope, slope[:, ::-1])
    assert not are_grouped(slope, flat)


def test_hashes_follow_their_images_through_every_orientation_and_inversion() -> None:
    pixels = np.stack([thumbnail(landscape(seed)) for seed in range(20)])
    for orientation in range(8):
        turned = np.stack([oriented(image, orientation) for image in pixels])
        direct = hashes(cosines(turned, WHOLE), 0)
        np.testing.assert_array_equal(hashes(cosines(pixels, WHOLE), orientation), direct)
        np.testing.assert_array_equal(np.bitwise_count(direct ^ hashes(cosines(255 - turned, WHOLE), 0)), BITS)


def test_the_hash_is_of_the_cosine_transform() -> None:
    pixels = thumbnail(landscape(3))
    low = cv2.dct(pixels.astype(np.float64))[:8, :8].ravel()[1:] > 0
    assert f"{hashes(cosines(pixels[None], WHOLE), 0)[0]:063b}" == "".join(str(int(bit)) for bit in low)


def test_every_pair_is_compared_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against a loop over all pairs, in blocks that are smaller than the number of images."""
    monkeypatch.setattr("medseg.data.duplicates._ROWS", 3)
    monkeypatch.setattr("medseg.data.duplicates._COLUMNS", 7)
    monkeypatch.setattr("medseg.data.duplicates._TASK", 8)
    pixels = np.stack([thumbnail(eye(seed)) for seed in range(20)])
    sides = [
        (hashes(cosines(pixels, placing.first), 0), hashes(cosines(pixels, placing.second), placing.orientation))
        for placing in PLACINGS
    ]
    expected = {}
    for first in range(20):
        for second in range(first + 1, 20):
            bits = [int(one[first] ^ other[second]).bit_count() for one, other in sides]
            distances = [min(count, 63 - count) for count in bits]
            if min(distances) <= 12:
                place = distances.index(min(distances))
                expected[first, second] = (place, bits[place] > 31)
    found = near_hashes(pixels, 12, tiny.CPU)
    pairs = zip(found.first.tolist(), found.second.tolist(), strict=True)
    assert dict(zip(pairs, zip(found.placing.tolist(), found.inverted.tolist(), strict=True), strict=True)) == expected
    assert 20 < len(found) < 190


@given(kinds=st.lists(st.tuples(st.integers(0, 3), st.sampled_from(sorted(COPIES))), min_size=2, max_size=9))
@settings(max_examples=15)
def test_no_confirmed_pair_is_split_and_patients_stay_whole(kinds: list[tuple[int, str]]) -> None:
    pixels = np.stack([thumbnail(COPIES[kind](landscape(seed))) for seed, kind in kinds])
    patients = [f"p{place}" if place % 3 == 0 else "" for place in range(len(kinds))]
    patients[-1] = patients[0]
    names = find_groups(pixels, patients, DISTANCE, tiny.CPU).names
    assert names[-1] == names[0]
    found = near_hashes(pixels, DISTANCE, tiny.CPU)
    for first, second, place, inverted in zip(found.first, found.second, found.placing, found.inverted, strict=True):
        placing = PLACINGS[place]
        placing = Placing(placing.first, placing.second, placing.orientation, bool(inverted))
        if same_picture(pixels[first], pixels[second], placing):
            assert names[first] == names[second]


def test_a_chain_whose_ends_are_none_of_each_other_is_told() -> None:
    wide = np.hstack([landscape(seed) for seed in (1, 2)])
    along = np.stack([thumbnail(wide[:, start : start + SIZE]) for start in range(0, 121, 5)])
    alone = np.stack([thumbnail(landscape(seed)) for seed in (5, 6)])
    copies = np.stack([thumbnail(COPIES[kind](landscape(7))) for kind in ("mirrored", "inverted", "written on")])
    groups = find_groups(np.concatenate([along, alone, copies]), [""] * 30, DISTANCE, tiny.CPU)
    assert len(set(groups.names[:25])) == len(set(groups.names[27:])) == 1
    assert len(set(groups.names)) == 4
    assert groups.chained == [True] * 25 + [False] * 5


def test_workers_change_nothing() -> None:
    pixels = np.stack([thumbnail(COPIES[kind](eye(seed))) for seed, kind in enumerate(COPIES) for seed in (0, seed)])
    machines = [tiny.CPU.model_copy(update={"workers": workers}) for workers in (1, 4)]
    first, second = (find_groups(pixels, [""] * len(pixels), DISTANCE, machine) for machine in machines)
    assert first == second
