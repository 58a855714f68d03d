"""Bad input at every door: refused by name or read right, in words, quickly, and with nothing written elsewhere.

Every case goes through a command or a stage as typed, or through the function behind it. `knock` asserts what holds
for all of them; what each case must bring, its test does. `conftest.py` prints the table of all cases at the end.
"""

import csv
import importlib
import json
import os
import resource
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bent
import cv2
import numpy as np
import pandas as pd
import pytest
import tiny
import typer
import yaml
from PIL import Image
from test_prediction import TILES, bright
from typer.testing import CliRunner, Result

from medseg import archives
from medseg.cli import app
from medseg.console import new_app
from medseg.errors import UserError
from medseg.imaging import read_image, read_mask
from medseg.segmenter import Segmenter

pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.filterwarnings("ignore::UserWarning"),  # Pillow's, on the way to refusing
]

MOST_MEMORY = 2 << 30  # bytes that a case may add
MOST_SECONDS = 30.0
MACHINE = {"workers": 1, "backend": "threading", "accelerator": "cpu"}

Outcome = tuple[int, str]  # exit code and message
Call = Callable[[], Outcome]
Knock = Callable[..., str]

# ---------------------------------------------------------------------------------------------------- what always holds

_written: list[str] | None = None  # paths that Python wrote, made, renamed or removed, while a case runs
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_CHANGES = {"os.mkdir": 1, "os.rename": 2, "os.remove": 1, "os.rmdir": 1, "os.symlink": 2, "os.link": 2}


def _note(event: str, arguments: tuple[Any, ...]) -> None:
    if _written is None:
        return
    if event == "open" and isinstance(arguments[0], str | bytes) and (arguments[2] or 0) & _WRITES:
        _written.append(str(Path.cwd() / os.fsdecode(arguments[0])))
    elif event in _CHANGES and arguments[-1] == -1:  # by a path, not beside an open folder
        _written.extend(str(Path.cwd() / os.fsdecode(path)) for path in arguments[: _CHANGES[event]])


sys.addaudithook(_note)


def invoke(command: typer.Typer, *arguments: object) -> Call:
    """The command as typed."""
    return lambda: outcome(CliRunner().invoke(command, [str(argument) for argument in arguments]))


def ask(function: Callable[..., object], *arguments: object) -> Call:
    """A function whose mistakes a command would tell."""

    def asked() -> Outcome:
        try:
            function(*arguments)
        except UserError as error:
            return 1, str(error)
        return 0, ""

    return asked


def stage(name: str, *arguments: object) -> Call:
    """A stage of the pipeline as `dvc.yaml` runs it."""
    command = new_app()
    command.command()(importlib.import_module(f"stages.{name}").main)
    return invoke(command, *arguments)


