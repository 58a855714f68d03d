from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import tiny
import yaml
from hypothesis import given
from hypothesis import strategies as st

from medseg.archives import Address
from medseg.datasets import DataParams, fetch, scan
from medseg.datasets.layout import files_below, find_folder, natural, shortened
from medseg.datasets.tables import read_table
from medseg.errors import UserError
from medseg.params import validate

PUBLISHED = ("busi", "isic2017", "cryonuseg", "ucsb")
SOURCES = (*PUBLISHED, "folder", "phantom")


def params_of(project: Path, name: str, **changes: Any) -> Any:
    text = (project / "conf" / "data" / f"{name}.yaml").read_text(encoding="utf-8")
    return validate({**yaml.safe_load(text), **changes}, DataParams, "data")


def touch(root: Path, *files: str) -> None:
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).touch()


class TestConfiguration:
    @pytest.mark.parametrize("name", SOURCES)
    def test_each_file_is_valid_and_named_after_its_source(self, project: Path, name: str) -> None:
        assert params_of(project, name).name == name

    @pytest.mark.parametrize("name", SOURCES)
    def test_every_key_has_a_comment_above_or_beside_it(self, project: Path, name: str) -> None:
        lines = (project / "conf" / "data" / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
        for above, line in pairwise(lines):
            if line[:1].isalpha():
                assert "#" in line or above.startswith("#"), line

    def test_an_unknown_name_is_answered_with_the_known_ones(self) -> None:
        with pytest.raises(
            UserError, match=r"'busy': must be one of 'phantom', 'busi', 'isic2017', 'cryonuseg', 'ucsb'"
        ):
            validate({"name": "busy"}, DataParams, "data")

    @pytest.mark.parametrize(("name", "addresses"), [("busi", 2), ("isic2017", 9), ("cryonuseg", 0), ("ucsb", 0)])
    def test_every_known_address_has_a_checksum(self, project: Path, name: str, addresses: int) -> None:
        found: list[Address] = [one for archive in params_of(project, name).archives for one in archive.addresses]
        assert len(found) == addresses
        assert all(one.checksum for one in found)
        assert len({one.checksum for one in found}) == addresses


class TestRealSamples:
    @pytest.mark.parametrize(
        ("name", "pictures", "masks"), [("busi", 150, 152), ("isic2017", 300, 300), ("cryonuseg", 5, 5), ("ucsb", 6, 6)]
    )
    def test_fetched_from_the_data_folder_and_scanned(
        self,
        project: Path,
        samples: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        name: str,
        pictures: int,
        masks: int,
    ) -> None:
        monkeypatch.setenv("MEDSEG_DATA", str(samples))
        params = params_of(project, name)
        fetch(params, tmp_path, tiny.CPU)
        records = scan(params, tmp_path)
        assert len(records) == pictures
        assert sum(len(record.masks) for record in records) == masks
        assert records == scan(params, samples / name)
        assert all((tmp_path / file).is_file() for record in records for file in (record.file, *record.masks))
        assert len({file for record in records for file in (record.file, *record.masks)}) == pictures + masks
        assert {record.patient for record in records} == {None}

    @pytest.mark.parametrize("name", PUBLISHED)
    def test_found_in_a_deeper_folder(self, project: Path, samples: Path, tmp_path: Path, name: str) -> None:
        (tmp_path / "some" / "wrapping").mkdir(parents=True)
        fetch(params_of(project, name, path=str(samples / name)), tmp_path / "some" / "wrapping", tiny.CPU)
        touch(tmp_path, "some/readme.txt", "__MACOSX/some/._readme.txt")
        here, there = params_of(project, name), scan(params_of(project, name), samples / name)
        assert [record.file.removeprefix("some/wrapping/") for record in scan(here, tmp_path)] == [
            record.file for record in there
        ]

    @pytest.mark.parametrize("name", SOURCES)
    @pytest.mark.parametrize("exists", [True, False])
    def test_an_empty_or_missing_folder_is_named(self, project: Path, tmp_path: Path, name: str, exists: bool) -> None:
        root = tmp_path if exists else tmp_path / "gone"
        with pytest.raises(UserError, match=str(root)):
            scan(params_of(project, name), root)


class TestLayout:
    def test_a_data_set_that_is_there_twice_is_refused(self, tmp_path: Path) -> None:
        touch(tmp_path, "a/Images/1.tif", "a/Masks/1.tif", "b/Images/1.tif", "b/Masks/1.tif")
        with pytest.raises(UserError, match=r"more than once \('.*/a', '.*/b'\)"):
            find_folder(tmp_path, ("Images", "Masks"))
        assert find_folder(tmp_path / "a", ("Images", "Masks")) == tmp_path / "a"

    def test_hidden_files_are_not_listed(self, tmp_path: Path) -> None:
        touch(tmp_path, "b.png", "a/1.png", ".DS_Store", ".git/x.png", "__MACOSX/a/1.png")
        assert files_below(tmp_path) == ["a/1.png", "b.png"]

    def test_numbers_sort_as_numbers(self) -> None:
        names = ["benign (10).png", "benign (2).png", "benign (1).png", "a", "7", "07"]
        assert sorted(names, key=natural) == ["07", "7", "a", "benign (1).png", "benign (2).png", "benign (10).png"]

    @given(st.lists(st.text(alphabet="ab019 _²٣", max_size=6), max_size=8))
    def test_natural_order_is_an_order_of_any_names(self, names: list[str]) -> None:
        assert sorted(names, key=natural) == sorted(sorted(names, reverse=True), key=natural)

    def test_long_lists_are_shortened_and_counted(self) -> None:
        assert shortened(map(str, range(10))) == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9"
        assert shortened(map(str, range(11))) == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9, ... (11 in all)"


class TestTables:
    @pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
    @pytest.mark.parametrize("end", [b"\n", b"\r\n"])
    def test_reads_byte_order_marks_line_ends_blanks_and_quotes(self, tmp_path: Path, mark: bytes, end: bytes) -> None:
        lines = [b"image, label,other", b'"a, b.png" , benign ,1', b"", b"c.png"]
        (tmp_path / "t.csv").write_bytes(mark + end.join(lines))
        expected = [{"image": "a, b.png", "label": "benign"}, {"image": "c.png", "label": ""}]
        assert read_table(tmp_path / "t.csv", ("image", "label")) == expected

    def test_says_what_is_wrong(self, tmp_path: Path) -> None:
        path = tmp_path / "t.csv"
        with pytest.raises(UserError, match=r"t\.csv: not read: No such file"):
            read_table(path, ("image",))
        path.write_bytes(b"")
        with pytest.raises(UserError, match=r"t\.csv: lacks the columns image; it has none"):
            read_table(path, ("image",))
        path.write_bytes(b"image;label\n")
        with pytest.raises(UserError, match=r"lacks the columns image, label; it has image;label"):
            read_table(path, ("image", "label"))
        for rows, reason in {
            'a,"benign\nb,malignant\n': r"a cell of several lines \('benign\\nb,malignant\\n'\); is a quote not closed",
            "a,1.png,benign\n": r"a row of more cells than the header \(a, 1\.png, benign\)",
        }.items():
            path.write_text("image,label\n" + rows)
            with pytest.raises(UserError, match=rf"t\.csv: {reason}"):
                read_table(path, ("image", "label"))
        path.write_text("image,label,label\n")
        with pytest.raises(UserError, match=r"t\.csv: the column label stands twice"):
            read_table(path, ("image", "label"))
        with pytest.raises(UserError, match="no CSV table"):
            read_table(tmp_path / "a\0b", ("image",))
        path.write_bytes("image,Größe\n".encode("latin-1"))
        with pytest.raises(UserError, match=r"t\.csv: no CSV table in UTF-8"):
            read_table(path, ("image",))
