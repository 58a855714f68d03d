import re
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg.core.errors import UserError
from medseg.core.params import validate
from medseg.datasets.busi import scan_busi_layout
from medseg.datasets.folder import FolderParams, _image_regex
from medseg.datasets.record import Record
from medseg.datasets.ucsb import UcsbParams

TABLE = {"name": "table", "file": "labels.csv", "image": "image", "column": "class"}


def text(pattern: str) -> dict[str, str]:
    return {"name": "text", "text": pattern}


def params(images: str, masks: str, label: Any = None, patient: Any = None) -> FolderParams:
    value: dict[str, Any] = {
        "name": "folder",
        "path": None,
        "archives": [],
        "images": images,
        "masks": masks,
        "official": None,
    }
    checked: FolderParams = validate({**value, "label": label or text("x"), "patient": patient}, FolderParams, "data")
    return checked


def touch(root: Path, *files: str) -> None:
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).touch()


def masks_of(params: FolderParams, root: Path) -> dict[str, tuple[str, ...]]:
    return {record.file: record.masks for record in params.scan(root)}


class TestPatterns:
    def test_describe_busi_as_its_own_module_does(self, samples: Path) -> None:
        names = params("{top}/{label}/{stem}.png", "{top}/{label}/{stem}_mask*.png", text("{label}"))
        assert names.scan(samples / "busi") == scan_busi_layout(samples / "busi")

    def test_describe_ucsb_but_for_the_window(self, samples: Path) -> None:
        names = params("Images/{stem}_ccd.tif", "Masks/{stem}.TIF")
        expected = {record.file: record.masks for record in UcsbParams.layout().scan(samples / "ucsb")}
        assert masks_of(names, samples / "ucsb") == expected

    def test_fields_become_labels_and_patients(self, tmp_path: Path) -> None:
        touch(tmp_path, "human liver/images/P2_07_a.tif", "human liver/masks/P2_07_a.png")
        names = params(
            "{organ}/images/{patient}_{slice}.tif",
            "{organ}/masks/{patient}_{slice}.png",
            text("{organ} x"),
            text("{patient}"),
        )
        assert names.scan(tmp_path) == [
            Record("human liver/images/P2_07_a.tif", ("human liver/masks/P2_07_a.png",), "human liver x", "P2")
        ]

    def test_a_field_that_stands_twice_holds_one_text(self, tmp_path: Path) -> None:
        touch(tmp_path, "7/7_image.png", "7/7_mask.png", "8/9_image.png")
        assert masks_of(params("{case}/{case}_image.png", "{case}/{case}_mask.png"), tmp_path) == {
            "7/7_image.png": ("7/7_mask.png",)
        }

    def test_wildcards(self, tmp_path: Path) -> None:
        touch(tmp_path, "in/a.png", "in/b/c/a2.png", "out/x/y/a_1.png", "out/a_2.png", "out/x/a2_1.png", "out/a_1.txt")
        assert masks_of(params("in/**/{stem}.p*g", "out/**/{stem}_*.png"), tmp_path) == {
            "in/a.png": ("out/a_2.png", "out/x/y/a_1.png"),
            "in/b/c/a2.png": ("out/x/a2_1.png",),
        }

    def test_masks_are_no_images_though_they_lie_beside_them(self, tmp_path: Path) -> None:
        touch(tmp_path, "a.png", "a_mask.png", "b.png", "a_mask_1.png")
        assert masks_of(params("{stem}.png", "{stem}_mask*.png"), tmp_path) == {
            "a.png": ("a_mask.png", "a_mask_1.png"),
            "b.png": (),
        }

    def test_an_image_is_not_its_own_mask(self, tmp_path: Path) -> None:
        touch(tmp_path, "a.png", "b.png")
        with pytest.raises(UserError, match="names the images themselves"):
            params("{stem}.png", "{stem}.png").scan(tmp_path)

    def test_order_is_natural(self, tmp_path: Path) -> None:
        touch(tmp_path, "10.png", "9.png", "1.png")
        assert list(masks_of(params("{stem}.png", "{stem}.tif"), tmp_path)) == ["1.png", "9.png", "10.png"]

    @given(st.text(alphabet="a[]*?{}().+^$\\ é-", min_size=1, max_size=8).filter(lambda name: name.strip(". ")))
    def test_names_are_never_taken_for_patterns(self, tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
        root = tmp_path_factory.mktemp("names")
        touch(root, f"i/x{name}.png", f"m/x{name}.tif", "m/xa.tif", "m/xaa.tif")
        assert masks_of(params("i/{stem}.png", "m/{stem}.tif"), root) == {f"i/x{name}.png": (f"m/x{name}.tif",)}

    def test_no_match_shows_what_is_there(self, tmp_path: Path) -> None:
        touch(tmp_path, "img/a.jpg")
        with pytest.raises(UserError, match=r"'data\.images', images/\{stem\}\.png; .*img/a\.jpg"):
            params("images/{stem}.png", "masks/{stem}.png").scan(tmp_path)

    def test_unknown_fields_are_refused(self) -> None:
        with pytest.raises(UserError, match=r"'images'.* name, organ"):
            params("{stem}.png", "{name}.png", text("{organ}"))
        with pytest.raises(UserError, match="'masks' names no field"):
            params("{stem}.png", "mask.png")


class TestTables:
    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        touch(tmp_path, "i/a.png", "i/b.png")
        return tmp_path

    def labels(self, root: Path, table: str, encoding: str = "utf-8") -> list[tuple[str, str | None]]:
        (root / "labels.csv").write_text(table, encoding=encoding, newline="")
        records = params("i/{stem}.png", "m/{stem}.png", TABLE, {**TABLE, "column": "who"}).scan(root)
        return [(record.label, record.patient) for record in records]

    @pytest.mark.parametrize("name", ["i/a.png", "a.png", "a"])
    def test_an_image_is_named_by_path_name_or_stem(self, root: Path, name: str) -> None:
        table = f"image,who,class\r\n{name},P1,benign\r\nb,P2,normal\r\nunused,,\r\n"
        assert self.labels(root, table, "utf-8-sig") == [("benign", "P1"), ("normal", "P2")]

    def test_images_without_a_row_or_value_are_counted(self, root: Path) -> None:
        touch(root, *(f"i/c{number:02}.png" for number in range(10)))
        with pytest.raises(UserError, match=r"labels\.csv: .*'class' .*i/b\.png, i/c00\.png, .*c08\.png, .*11"):
            self.labels(root, "image,who,class\na,P1,benign\nb,P1,\n")

    def test_two_values_for_one_image_are_refused(self, root: Path) -> None:
        with pytest.raises(UserError, match=r"labels\.csv: .*'class' for a$"):
            self.labels(root, "image,who,class\na,P1,benign\na,P1,normal\nb,P1,normal\n")
        assert self.labels(root, "image,who,class\na,P1,benign\na,P1,benign\nb,P1,normal\n")

    def test_one_name_for_two_images_is_refused(self, tmp_path: Path) -> None:
        touch(tmp_path, "i/x/a.png", "i/y/a.png")
        (tmp_path / "labels.csv").write_text("image,class\na,benign\n")
        with pytest.raises(UserError, match=r"labels\.csv: a "):
            params("i/**/{stem}.png", "m/{stem}.png", TABLE).scan(tmp_path)
        (tmp_path / "labels.csv").write_text("image,class\ni/x/a.png,benign\ni/y/a.png,normal\n")
        records = params("i/**/{stem}.png", "m/{stem}.png", TABLE).scan(tmp_path)
        assert [record.label for record in records] == ["benign", "normal"]

    def test_a_missing_table_is_named(self, root: Path) -> None:
        with pytest.raises(UserError, match=r"labels\.csv: not read: No such file"):
            params("i/{stem}.png", "m/{stem}.png", TABLE).scan(root)


PIECES = st.sampled_from(["{a}", "{b}", "{c}", "*", "**/", "/", "_", "x", "."])
NAMES = st.text("x_./y", min_size=1, max_size=12)


def tried_in_all_lengths(pattern: str) -> re.Pattern[str]:
    """What a pattern means, without a thought for time: a field as short as possible, `*` as long as possible."""
    known = set[str]()
    parts = []
    for piece in re.split(r"(\*\*/|\*|\{\w\})", pattern):
        wild = {"**/": "(?:.*/)?", "*": "[^/]*"}.get(piece)
        field = f"(?P={piece[1:-1]})" if piece in known else f"(?P<{piece[1:-1]}>[^/]+?)"
        parts.append(wild or (field if piece.startswith("{") else re.escape(piece)))
        known.add(piece)
    return re.compile("".join(parts))


@settings(max_examples=1000)
@given(st.lists(PIECES, min_size=1, max_size=7).map("".join), NAMES)
def test_settled_fields_match_as_if_all_lengths_were_tried(pattern: str, name: str) -> None:
    found, wanted = re.fullmatch(_image_regex(pattern), name), tried_in_all_lengths(pattern).fullmatch(name)
    assert (found and found.groupdict()) == (wanted and wanted.groupdict())


@pytest.mark.timeout(20)  # without bounds, minutes
def test_a_long_name_takes_no_time(tmp_path: Path) -> None:
    touch(tmp_path, "s_" * 100 + "x.tif", "s_s_s_s_s_s.png", "s_s_s_s_s_s_m.tif")
    many = params("{a}_{b}_{c}_{d}_{e}_{f}.png", "{a}_{b}_{c}_{d}_{e}_{f}_m.tif")
    assert masks_of(many, tmp_path) == {"s_s_s_s_s_s.png": ("s_s_s_s_s_s_m.tif",)}


@pytest.mark.parametrize("pattern", ["*a*b*c*{x}", "{a}{b}{c}{d}{e}{a}", "**/x/**/y/**/{a}*b*"])
def test_a_pattern_that_may_take_ages_is_refused(pattern: str) -> None:
    with pytest.raises(UserError, match=r"data: 'images' holds more than 3|data = .*'images' holds more than 3"):
        params(pattern, "m/{a}.png" if "{a}" in pattern else "m/{x}.png")


@pytest.mark.parametrize("file", ["/etc/labels.csv", "../labels.csv", "a/../../labels.csv", "~/labels.csv", "", "."])
@pytest.mark.parametrize("key", ["label", "patient"])
def test_a_table_outside_the_data_folder_is_refused(key: str, file: str) -> None:
    with pytest.raises(UserError, match=rf"data\.{key}\.file = .*Put the file into the data folder"):
        params("{a}.png", "{a}_m.png", **{key: {**TABLE, "file": file}})


def test_names_pair_whatever_the_normal_form_of_their_letters(tmp_path: Path) -> None:
    """macOS writes an accent apart; what is read is the file as it is named."""
    apart, together = (unicodedata.normalize(form, "café") for form in ("NFD", "NFC"))
    touch(tmp_path, f"images/{apart}.png", f"masks/{together}.png")
    (tmp_path / "labels.csv").write_text(f"image,class\n{together},bad\n")
    assert params("images/{s}.png", "masks/{s}.png", TABLE).scan(tmp_path) == [
        Record(file=f"images/{apart}.png", masks=(f"masks/{together}.png",), label="bad")
    ]
    touch(tmp_path, f"images/{together}.png")
    with pytest.raises(UserError, match="normal form alone"):
        params("images/{s}.png", "masks/{s}.png").scan(tmp_path)


def test_a_mask_that_a_wildcard_gives_to_several_images_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{folder}/{name}.png" for folder in ("images", "masks") for name in ("1", "10", "2")))
    with pytest.raises(UserError, match=r"masks/10\.png to images/1\.png and images/10\.png"):
        params("images/{stem}.png", "masks/{stem}*.png").scan(tmp_path)
    touch(tmp_path, "views/1_left.png", "views/1_right.png", "shared/1.png")  # as the pattern means it
    assert masks_of(params("views/{case}_{view}.png", "shared/{case}.png"), tmp_path) == {
        "views/1_left.png": ("shared/1.png",),
        "views/1_right.png": ("shared/1.png",),
    }