def facts(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and time of everything below a folder."""
    found = {}
    for path in folder.rglob("*"):
        status = path.lstat()
        found[str(path)] = (0 if path.is_dir() else status.st_size, 0 if path.is_dir() else status.st_mtime_ns)
    return found


@pytest.fixture
def given(tmp_path: Path) -> Path:
    """The folder with what a case is given, which must stay as it is; whatever it writes goes to `out` beside it."""
    (tmp_path / "given").mkdir()
    return tmp_path / "given"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Where a case writes; only commands that end well may leave anything there."""
    return tmp_path / "out"


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("MEDSEG_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "out" / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(archives, "PAUSE", 0.0)


@pytest.fixture
def knock(given: Path, out: Path, record_property: Callable[[str, object], None]) -> Knock:
    """Run a case and assert what holds for all; give its message. `told`: the message that refuses it; None: it works.

    An exit code of 1 or 2 and one message, no traceback; not more than `MOST_SECONDS` and `MOST_MEMORY`; what was given
    is as it was, and nothing but `out` was written to.
    """

    def knocked(where: str, what: str, call: Call, told: str | None = None) -> str:
        global _written
        before, most, start = facts(given), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
        _written = []
        try:
            code, message = call()
        finally:
            written, _written = _written, None
        record_property("door", (what, where, message, code))
        assert time.monotonic() - start < MOST_SECONDS
        assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - most) * 1024 < MOST_MEMORY
        assert facts(given) == before
        assert [path for path in written if not is_allowed(path, out)] == []
        if told is None:
            assert (code, message) == (0, "")
        else:
            assert code in (1, 2)
            assert told in message
        return message

    return knocked


def outcome(result: Result) -> tuple[int, str]:
    """Exit code and message, as `console.run_app` gives them; a traceback fails the test."""
    error = result.exception
    if isinstance(error, UserError):
        assert str(error).strip()
        return 1, str(error)
    if error is not None and not isinstance(error, SystemExit):
        raise error
    return result.exit_code, (result.stderr or result.output).strip() if result.exit_code else ""


def is_allowed(path: str, out: Path) -> bool:
    return path == os.devnull or "__pycache__" in path or Path(path) == out or out in Path(path).parents


# ------------------------------------------------------------------------------------------------------ medseg predict

PICTURES = bent.pictures()


@pytest.fixture
def predictor(monkeypatch: pytest.MonkeyPatch) -> None:
    """`medseg predict` with a network that calls bright pixels foreground: probabilities show what was read."""
    segmenter = Segmenter(tiny.segmenter(TILES), bright)
    monkeypatch.setattr("medseg.runtimes.open_model", lambda *_: segmenter)


def predicted(knock: Knock, what: str, out: Path, told: str | None, *pictures: object) -> str:
    command = invoke(app, "predict", "--model", "any", "--out", out, "--", *pictures)
    return knock("predict", what, command, told)


def shown(out: Path, name: str) -> Any:
    """The grey picture that the network was given, as its probabilities tell it."""
    with Image.open(out / "probabilities" / f"{name}.png") as picture:
        return np.asarray(picture) / 257


def grey(image: Any) -> Any:
    return cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY) if image.ndim == 3 else image


@pytest.mark.usefixtures("predictor")
@pytest.mark.parametrize("what", PICTURES)
def test_a_picture_is_predicted_as_it_is_or_refused(what: str, knock: Knock, given: Path, out: Path) -> None:
    case = PICTURES[what]
    (given / case.name).write_bytes(case.content)
    message = predicted(knock, what, out, case.told if case.right is None else None, given / case.name)
    if case.right is None:
        assert str(given / case.name) in message
        assert [path.name for path in out.rglob("*") if path.is_file()] == ["predictions.csv"]
        return
    found, expected = shown(out, "a"), grey(case.right)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= case.tolerance + 0.01
    np.testing.assert_allclose(read_image(given / case.name).squeeze(), case.right.squeeze(), atol=case.tolerance)


CUTTABLE = bent.cuttable()


@pytest.mark.parametrize("what", CUTTABLE)
def test_a_picture_cut_at_any_byte_is_refused_or_the_whole_one(what: str, knock: Knock, out: Path) -> None:
    content, path = CUTTABLE[what], out / "a"
    accepted: list[int] = []
    out.mkdir()
    path.write_bytes(content)
    whole = read_image(path)

    def read_all() -> Outcome:
        messages = set()
        for length in range(len(content)):
            path.write_bytes(content[:length])
            code, message = ask(read_image, path)()
            if code == 0:
                np.testing.assert_array_equal(read_image(path), whole)
                accepted.append(length)
            else:
                messages.add(message.partition(": ")[2][:27])
        assert messages == {"not readable as a picture: "}
        return 1, message or messages.pop()

    knock("pictures", f"{what}, cut at every byte", read_all, "not readable as a picture: ")
    assert len(accepted) <= 40  # what follows the pixels alone, such as the last chunk of a PNG file


# ------------------------------------------------------------------------------------------------------ stage manifest

MASKS = bent.masks()
GOOD = 6  # pictures beside the bent one, so that it alone decides


def pairs(root: Path, count: int = GOOD) -> Path:
    """Pictures `images/pN.png` of chance, so that none is like another, and masks `masks/pN.png`."""
    for number in range(count):
        image, mask = tiny.square(number, bent.HEIGHT, bent.WIDTH)
        tiny.row(root, f"images/p{number}.png", np.random.default_rng(number).permuted(image), mask)
        (root / "masks").mkdir(exist_ok=True)
        (root / f"images/p{number}_mask.png").rename(root / f"masks/p{number}.png")
    return root


