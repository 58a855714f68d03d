import io
import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from medseg.core.errors import UserError
from medseg.data.image_io import Pixels, read_image, to_channels, write_png
from medseg.data.mask_io import read_codes, read_mask, write_codes

SQUARE = np.zeros((6, 8), np.uint8)  # a mask: 2x3 pixels of foreground
SQUARE[1:3, 2:5] = 1
COLOURS = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)


def save(path: Path, whole: Image.Image, **options: Any) -> Path:
    whole.save(path, **options)
    return path


def paletted(indices: NDArray[Any], *colours: tuple[int, int, int]) -> Image.Image:
    whole = Image.fromarray(indices.astype(np.uint8))
    whole.putpalette([value for colour in colours for value in colour])
    return whole


MASK_FORMATS = {
    "1-bit": Image.fromarray(SQUARE.astype(bool)),
    "grey 0/255": Image.fromarray(SQUARE * 255),
    "grey 0/1": Image.fromarray(SQUARE),
    "grey with alpha": Image.merge("LA", [Image.fromarray(SQUARE * 255), Image.new("L", (8, 6), 255)]),
    "16-bit": Image.fromarray(SQUARE.astype(np.uint16) * 65535),
    "RGB 0/255": Image.fromarray(SQUARE[..., None].repeat(3, axis=2) * 255),
    "RGB, one colour": Image.fromarray(SQUARE[..., None] * np.array([192, 0, 64], np.uint8)),
    "RGBA, opaque": Image.fromarray(
        np.concatenate([SQUARE[..., None].repeat(3, axis=2) * 255, np.full((6, 8, 1), 255, np.uint8)], axis=2)
    ),
    "palette": paletted(SQUARE, (0, 0, 0), (128, 64, 0)),
    "palette, foreground first": paletted(1 - SQUARE, (255, 255, 255), (0, 0, 0)),
}


@pytest.mark.parametrize("name", MASK_FORMATS)
def test_every_mask_format_gives_the_same_mask(tmp_path: Path, name: str) -> None:
    mask = read_mask([save(tmp_path / "mask.png", MASK_FORMATS[name])])
    np.testing.assert_array_equal(mask, SQUARE)
    assert mask.dtype == np.uint8


def test_an_opaque_black_mask_is_empty_and_a_white_one_full(tmp_path: Path) -> None:
    assert not read_mask([save(tmp_path / "empty.png", Image.new("RGBA", (4, 3), (0, 0, 0, 255)))]).any()
    assert read_mask([save(tmp_path / "full.png", Image.new("1", (4, 3), 1))]).all()


def test_several_masks_are_united_whatever_their_formats(tmp_path: Path) -> None:
    other = np.zeros_like(SQUARE)
    other[2:5, 4:7] = 1
    files = [
        save(tmp_path / "1.png", MASK_FORMATS["1-bit"]),
        save(tmp_path / "2.png", Image.fromarray(other[..., None].repeat(3, axis=2) * 255)),
    ]
    assert read_mask(files).sum() == 6 + 9 - 1


def test_masks_of_other_size_or_values_are_refused_by_name(tmp_path: Path) -> None:
    small = save(tmp_path / "small.png", Image.new("L", (4, 3)))
    large = save(tmp_path / "large.png", Image.new("L", (8, 3)))
    with pytest.raises(UserError, match=r"large\.png: the masks of one image differ in size: 8x3 and 4x3"):
        read_mask([small, large])
    grades = save(tmp_path / "grades.png", Image.fromarray(np.arange(12, dtype=np.uint8).reshape(3, 4)))
    with pytest.raises(UserError, match=r"grades\.png: 12 different values.*label map"):
        read_mask([grades])
    lossy = save(tmp_path / "lossy.jpg", Image.fromarray(np.arange(12, dtype=np.uint8).reshape(3, 4) * 20))
    with pytest.raises(UserError, match=r"lossy\.jpg: .*a JPEG file does not keep that"):
        read_mask([lossy])
    two = save(tmp_path / "two.png", paletted(np.array([[0, 1, 2]], np.uint8), (0, 0, 0), (255, 0, 0), (0, 255, 0)))
    with pytest.raises(UserError, match=r"two\.png: 3 different values"):
        read_mask([two])


def test_no_mask_path_at_all_is_a_defect_of_the_caller() -> None:
    with pytest.raises(ValueError, match="no mask path"):
        read_mask([])


