from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import tiny
import yaml
from hypothesis import given
from hypothesis import strategies as st

from medseg.core.errors import UserError
from medseg.core.folders import files_below
from medseg.core.params import validate
from medseg.datasets import LAYOUTS, SOURCES, DataParams
from medseg.datasets.download import Address
from medseg.datasets.layout import find_folder, natural, shortened
from medseg.datasets.tables import read_table


def params_of(project: Path, name: str, **changes: Any) -> Any:
    text = (project / "conf" / "data" / f"{name}.yaml").read_text(encoding="utf-8")
    return validate({**yaml.safe_load(text), **changes}, DataParams, "data")


def touch(root: Path, *files: str) -> None:
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).touch()


class TestConfiguration:
    def test_each_file_is_named_after_its_source_and_every_key_has_a_comment(self, project: Path) -> None:
        assert {path.stem for path in (project / "conf" / "data").glob("*.yaml")} >= set(SOURCES)
        for name in SOURCES:
            assert params_of(project, name).name == name
            lines = (project / "conf" / "data" / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
            for above, line in pairwise(lines):
                if line[:1].isalpha():
                    assert "#" in line or above.startswith("#"), line

    def test_a_layout_is_the_configuration_but_for_where_the_files_come_from(self, project: Path) -> None:
        assert set(LAYOUTS) == {"busi", "isic2017", "cryonuseg", "ucsb"}
        for name, layout in LAYOUTS.items():
            assert layout == params_of(project, name, path=None, archives=[])

    @pytest.mark.parametrize(("name", "addresses"), [("busi", 2), ("isic2017", 9), ("cryonuseg", 0), ("ucsb", 0)])
    def test_every_known_address_has_a_checksum(self, project: Path, name: str, addresses: int) -> None:
        found: list[Address] = [one for archive in params_of(project, name).archives for one in archive.addresses]
        assert len(found) == addresses
        assert all(one.checksum for one in found)
        assert len({one.checksum for one in found}) == addresses


class TestRealSamples:
    @pytest.mark.parametrize(
        ("name", "images", "masks"), [("busi", 150, 152), ("isic2017", 300, 300), ("cryonuseg", 5, 5), ("ucsb", 6, 6)]
    )
    def test_fetched_from_the_data_folder_and_scanned(
        self,
        project: Path,
        samples: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        name: str,
        images: int,
        masks: int,
    ) -> None:
        monkeypatch.setenv("MEDSEG_DATA", str(samples))
        params = params_of(project, name)
        params.fetch(tmp_path, tiny.CPU)
        records = params.scan(tmp_path)
        assert len(records) == images
        assert sum(len(record.masks) for record in records) == masks
        assert records == params.scan(samples / name)
        assert all((tmp_path / file).is_file() for record in records for file in (record.file, *record.masks))
        assert len({file for record in records for file in (record.file, *record.masks)}) == images + masks
        assert {record.patient for record in records} == {None}

    @pytest.mark.parametrize("name", LAYOUTS)
    def test_found_in_a_deeper_folder(self, project: Path, samples: Path, tmp_path: Path, name: str) -> None:
        (tmp_path / "some" / "wrapping").mkdir(parents=True)
        params_of(project, name, path=str(samples / name)).fetch(tmp_path / "some" / "wrapping", tiny.CPU)
        touch(tmp_path, "some/readme.txt", "__MACOSX/some/._readme.txt")
        here, there = params_of(project, name), params_of(project, name).scan(samples / name)
        assert [record.file.removeprefix("some/wrapping/") for record in here.scan(tmp_path)] == [
            record.file for record in there
        ]

    @pytest.mark.parametrize("name", SOURCES)
    def test_an_empty_or_missing_folder_is_named(self, project: Path, tmp_path: Path, name: str) -> None:
        for root in (tmp_path, tmp_path / "gone"):
            with pytest.raises(UserError, match=str(root)):
                params_of(project, name).scan(root)


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
    @pytest.mark.parametrize(("mark", "end"), [(b"", b"\n"), (b"\xef\xbb\xbf", b"\r\n")])
    def test_reads_byte_order_marks_line_ends_blanks_and_quotes(self, tmp_path: Path, mark: bytes, end: bytes) -> None:
        lines = [b"image, label,other", b'"a, b.png" , benign ,1', b"", b"c.png"]
        (tmp_path / "t.csv").write_bytes(mark + end.join(lines))
        expected = [{"image": "a, b.png", "label": "benign"}, {"image": "c.png", "label": ""}]
        assert read_table(tmp_path / "t.csv", ("image", "label")) == expected

    def test_what_is_no_table_is_refused_by_its_name(self, tmp_path: Path) -> None:
        path = tmp_path / "t.csv"
        contents: dict[bytes | None, str] = {
            None: "",
            b"": "image, label",
            b"image;label\n": "image, label",
            b'image,label\na,"benign\nb,malignant\n': "quote",
            b"image,label\na,1.png,benign\n": "more cells",
            b"image,label,label\n": "label",
            "image,label,Größe\n".encode("latin-1"): "UTF-8",
        }
        for content, told in contents.items():
            if content is not None:
                path.write_bytes(content)
            with pytest.raises(UserError, match=rf"t\.csv: .*{told}"):
                read_table(path, ("image", "label"))
        with pytest.raises(UserError, match="no CSV table"):
            read_table(tmp_path / "a\0b", ("image",))