def parameters(folder: Path, **changes: Any) -> Path:
    """A parameter file for a folder of pictures in images/ and masks in masks/, all sections but `changes` small."""
    label = {"name": "text", "text": "lesion"}
    data: dict[str, Any] = {
        "name": "folder",
        "path": None,
        "archives": [],
        "images": "images/{name}.png",
        "masks": "masks/{name}.*",
    }
    sections: dict[str, Any] = {
        "data": data | {"label": label, "patient": None},
        "manifest": {"bad_files": "fail", "duplicate_distance": 0},
        "split": {"name": "fraction", "seed": 0, "val": 0.2, "test": 0.2},
        "prepare": tiny.resize().model_dump(),
        "machine": MACHINE,
    }
    for name, change in changes.items():
        sections[name] = sections[name] | change if name == "data" else change
    path = folder / "params.yaml"
    path.write_text(yaml.safe_dump(sections), encoding="utf-8")
    return path


def tabulated(given: Path, out: Path, **changes: Any) -> Call:
    """The stage manifest over what lies in `given`."""
    outs = [out / name for name in ("manifest.csv", "splits", "manifest.json")]
    return stage("manifest", parameters(given, **changes), given, given / "lists", *outs)


def table_of(out: Path) -> pd.DataFrame:
    return pd.read_csv(out / "manifest.csv", keep_default_na=False).set_index("file")


@pytest.mark.parametrize("what", MASKS)
def test_a_mask_is_read_right_or_refused(what: str, knock: Knock, given: Path, out: Path) -> None:
    case = MASKS[what]
    pairs(given)
    path = (given / "masks" / "p0.png").with_suffix(Path(case.name).suffix)
    (given / "masks" / "p0.png").unlink()
    path.write_bytes(case.content)
    message = knock("manifest", f"mask: {what}", tabulated(given, out), case.told if case.right is None else None)
    if case.right is None:
        assert f"masks/{path.name}" in message
        assert not out.exists()
        return
    np.testing.assert_array_equal(read_mask([path]), case.right)
    assert table_of(out).loc["images/p0.png", "foreground"] == pytest.approx(case.right.mean(), abs=1e-6)
    flagged = ["images/p0.png"] if what == "inverted" else []
    assert json.loads((out / "manifest.json").read_text())["inverted_mask_files"] == flagged


# -------------------------------------------------------------------------------------------------------------- names


UNWRITABLE = {"\n", "\r", "\t", "\u2028", "\udcff", ";"}  # the manifest refuses pictures that have one in their names


@pytest.mark.usefixtures("predictor")
@pytest.mark.parametrize("name", bent.NAMES, ids=ascii)
def test_a_picture_of_any_name_is_predicted_or_its_name_refused(
    name: str, knock: Knock, given: Path, out: Path
) -> None:
    (given / name).write_bytes(bent.encoded(bent.GREY, "PNG"))
    (given / "z.png").write_bytes(bent.encoded(bent.GREY, "PNG"))
    told = "its name is no UTF-8" if "\udcff" in name else None
    predicted(knock, f"name: {name!a:.30}", out, told, given)
    names = ["z"] if told else sorted([Path(name).stem, "z"])
    with (out / "predictions.csv").open(newline="", encoding="utf-8") as file:
        assert sorted(row["name"] for row in csv.DictReader(file)) == names
    for stem in names:
        np.testing.assert_allclose(shown(out, stem), bent.GREY, atol=0.01)


@pytest.mark.parametrize("name", bent.NAMES, ids=ascii)
def test_a_picture_of_any_name_is_tabulated_or_its_name_refused(
    name: str, knock: Knock, given: Path, out: Path
) -> None:
    pairs(given)
    for folder in ("images", "masks"):
        (given / folder / "p0.png").rename(given / folder / name)
    told = "can't stand in the manifest; rename the file" if UNWRITABLE & set(name) else None
    call = tabulated(given, out, data={"images": "images/{name}.png", "masks": "masks/{name}.png"})
    message = knock("manifest", f"name: {name!a:.30}", call, told)
    if told:
        assert ascii(name)[1:-5][:30] in message or name in message
        return
    assert f"images/{name}" in table_of(out).index
    listed = [line for path in (out / "splits").iterdir() for line in path.read_text(encoding="utf-8").split("\n")]
    assert f"images/{name}" in listed