@pytest.mark.parametrize(
    ("whole", "channels"),
    [
        (Image.fromarray(COLOURS), 3),
        (Image.fromarray(COLOURS[..., 0]), 1),
        (Image.fromarray(COLOURS[..., 0] > 128), 1),
        (Image.fromarray(COLOURS).convert("RGBA"), 3),
        (Image.fromarray(COLOURS[..., 0]).convert("LA"), 1),
        (Image.fromarray(COLOURS).quantize(4), 3),
    ],
)
def test_images_come_as_grey_or_rgb(tmp_path: Path, whole: Image.Image, channels: int) -> None:
    image = read_image(save(tmp_path / "image.png", whole))
    assert image.shape == (24, 32, channels)
    assert image.dtype == np.uint8
    expected = np.asarray(whole.convert("L" if channels == 1 else "RGB"))
    np.testing.assert_array_equal(image.squeeze(), expected)


def test_transparent_pixels_keep_their_colour(tmp_path: Path) -> None:
    path = save(tmp_path / "image.png", Image.new("RGBA", (2, 2), (10, 20, 30, 0)))
    np.testing.assert_array_equal(read_image(path), np.full((2, 2, 3), (10, 20, 30), np.uint8))


def test_16_bit_grey_is_scaled_to_8_bits(tmp_path: Path) -> None:
    values = np.array([[0, 257, 128 * 257], [65535, 128, 129]], np.uint16)  # 129 is nearer to 1 than to 0
    for name in ("image.png", "image.tif"):
        image = read_image(save(tmp_path / name, Image.fromarray(values)))
        np.testing.assert_array_equal(image[..., 0], [[0, 1, 128], [255, 0, 1]])


def test_values_that_fit_no_16_bits_are_refused(tmp_path: Path) -> None:
    for value in (-1, 65536):
        path = save(tmp_path / "deep.tif", Image.fromarray(np.full((2, 2), value, np.int32)))
        with pytest.raises(UserError, match=r"deep\.tif: values outside 0\.\.65535"):
            read_image(path)


def test_an_image_is_turned_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: the first row is the right side
    image = read_image(save(tmp_path / "image.png", Image.fromarray(COLOURS), exif=exif))
    np.testing.assert_array_equal(image, np.rot90(COLOURS, -1))


def test_cmyk_is_read_as_rgb(tmp_path: Path) -> None:
    red = Image.new("RGB", (8, 8), (255, 0, 0)).convert("CMYK")
    image = read_image(save(tmp_path / "image.tif", red))
    np.testing.assert_array_equal(image, np.full((8, 8, 3), (255, 0, 0), np.uint8))


@pytest.mark.parametrize("read", [read_image, lambda path: read_mask([path])], ids=["image", "mask"])
def test_files_that_hold_no_single_image_of_integers_are_refused_by_name(tmp_path: Path, read: Any) -> None:
    grey = Image.fromarray(SQUARE)
    files: dict[str, dict[str, Any]] = {
        "pages.tif: holds 2 images": {"whole": grey, "save_all": True, "append_images": [grey]},
        "float.tif: floating-point": {"whole": Image.fromarray(SQUARE.astype(np.float32))},
    }
    for message, options in files.items():
        path = save(tmp_path / message.split(":")[0], **options)
        with pytest.raises(UserError) as caught:
            read(path)
        assert str(caught.value).startswith(f"{tmp_path}/{message}")
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(UserError, match=r"text\.png: not readable as an image"):
        read(tmp_path / "text.png")
    with pytest.raises(UserError, match=r"missing\.png: no such file"):
        read(tmp_path / "missing.png")


def encoded(format_: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(COLOURS).save(stream, format_, **options)
    return stream.getvalue()


ENCODED = {
    "png": encoded("PNG"),
    "jpg": encoded("JPEG"),
    "tif": encoded("TIFF"),
    "bmp": encoded("BMP"),
    "packbits.tif": encoded("TIFF", compression="packbits"),
}


@pytest.mark.parametrize("name", ENCODED)
@settings(max_examples=20)
@given(changes=st.dictionaries(st.integers(0, 199), st.integers(0, 255), min_size=1, max_size=8))
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_damaged_image_is_read_or_refused_in_words(
    tmp_path_factory: pytest.TempPathFactory, name: str, changes: dict[int, int]
) -> None:
    damaged = bytearray(ENCODED[name])
    for position, value in changes.items():
        damaged[position] = value
    path = tmp_path_factory.getbasetemp() / f"damaged.{name}"
    path.write_bytes(bytes(damaged))
    try:
        assert read_image(path).dtype == np.uint8
    except UserError as error:
        assert str(path) in str(error)  # noqa: PT017  # either outcome is right


def test_grey_and_colour_turn_into_each_other() -> None:
    grey = COLOURS[..., :1]
    np.testing.assert_array_equal(to_channels(grey, 3), np.concatenate([grey] * 3, axis=2))
    assert to_channels(grey, 1) is grey
    primaries = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]]], np.uint8)
    np.testing.assert_array_equal(to_channels(primaries, 1)[..., 0], [[76, 150, 29, 255]])  # 0.299, 0.587, 0.114


@pytest.mark.parametrize("image", [COLOURS, COLOURS[..., :1], COLOURS[..., 0], COLOURS[:1, :1]])
def test_a_written_image_reads_back_and_has_the_same_bytes_each_time(tmp_path: Path, image: Pixels) -> None:
    write_png(tmp_path / "a.png", image)
    write_png(tmp_path / "sub" / "b.png", image)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "sub" / "b.png").read_bytes()
    back: NDArray[np.uint8] = read_image(tmp_path / "a.png")
    np.testing.assert_array_equal(back.reshape(image.shape), image)


@settings(max_examples=15)
@given(st.integers(1, 254), st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**32 - 1))
def test_codes_go_through_a_file_unchanged(
    tmp_path_factory: pytest.TempPathFactory, classes: int, height: int, width: int, seed: int
) -> None:
    codes = np.random.default_rng(seed).integers(0, classes + 1, (height, width), np.uint8)
    path = tmp_path_factory.getbasetemp() / "codes.png"
    write_codes(path, codes, [(9, 9, 9)] * classes)  # equal colours do not join codes
    back = read_codes(path)
    assert back.dtype == np.uint8
    np.testing.assert_array_equal(back, codes)


def test_codes_show_in_their_colours_on_black(tmp_path: Path) -> None:
    write_codes(tmp_path / "codes.png", np.array([[0, 1, 2]], np.uint8), [(1, 2, 3), (40, 50, 60)])
    np.testing.assert_array_equal(read_image(tmp_path / "codes.png"), [[[0, 0, 0], [1, 2, 3], [40, 50, 60]]])


def test_a_file_without_a_palette_holds_no_codes(tmp_path: Path) -> None:
    write_png(tmp_path / "grey.png", SQUARE)
    with pytest.raises(UserError, match=r"grey\.png: has no palette"):
        read_codes(tmp_path / "grey.png")


def test_the_masks_of_real_samples(samples: Path) -> None:
    benign = samples / "busi/Dataset_BUSI_with_GT/benign"
    parts = [benign / "benign (4)_mask.png", benign / "benign (4)_mask_1.png"]  # the second is RGBA
    areas = [int(read_mask([part]).sum()) for part in parts]
    assert read_mask(parts).sum() == sum(areas)
    assert min(areas) > 0
    normal = samples / "busi/Dataset_BUSI_with_GT/normal"
    assert all(not read_mask([path]).any() for path in sorted(normal.glob("*_mask.png"))[:10])


def test_16_bit_grey_in_which_0_is_white_is_turned(tmp_path: Path) -> None:
    values = np.array([[0, 65535, 257]], np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="miniswhite")
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif")[..., 0], [[255, 0, 254]])


def test_values_that_8_bits_would_lose_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a\.png: no value of 65535 exceeds 200"):
        read_image(save(tmp_path / "a.png", Image.fromarray(np.array([[0, 200]], np.uint16))))
    black = read_image(save(tmp_path / "b.png", Image.fromarray(np.zeros((2, 2), np.uint16))))
    assert not black.any()


def test_what_is_no_plain_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    for path in (tmp_path / "pipe.png", Path("/dev/zero"), tmp_path):
        with pytest.raises(UserError, match="no plain file"):
            read_image(path)


def test_a_mask_that_shows_another_mask_beside_its_colours_is_refused(tmp_path: Path) -> None:
    black = np.zeros((*SQUARE.shape, 3), np.uint8)
    for colours in (black, black + np.uint8(255)):
        drawn = save(tmp_path / "alpha.png", Image.fromarray(np.dstack([colours, SQUARE * np.uint8(255)])))
        with pytest.raises(UserError, match=r"alpha\.png: its alpha channel shows another mask than the colours do"):
            read_mask([drawn])
    agreeing = Image.fromarray(np.dstack([SQUARE[..., None].repeat(3, axis=2) * 255, SQUARE * np.uint8(255)]))
    np.testing.assert_array_equal(read_mask([save(tmp_path / "agreeing.png", agreeing)]), SQUARE)
    with pytest.raises(UserError, match=r"palette\.png: its palette indices"):
        read_mask([save(tmp_path / "palette.png", paletted(SQUARE, (0, 0, 0), (0, 0, 0)))])


def test_small_values_of_16_bit_colours_do_not_vanish_from_a_mask(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "deep.png"), np.dstack([SQUARE.astype(np.uint16)] * 3))
    with pytest.raises(UserError, match=r"deep\.png: 16-bit colours or alpha are not read in a mask"):
        read_mask([tmp_path / "deep.png"])