@pytest.mark.usefixtures("predictor")
def test_names_that_differ_in_case_alone_stay_apart(knock: Knock, given: Path, out: Path) -> None:
    for name, image in {"a.png": bent.GREY, "A.png": 255 - bent.GREY, "a.PNG": bent.GREY // 2}.items():
        (given / name).write_bytes(bent.encoded(image, "PNG"))
    predicted(knock, "names: a.png, A.png and a.PNG", out, None, given)
    for name, image in {"a.png": bent.GREY, "A": 255 - bent.GREY, "a.PNG": bent.GREY // 2}.items():
        np.testing.assert_allclose(shown(out, name), image, atol=0.01)


@pytest.mark.usefixtures("predictor")
@pytest.mark.parametrize(
    ("argument", "told"),
    [
        ("missing.png", "no such picture, folder or pattern"),
        ("x" * 300, "too long"),
        ("x/" * 3000, "too long"),
        ("*.tif", "no such picture, folder or pattern"),
        ("**a", "can only be an entire path component"),
        ("empty", "no picture found"),
        ("pipe.png", "no plain file"),
        ("folder.png", "no picture found"),
        ("/dev/zero", "no plain file"),
        ("broken.png", "no such picture, folder or pattern"),
        ("", "no picture found"),
    ],
)
def test_what_is_no_picture_to_predict_is_refused(
    argument: str, told: str, knock: Knock, given: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(given / "pipe.png")
    (given / "broken.png").symlink_to("nowhere")
    for folder in ("empty", "folder.png"):
        (given / folder).mkdir()
    monkeypatch.chdir(given)
    predicted(knock, f"argument: {argument:.30}", out, told, argument)


# ----------------------------------------------------------------------------------------------------------- download

ARCHIVES = bent.archives()


def fetched(given: Path, out: Path, path: Path) -> Call:
    data = {"name": "ucsb", "path": str(path), "archives": []}
    return stage("download", _written_yaml(given / "params.yaml", {"data": data, "machine": MACHINE}), out / "raw")


def _written_yaml(path: Path, content: Any) -> Path:
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


def held(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("what", ARCHIVES)
def test_an_archive_is_unpacked_whole_or_refused(
    what: str, knock: Knock, given: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "HARMLESS_BYTES", 4 << 20)  # so that bombs can be small
    case, path = ARCHIVES[what], given / "set"
    path.write_bytes(case.content)
    message = knock("archive", what, fetched(given, out, path), case.told if case.right is None else None)
    if case.right is None:
        assert str(path) in message
        assert list(out.iterdir()) == []
    else:
        assert held(out / "raw") == case.right


@pytest.mark.parametrize("what", [what for what, case in ARCHIVES.items() if case.right == bent.MEMBERS])
@pytest.mark.parametrize("how", ["cut", "one byte changed"])
def test_a_damaged_archive_is_unpacked_right_or_refused(
    what: str, how: str, knock: Knock, given: Path, out: Path
) -> None:
    whole, path, target = ARCHIVES[what].content, out / "set", out / "raw"
    out.mkdir()

    def all_places() -> Outcome:
        last = ""
        for place in range(0, min(len(whole), 3000), 1 + len(whole) // 150):
            shutil.rmtree(target, ignore_errors=True)
            target.mkdir()
            changed = whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :]
            path.write_bytes(whole[:place] if how == "cut" else changed)
            code, message = ask(archives.unpack, path, target)()
            # Tar has no checksum of contents or of the blocks that follow them.
            if code == 0 and not (what == "tar" and how != "cut"):
                assert held(target) == bent.MEMBERS
            last = message or last
        return 1, last

    knock("archive", f"{what}, {how}", all_places, f"{path}: ")
    assert sorted(found.name for found in out.iterdir()) == ["raw", "set"]
    assert given.exists()


# ---------------------------------------------------------------------------------------------------------- CSV lists

NAMED = [f"images/p{number}.png" for number in range(GOOD)]
LISTS: dict[str, tuple[dict[str, bytes], str | None]] = {
    "as written": ({}, None),
    "byte order mark": ({"train.txt": b"\xef\xbb\xbf" + "\n".join(NAMED[:4]).encode()}, None),
    "CRLF": ({"train.txt": "\r\n".join(NAMED[:4]).encode()}, None),
    "CR": ({"train.txt": "\r".join(NAMED[:4]).encode()}, None),
    "blank lines and blanks": ({"train.txt": "\n\n  ".join(NAMED[:4]).encode()}, None),
    "one name twice": ({"val.txt": f"{NAMED[4]}\n{NAMED[4]}".encode()}, "is named twice, here and in val.txt"),
    "a name in two lists": ({"val.txt": NAMED[0].encode()}, f"'{NAMED[0]}' is named twice, here and in train.txt"),
    "a name that is missing": ({"val.txt": b"images/p99.png"}, "'images/p99.png' is no picture of the data set"),
    "another case": ({"val.txt": b"images/P4.png"}, "is no picture of the data set"),
    "a path outside": ({"val.txt": b"../given/images/p4.png"}, "is no picture of the data set"),
    "an absolute path": ({"val.txt": b"/etc/passwd"}, "is no picture of the data set"),
    "quotes": ({"val.txt": f'"{NAMED[4]}"'.encode()}, "is no picture of the data set"),
    "a header": ({"val.txt": f"file\n{NAMED[4]}".encode()}, "'file' is no picture of the data set"),
    "nothing": ({"val.txt": b""}, "leaves no picture for 'val'"),
    "UTF-16": ({"val.txt": NAMED[4].encode("utf-16")}, "not UTF-8 text"),
    "Latin-1": ({"val.txt": b"images/\xe4.png"}, "not UTF-8 text"),
    "zeros": ({"val.txt": bytes(1000)}, "is no picture of the data set"),
    "a line of a million letters": ({"val.txt": b"x" * 1_000_000}, "is no picture of the data set"),
}


@pytest.mark.parametrize("what", LISTS)
def test_lists_are_read_right_or_refused(what: str, knock: Knock, given: Path, out: Path) -> None:
    changes, told = LISTS[what]
    folder = pairs(given) / "lists" / "mine"
    folder.mkdir(parents=True)
    usual = {"train.txt": NAMED[:4], "val.txt": NAMED[4:5], "test.txt": NAMED[5:]}
    for name, names in usual.items():
        (folder / name).write_bytes(changes.get(name, "\n".join(names).encode()))
    split = {"name": "lists", "folder": "mine", "straddling": "keep"}
    message = knock("lists", what, tabulated(given, out, split=split), told)
    if told is None:
        splits = table_of(out)["split"]
        assert [splits[name] for name in NAMED] == ["train"] * 4 + ["val", "test"]
    else:
        assert len(message) < 1_100_000
        assert not out.exists()


ROWS = "".join(f"p{number}.png,{'benign' if number % 2 else 'malignant'}\n" for number in range(GOOD))
TABLES: dict[str, tuple[bytes, str | None]] = {
    "as usual": (f"image,label\n{ROWS}".encode(), None),
    "byte order mark": (b"\xef\xbb\xbf" + f"image,label\n{ROWS}".encode(), None),
    "CRLF": (f"image,label\n{ROWS}".replace("\n", "\r\n").encode(), None),
    "CR": (f"image,label\n{ROWS}".replace("\n", "\r").encode(), None),
    "blanks and quotes": (f'image , "label"\n{ROWS}'.replace("benign", ' "benign" ').encode(), None),
    "other columns": (f"image,label,age\n{ROWS}".encode(), None),
    "one row twice": (f"image,label\n{ROWS}p0.png,malignant\n".encode(), None),
    "contradicting rows": (f"image,label\n{ROWS}p0.png,benign\n".encode(), "several values of 'label' for p0.png"),
    "a name that is missing": (f"image,label\n{ROWS[20:]}".encode(), "no 'label' for images/p0.png"),
    "an empty value": (f"image,label\n{ROWS}".replace("p1.png,benign", "p1.png,").encode(), "no 'label' for images/p1"),
    "a short row": (f"image,label\n{ROWS}".replace("p1.png,benign", "p1.png").encode(), "no 'label' for images/p1"),
    "a row too long": (
        f"image,label\n{ROWS}a,b.png,benign\n".encode(),
        "more cells than the header (a, b.png, benign)",
    ),
    "a quote that is not closed": (f'image,label\n"{ROWS}'.encode(), "is a quote not closed?"),
    "semicolons": (f"image,label\n{ROWS}".replace(",", ";").encode(), "lacks the columns image, label"),
    "no header": (ROWS.encode(), "lacks the columns image, label"),
    "a column twice": (f"image,label,label\n{ROWS}".encode(), "the column label stands twice"),
    "nothing": (b"", "it has none"),
    "UTF-16": (f"image,label\n{ROWS}".encode("utf-16"), "no CSV table in UTF-8"),
    "Latin-1": (f"image,label\n{ROWS}".encode() + b"\xe4,benign\n", "no CSV table in UTF-8"),
    "zeros": (bytes(1000), "lacks the columns image, label"),
    "a cell of a million letters": (f"image,label\n{ROWS}{'x' * 1_000_000},benign\n".encode(), "no CSV table"),
    "a picture": (bent.encoded(bent.GREY, "PNG"), "no CSV table in UTF-8"),
}


@pytest.mark.parametrize("what", TABLES)
def test_tables_are_read_right_or_refused(what: str, knock: Knock, given: Path, out: Path) -> None:
    content, told = TABLES[what]
    (pairs(given) / "labels.csv").write_bytes(content)
    label = {"name": "table", "file": "labels.csv", "picture": "image", "column": "label"}
    message = knock("table", what, tabulated(given, out, data={"label": label}), told)
    if told is None:
        labels = table_of(out)["label"]
        assert [labels[name] for name in NAMED] == ["malignant", "benign"] * 3
    else:
        assert "labels.csv" in message
        assert not out.exists()


@pytest.mark.parametrize("name", ["missing.csv", "..", "a\0b", "x" * 300, "/dev/null", "images"])
def test_a_table_that_is_none_is_refused(name: str, knock: Knock, given: Path, out: Path) -> None:
    label = {"name": "table", "file": name, "picture": "image", "column": "label"}
    call = tabulated(pairs(given), out, data={"label": label})
    knock("table", f"named {name!a:.20}", call, "not read" if name != "a\0b" else "no CSV table")


# -------------------------------------------------------------------------------------------------------- params.yaml

STAGES: dict[str, int] = {
    "download": 1,
    "manifest": 5,
    "prepare": 4,
    "augment": 3,
    "train": 6,
    "evaluate": 8,
    "report": 13,
}
TEXTS: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "must hold a mapping"),
    "a list": (b"- a", "must hold a mapping"),
    "half": (b"data: {name: busi, pat", "not readable as YAML"),
    "a tab": (b"data:\n\tname: busi", "not readable as YAML"),
    "one key twice": (b"data: 1\ndata: 2", "not readable as YAML"),
    "no UTF-8": (b"data: \xff", "not readable as YAML"),
    "UTF-16": ("data: 1".encode("utf-16"), "not readable as YAML"),
    "zeros": (bytes(100), "not readable as YAML"),
    "another section": (b"other: 1", "the section '"),
    "an object of Python": (b"data: !!python/object/apply:os.system [ls]", "not readable as YAML"),
    "an alias that is nowhere": (b"data: *nowhere", "not readable as YAML"),
    "a value that holds itself": (b"data: &a [*a]", "one that holds itself"),
    "aliases of aliases": (
        b"a0: &a0 [x, x, x, x, x, x, x, x, x]\n"
        + b"".join(b"a%d: &a%d [%s]\n" % (n, n, b", ".join([b"*a%d" % (n - 1)] * 9)) for n in range(1, 12)),
        "more than 100000 values",
    ),
    "lists in lists": (b"data: " + b"[" * 5000 + b"]" * 5000, "not readable as YAML"),
    "a number of 5000 digits": (b"seed: " + b"9" * 5000, "not readable as YAML"),
    "a date that is none": (b"data: 2001-99-99", "not readable as YAML"),
    "half a character": (b'data: "\\ud800"', "not readable as YAML"),
    "bytes": (b"data: !!binary aGk=", "not readable as YAML"),
    "a key that is no text": (b"data: {1: 2}", "is no text; put it in quotes"),
    "null": (b"~", "must hold a mapping"),
}


@pytest.mark.parametrize("name", STAGES)
@pytest.mark.parametrize("what", TEXTS)
def test_a_parameter_file_that_is_none_stops_every_stage(
    what: str, name: str, knock: Knock, given: Path, out: Path
) -> None:
    content, told = TEXTS[what]
    (given / "params.yaml").write_bytes(content)
    call = stage(name, given / "params.yaml", *(out / str(number) for number in range(STAGES[name])))
    if name == "report" and what in ("another section",):
        told = "name is missing"
    assert str(given / "params.yaml") in knock(f"{name}: params.yaml", what, call, told) or name == "report"
    assert not out.exists()
