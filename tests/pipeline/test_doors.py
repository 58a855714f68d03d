"""Bad input at every door: refused by name or read right, in words, quickly, and with nothing written elsewhere.

Every case goes through a command or a stage as typed, or through the function behind it. `knock` asserts what holds
for all of them; what each case must bring, its test does. `conftest.py` prints the table of all cases at the end.
"""

import ast
import csv
import importlib
import inspect
import json
import os
import pickle
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import bent
import cv2
import numpy as np
import onnx
import pandas as pd
import pytest
import tiny
import torch
import typer
import yaml
from http_server import Server
from PIL import Image
from safetensors.torch import load_file, save_file
from small_predictors import PLAIN, TILES, bright
from train_sections import SECTIONS
from typer.testing import CliRunner, Result

from medseg.cli import app
from medseg.core.app import new_app
from medseg.core.errors import UserError
from medseg.data.image_io import read_image
from medseg.data.mask_io import read_mask
from medseg.datasets import download as archives
from medseg.inference.backends import DESCRIPTION_KEY
from medseg.inference.onnx_export import export
from medseg.inference.predictor import Predictor
from medseg.inference.settings import SegmenterDescription
from medseg.models.checkpoint import load_bundle
from medseg.models.model_yaml import DESCRIPTION, WEIGHTS
from medseg.models.network import build_model

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
Bend = Callable[[Path], object]  # changes a folder

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
def knock(
    given: Path, out: Path, record_property: Callable[[str, object], None], monkeypatch: pytest.MonkeyPatch
) -> Knock:
    """Run a case and assert what holds for all; give its message. `told`: the message that refuses it; None: it works.

    An exit code of 1 or 2 and one message, no traceback; not more than `MOST_SECONDS` and `MOST_MEMORY`; what was given
    is as it was, and nothing but `out` was written to.
    """
    monkeypatch.setenv("DVC_ROOT", str(given))  # no project: training keeps no state

    def knocked(where: str, what: str, call: Call, told: str | None = None) -> str:
        global _written
        before, most, start = facts(given), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
        _written = []
        try:
            code, message = call()
        finally:
            written, _written = _written, None
        told_in_short = message.replace(f"{given}", "given").replace(f"{out}", "out")
        record_property("door", (what, where, told_in_short.encode(errors="backslashreplace").decode(), code))
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
    """Exit code and message, as `app.run_app` gives them; a traceback fails the test."""
    error = result.exception
    if isinstance(error, UserError):
        assert str(error).strip()
        return 1, str(error)
    if error is not None and not isinstance(error, SystemExit):
        raise error
    return result.exit_code, (result.stderr or result.output).strip() if result.exit_code else ""


def is_allowed(path: str, out: Path) -> bool:
    return path == os.devnull or "__pycache__" in path or Path(path) == out or out in Path(path).parents


def each(cases: Iterable[str], *quick: str) -> list[Any]:
    """All cases as parameters of a test; all but the quick ones, each of another kind, are slow together."""
    found = list(cases)
    assert set(quick) <= set(found)
    return [pytest.param(case, marks=() if case in quick else pytest.mark.slow) for case in found]


# ------------------------------------------------------------------------------------------------------ medseg predict

IMAGES = bent.images()


@pytest.fixture
def predictor(monkeypatch: pytest.MonkeyPatch) -> None:
    """`medseg predict` with a network that calls bright pixels foreground: probabilities show what was read."""
    segmenter = Predictor(tiny.segmenter(TILES), bright)
    monkeypatch.setattr("medseg.inference.backends.open_model", lambda *_: segmenter)


def predicted(knock: Knock, what: str, out: Path, told: str | None, *images: object) -> str:
    command = invoke(app, "predict", "--model", "any", "--out", out, "--", *images)
    return knock("predict", what, command, told)


def shown(out: Path, name: str) -> Any:
    """The grey image that the network was given, as its probabilities tell it."""
    with Image.open(out / "probabilities" / f"{name}.png") as image:
        return np.asarray(image) / 257


def grey(image: Any) -> Any:
    return cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY) if image.ndim == 3 else image


@pytest.mark.usefixtures("predictor")
@pytest.mark.parametrize(
    "what",
    each(
        IMAGES,
        *("png, palette", "png, 16 bits", "tif, 0 is white, 16 bits", "tif, CMYK", "jpg, orientation 6", "png, 1 wide"),
        *("text", "png, says 9000x9000", "tif, two pages", "tif, float", "png, a text that unpacks to 4 MB"),
    ),
)
def test_an_image_is_predicted_as_it_is_or_refused(what: str, knock: Knock, given: Path, out: Path) -> None:
    case = IMAGES[what]
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


@pytest.mark.parametrize("what", each(CUTTABLE, "png", "jpg", "tif, lzw"))
def test_an_image_cut_at_any_byte_is_refused_or_the_whole_one(what: str, knock: Knock, out: Path) -> None:
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
                messages.add(message.partition(": ")[2].partition(": ")[0])
        assert messages == {"not readable as an image"}
        return 1, message or messages.pop()

    knock("images", f"{what}, cut at every byte", read_all, "not readable as an image")
    assert len(accepted) <= 40  # what follows the pixels alone, such as the last chunk of a PNG file


# ------------------------------------------------------------------------------------------------------ stage manifest

MASKS = bent.masks()
GOOD = 6  # images beside the bent one, so that it alone decides


def pairs(root: Path, count: int = GOOD) -> Path:
    """Images `images/pN.png` of chance, so that none is like another, and masks `masks/pN.png`."""
    for number in range(count):
        image, mask = tiny.square(number, bent.HEIGHT, bent.WIDTH)
        tiny.row(root, f"images/p{number}.png", np.random.default_rng(number).permuted(image), mask)
        (root / "masks").mkdir(exist_ok=True)
        (root / f"images/p{number}_mask.png").rename(root / f"masks/p{number}.png")
    return root


def parameters(folder: Path, **changes: Any) -> Path:
    """A parameter file for a folder of images in images/ and masks in masks/, all sections but `changes` small."""
    label = {"name": "text", "text": "lesion"}
    data: dict[str, Any] = {
        "name": "folder",
        "path": None,
        "archives": [],
        "images": "images/{name}.png",
        "masks": "masks/{name}.*",
    }
    sections: dict[str, Any] = {
        "data": data | {"label": label, "patient": None, "official": None},
        "manifest": {"bad_files": "fail", "duplicate_distance": 0},
        "split": {"name": "fraction", "seed": 0, "val": 0.2, "test": 0.2},
        "task": {"name": "binary"},
        "intensity": {"name": "full"},
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
    outs = [out / name for name in ("manifest.csv", "splits", "overlap.csv", "manifest.json")]
    return stage("manifest", parameters(given, **changes), given, given / "lists", given / "weights", *outs)


def table_of(out: Path) -> pd.DataFrame:
    return pd.read_csv(out / "manifest.csv", keep_default_na=False).set_index("file")


@pytest.mark.parametrize(
    "what",
    each(
        MASKS,
        *("palette, foreground first", "16 bits, 0 and 1", "turned by EXIF", "inverted"),
        *("grades", "black, drawn in alpha", "on its side"),
    ),
)
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


UNWRITABLE = {"\n", "\r", "\t", "\u2028", "\udcff", ";"}  # the manifest refuses images that have one in their names


@pytest.mark.usefixtures("predictor")
@pytest.mark.parametrize("name", each(bent.NAMES, "a\nb.png", "[1]*?.png", "a\udcffb.png"), ids=ascii)
def test_an_image_of_any_name_is_predicted_or_its_name_refused(name: str, knock: Knock, given: Path, out: Path) -> None:
    (given / name).write_bytes(bent.encoded(bent.GREY, "PNG"))
    (given / "z.png").write_bytes(bent.encoded(bent.GREY, "PNG"))
    told = "its name is no UTF-8 or holds a carriage return" if {"\udcff", "\r"} & set(name) else None
    predicted(knock, f"name: {name!a:.30}", out, told, given)
    names = ["z"] if told else sorted([Path(name).stem, "z"])
    with (out / "predictions.csv").open(newline="", encoding="utf-8") as file:
        assert sorted(row["name"] for row in csv.DictReader(file)) == names
    for stem in names:
        np.testing.assert_allclose(shown(out, stem), bent.GREY, atol=0.01)


@pytest.mark.parametrize("name", each(bent.NAMES, "a\nb.png", "[1]*?.png", "a,b.png"), ids=ascii)
def test_an_image_of_any_name_is_tabulated_or_its_name_refused(name: str, knock: Knock, given: Path, out: Path) -> None:
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
    for name, image in {"A.png": 255 - bent.GREY, "a.png~2": bent.GREY, "a.PNG~3": bent.GREY // 2}.items():
        np.testing.assert_allclose(shown(out, name), image, atol=0.01)


NO_IMAGES = {
    "missing.png": "no such image, folder or pattern",
    "x" * 300: "too long",
    "*.tif": "no such image, folder or pattern",
    "**a": "no such image, folder or pattern",
    "empty": "no image found",
    "pipe.png": "no plain file",
    "folder.png": "no image found",
    "/dev/zero": "no plain file",
    "broken.png": "no such image, folder or pattern",
    "": "an argument is empty",
}


@pytest.mark.usefixtures("predictor")
@pytest.mark.parametrize("argument", each(NO_IMAGES, "missing.png", "pipe.png", "empty"))
def test_what_is_no_image_to_predict_is_refused(
    argument: str, knock: Knock, given: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(given / "pipe.png")
    (given / "broken.png").symlink_to("nowhere")
    for folder in ("empty", "folder.png"):
        (given / folder).mkdir()
    monkeypatch.chdir(given)
    predicted(knock, f"argument: {argument:.30}", out, NO_IMAGES[argument], argument)


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


@pytest.mark.parametrize("what", each(ARCHIVES, "tar.xz", "zip, ../evil", "tar, symbolic link", "text", "zip, a bomb"))
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


@pytest.mark.parametrize(
    "what", each((what for what, case in ARCHIVES.items() if case.right == bent.MEMBERS), "zip", "tar.gz")
)
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
    "a name that is missing": ({"val.txt": b"images/p99.png"}, "'images/p99.png' is no image of the data set"),
    "another case": ({"val.txt": b"images/P4.png"}, "is no image of the data set"),
    "a path outside": ({"val.txt": b"../given/images/p4.png"}, "is no image of the data set"),
    "an absolute path": ({"val.txt": b"/etc/passwd"}, "is no image of the data set"),
    "quotes": ({"val.txt": f'"{NAMED[4]}"'.encode()}, "is no image of the data set"),
    "a header": ({"val.txt": f"file\n{NAMED[4]}".encode()}, "'file' is no image of the data set"),
    "nothing": ({"val.txt": b""}, "leaves no image for 'val'"),
    "UTF-16": ({"val.txt": NAMED[4].encode("utf-16")}, "not UTF-8 text"),
    "Latin-1": ({"val.txt": b"images/\xe4.png"}, "not UTF-8 text"),
    "zeros": ({"val.txt": bytes(1000)}, "is no image of the data set"),
    "a line of a million letters": ({"val.txt": b"x" * 1_000_000}, "is no image of the data set"),
}


@pytest.mark.parametrize("what", each(LISTS, "byte order mark", "CR", "a path outside", "UTF-16"))
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
    "blanks and quotes": (f'image ,"label"\n{ROWS}'.replace("benign", '"benign" ').encode(), None),
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
    "an image": (bent.encoded(bent.GREY, "PNG"), "no CSV table in UTF-8"),
}


@pytest.mark.parametrize(
    "what", each(TABLES, "byte order mark", "contradicting rows", "a quote that is not closed", "an image")
)
def test_tables_are_read_right_or_refused(what: str, knock: Knock, given: Path, out: Path) -> None:
    content, told = TABLES[what]
    (pairs(given) / "labels.csv").write_bytes(content)
    label = {"name": "table", "file": "labels.csv", "image": "image", "column": "label"}
    message = knock("table", what, tabulated(given, out, data={"label": label}), told)
    if told is None:
        labels = table_of(out)["label"]
        assert [labels[name] for name in NAMED] == ["malignant", "benign"] * 3
    else:
        assert "labels.csv" in message
        assert not out.exists()


@pytest.mark.parametrize("name", each(["missing.csv", "..", "a\0b", "x" * 300, "images"], "missing.csv"))
def test_a_table_that_is_none_is_refused(name: str, knock: Knock, given: Path, out: Path) -> None:
    label = {"name": "table", "file": name, "image": "image", "column": "label"}
    call = tabulated(pairs(given), out, data={"label": label})
    told = {"a\0b": "no CSV table", "..": "Put the file into the data folder"}.get(name, "not read")
    knock("table", f"named {name!a:.20}", call, told)


# -------------------------------------------------------------------------------------------------------- params.yaml

STAGES: dict[str, int] = {  # and how many paths each takes after the parameters
    name: len(inspect.signature(importlib.import_module(f"stages.{name}").main).parameters) - 1
    for name in ("download", "manifest", "prepare", "augment", "train", "evaluate", "report")
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
    "lists in lists": (b"data: " + b"[" * 1100 + b"]" * 1100, "not readable as YAML"),
    "a number of 5000 digits": (b"seed: " + b"9" * 5000, "not readable as YAML"),
    "a date that is none": (b"data: 2001-99-99", "not readable as YAML"),
    "half a character": (b'data: "\\ud800"', "not readable as YAML"),
    "bytes": (b"data: !!binary aGk=", "not readable as YAML"),
    "a key that is no text": (b"data: {1: 2}", "is no text; put it in quotes"),
    "null": (b"~", "must hold a mapping"),
}


@pytest.mark.parametrize(
    "what", each(TEXTS, "half", "another section", "an object of Python", "aliases of aliases", "half a character")
)
def test_a_parameter_file_that_is_none_stops_a_stage(what: str, knock: Knock, given: Path, out: Path) -> None:
    refuse(what, "manifest", knock, given, out)


@pytest.mark.parametrize("name", each(STAGES, "download", "report"))
def test_every_stage_refuses_a_parameter_file_that_lacks_a_section(
    name: str, knock: Knock, given: Path, out: Path
) -> None:
    refuse("another section", name, knock, given, out)


def refuse(what: str, name: str, knock: Knock, given: Path, out: Path) -> None:
    """A stage refuses one of `TEXTS` as its parameter file."""
    content, told = TEXTS[what]
    (given / "params.yaml").write_bytes(content)
    call = stage(name, given / "params.yaml", *(out / str(number) for number in range(STAGES[name])))
    assert str(given / "params.yaml") in knock(f"{name}: params.yaml", what, call, told)
    assert not out.exists()


# ------------------------------------------------------------------------------------------------------ model bundles


def no_code(folder: Path) -> None:
    """Weights that run code where they are read as a pickle."""
    (folder / WEIGHTS).write_bytes(pickle.dumps(Trap(folder.parent / "sprung")))


class Trap:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return Path.touch, (self.path,)


def layers(change: Callable[[dict[str, torch.Tensor]], object]) -> Bend:
    """What changes the weights of a bundle."""

    def bend(folder: Path) -> None:
        state = load_file(folder / WEIGHTS)
        change(state)
        save_file(state, folder / WEIGHTS)

    return bend


def written(name: str, content: bytes) -> Bend:
    return lambda folder: (folder / name).write_bytes(content)


def changed(name: str, change: Callable[[bytes], bytes]) -> Bend:
    return lambda folder: (folder / name).write_bytes(change((folder / name).read_bytes()))


def swapped(name: str, other: str) -> Bend:
    return lambda folder: shutil.copyfile(folder.parent / other / name, folder / name)


def described(old: str, new: str) -> Bend:
    return changed(DESCRIPTION, lambda content: content.replace(old.encode(), new.encode()))


def without(name: str, make: Callable[[Path], object] = lambda _: None) -> Bend:
    """Without a file, or with something else of its name."""

    def bend(folder: Path) -> None:
        (folder / name).unlink()
        make(folder / name)

    return bend


HEADER = b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
NO_WEIGHTS, NOT_THESE = "not readable as weights", "does not fit the network of model.yaml"
BUNDLES: dict[str, tuple[Bend, str]] = {
    "no weights": (without(WEIGHTS), NO_WEIGHTS),
    "weights: a folder": (without(WEIGHTS, Path.mkdir), "no plain file"),
    "weights: a pipe": (without(WEIGHTS, os.mkfifo), "no plain file"),
    "weights: nothing": (written(WEIGHTS, b""), NO_WEIGHTS),
    "weights: text": (written(WEIGHTS, b"weights"), NO_WEIGHTS),
    "weights: a pickle with code": (no_code, NO_WEIGHTS),
    "weights: PyTorch's own form": (lambda folder: torch.save({"a": torch.zeros(1)}, folder / WEIGHTS), NO_WEIGHTS),
    "weights: a header of 2^63 bytes": (written(WEIGHTS, b"\xff" * 7 + b"\x7f" + HEADER), NO_WEIGHTS),
    "weights: a header that is no JSON": (written(WEIGHTS, bytes([9]) + bytes(7) + b"{" * 9), NO_WEIGHTS),
    "weights: values that are not there": (
        written(WEIGHTS, bytes([len(HEADER)]) + bytes(7) + HEADER),
        NO_WEIGHTS,
    ),
    "weights: cut in the header": (changed(WEIGHTS, lambda content: content[:100]), NO_WEIGHTS),
    "weights: cut by half": (changed(WEIGHTS, lambda content: content[: len(content) // 2]), NO_WEIGHTS),
    "weights: cut by a byte": (changed(WEIGHTS, lambda content: content[:-1]), NO_WEIGHTS),
    "weights: a byte too many": (changed(WEIGHTS, lambda content: content + b"x"), NO_WEIGHTS),
    "weights: of a wider network": (swapped(WEIGHTS, "wider"), NOT_THESE),
    "weights: of three classes": (swapped(WEIGHTS, "classes"), NOT_THESE),
    "weights: a layer too few": (layers(lambda state: state.popitem()), NOT_THESE),
    "weights: a layer too many": (layers(lambda state: state.update(more=torch.zeros(1))), NOT_THESE),
    "weights: another shape": (layers(lambda state: state.update({first(state): torch.zeros(3)})), NOT_THESE),
    "weights: whole numbers": (
        layers(lambda state: state.update({first(state): state[first(state)].int()})),
        "holds torch.int32, torch.float32 in the network",
    ),
    "weights: NaN": (layers(lambda state: state[first(state)].fill_(float("nan"))), "NaN or infinity"),
    "weights: infinite": (layers(lambda state: state[first(state)].fill_(float("inf"))), "NaN or infinity"),
    "no description": (without(DESCRIPTION), "no such file"),
    "description: a folder": (without(DESCRIPTION, Path.mkdir), "no such file"),
    "description: a pipe": (without(DESCRIPTION, os.mkfifo), "no such file"),
    "description: nothing": (written(DESCRIPTION, b""), "must hold a mapping"),
    "description: no UTF-8": (written(DESCRIPTION, b"a: \xff"), "not readable as YAML"),
    "description: an object of Python": (written(DESCRIPTION, b"a: !!python/name:os.system"), "not readable as YAML"),
    "description: aliases of aliases": (
        written(DESCRIPTION, TEXTS["aliases of aliases"][0]),
        "more than 100000 values",
    ),
    "description: cut by half": (changed(DESCRIPTION, lambda content: content[: len(content) // 2]), "model.yaml"),
    "description: of a network alone": (swapped(DESCRIPTION, "network"), "describes a network alone"),
    "description: of a wider network": (swapped(DESCRIPTION, "wider"), NOT_THESE),
    "description: of three classes": (swapped(DESCRIPTION, "classes"), NOT_THESE),
    "description: threshold 4": (described("threshold: 0.5", "threshold: 4.0"), "threshold = 4.0"),
    "description: threshold NaN": (described("threshold: 0.5", "threshold: .nan"), "threshold = nan"),
    "description: an unknown network": (described("unet_plain", "unet_fancy"), "model.name = 'unet_fancy'"),
    "description: an unknown key": (described("overlap: 0.5", "overlap: 0.5\nmore: 1"), "more is no known key"),
    "description: a key too few": (described("overlap: 0.5", ""), "overlap is missing"),
    "description: three channels": (described("channels: 1\ntask", "channels: 3\ntask"), NOT_THESE),
    "description: no channels": (described("channels: 1\ntask", "channels: 0\ntask"), "channels = 0"),
    "description: a deviation of 0": (
        described("input_std:\n  - 0.5", "input_std:\n  - 0.0"),
        "greater than or equal to 0.001",
    ),
}


def first(state: dict[str, torch.Tensor]) -> str:
    """The name of the first layer of real numbers."""
    return next(name for name, tensor in sorted(state.items()) if tensor.is_floating_point())


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Model folders: model, that of a wider network, of one for three classes, and a network that is no segmenter."""
    root = tmp_path_factory.mktemp("bundles")
    torch.manual_seed(0)
    wider = PLAIN.model_copy(update={"init_features": 3})
    tiny.save_model(root / "model", build_model(PLAIN, 1, 1).eval(), tiny.segmenter(model=PLAIN))
    tiny.save_model(root / "wider", build_model(wider, 1, 1).eval(), tiny.segmenter(model=wider))
    lesions = tiny.segmenter(model=PLAIN, task=tiny.LESIONS)
    tiny.save_model(root / "classes", build_model(PLAIN, 1, 3).eval(), lesions)
    tiny.save_model(root / "network", build_model(PLAIN, 1, 1).eval(), tiny.description(model=PLAIN))
    return root


def with_model(door: str, model: Path, given: Path, out: Path) -> Call:
    """A command that opens a model, with all else as it should be."""
    model_options = ("--model", model, "--out", out)
    if door == "export":
        return invoke(app, "export", *model_options)
    if door == "evaluate":
        options = ("--images", "images/{name}.png", "--masks", "masks/{name}.png", "--accelerator", "cpu")
        return invoke(app, "evaluate", *model_options, "--data", given, *options)
    return invoke(app, "predict", given / "images", *model_options, "--accelerator", "cpu")


QUICK_BUNDLES = (
    *("weights: a pipe", "weights: a pickle with code", "weights: cut by a byte", "weights: of a wider network"),
    *("weights: NaN", "no description", "description: an object of Python", "description: threshold NaN"),
)


@pytest.mark.parametrize(
    ("what", "door"),
    [
        *(pytest.param(*case.values, "predict", marks=case.marks) for case in each(BUNDLES, *QUICK_BUNDLES)),
        *(("weights: a pickle with code", door) for door in ("evaluate", "export")),
        *(("description: of a network alone", door) for door in ("evaluate", "export")),
    ],
)
def test_a_bent_bundle_is_refused(what: str, door: str, knock: Knock, given: Path, out: Path, bundles: Path) -> None:
    bend, told = BUNDLES[what]
    for name in ("model", "wider", "classes", "network"):
        (given / name).mkdir()
        for part in (WEIGHTS, DESCRIPTION):
            shutil.copyfile(bundles / name / part, given / name / part)
    pairs(given, 1)
    bend(given / "model")
    message = knock(f"{door} --model", what, with_model(door, given / "model", given, out), told)
    assert str(given / "model") in message or "input_std" in message
    assert not out.exists()
    assert not (given / "sprung").exists()


@pytest.mark.parametrize(("name", "step"), [pytest.param(WEIGHTS, 1997, marks=pytest.mark.slow), (DESCRIPTION, 29)])
def test_a_bundle_cut_anywhere_is_refused_or_the_whole_one(
    name: str, step: int, knock: Knock, out: Path, bundles: Path
) -> None:
    shutil.copytree(bundles / "model", out)
    whole = (out / name).read_bytes()
    _, description = load_bundle(out, SegmenterDescription)

    def read_all() -> Outcome:
        told = ""
        for length in sorted({*range(0, len(whole), step), *range(len(whole) - 5, len(whole))}):
            (out / name).write_bytes(whole[:length])
            code, message = ask(load_bundle, out, SegmenterDescription)()
            if code == 0:
                assert name == DESCRIPTION
                assert load_bundle(out, SegmenterDescription)[1] == description
            else:
                assert str(out / name) in message
                told = message
        return 1, told

    knock("bundle", f"{name}, cut anywhere", read_all, str(out / name))


@pytest.fixture(scope="module")
def onnx_file(bundles: Path) -> bytes:
    """The model as ONNX."""
    export(bundles / "model", bundles / "model.onnx")
    return (bundles / "model.onnx").read_bytes()


def with_graph(change: Callable[[onnx.ModelProto], object]) -> Callable[[bytes], bytes]:
    def bend(content: bytes) -> bytes:
        model = onnx.load_from_string(content)
        change(model)
        return bytes(model.SerializeToString())

    return bend


def with_text(text: str) -> Callable[[bytes], bytes]:
    return with_graph(lambda model: onnx.helper.set_model_props(model, {DESCRIPTION_KEY: text}))


def fill_with_nan(model: onnx.ModelProto) -> None:
    for weights in model.graph.initializer:
        values = onnx.numpy_helper.to_array(weights)
        if values.dtype == np.float32 and values.ndim == 4:
            weights.CopyFrom(onnx.numpy_helper.from_array(values * np.float32("nan"), weights.name))


def rename_input(model: onnx.ModelProto) -> None:
    for place in (*model.graph.input, *model.graph.output):
        place.name = place.name + "2"
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = [name + "2" if name in ("pixels", "probabilities") else name for name in names]


def prepend(*nodes: onnx.NodeProto) -> Callable[[bytes], bytes]:
    """Nodes that nothing needs, in front: ONNX Runtime runs some when it opens the file."""

    def change(model: onnx.ModelProto) -> None:
        kept = list(model.graph.node)
        del model.graph.node[:]
        model.graph.node.extend([*nodes, *kept])

    return with_graph(change)


def constant(name: str, *values: int) -> onnx.NodeProto:
    return onnx.helper.make_node("Constant", [], [name], value=onnx.numpy_helper.from_array(np.array(values)))


def without_end() -> onnx.NodeProto:
    """A loop over nothing, as often as a number can say."""
    place = onnx.helper.make_tensor_value_info
    body = onnx.helper.make_graph(
        [onnx.helper.make_node("Identity", ["go"], ["go on"])],
        "body",
        [place("turn", onnx.TensorProto.INT64, []), place("go", onnx.TensorProto.BOOL, [])],
        [place("go on", onnx.TensorProto.BOOL, [])],
    )
    return onnx.helper.make_node("Loop", ["", ""], [], body=body)


def sparse() -> onnx.NodeProto:
    """A constant whose few values lie in another file."""
    values = onnx.numpy_helper.from_array(np.ones(1, np.float32), "values")
    onnx.external_data_helper.set_external_data(values, "/etc/hostname")
    values.ClearField("raw_data")
    places = onnx.helper.make_tensor("places", onnx.TensorProto.INT64, [1], [0])
    content = onnx.helper.make_sparse_tensor(values, places, [4])
    return onnx.helper.make_node("Constant", [], ["few"], sparse_value=content)


def lay_weights_elsewhere(model: onnx.ModelProto) -> None:
    weights = model.graph.initializer[0]
    onnx.external_data_helper.set_external_data(weights, "/etc/hostname")
    weights.ClearField("raw_data")


def add_set(model: onnx.ModelProto) -> None:
    model.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))


GRAPHS: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "a loop": (prepend(without_end()), "operators that no network here has: Loop"),
    "weights in another file": (with_graph(lay_weights_elsewhere), "its weights do not lie in the file"),
    "sparse weights": (prepend(sparse()), "it has sparse tensors"),
    "another set of operators": (with_graph(add_set), "operators beyond those of ONNX's own set 17"),
    "a custom operator": (
        prepend(onnx.helper.make_node("Relu", ["pixels"], ["other"], domain="own")),
        "operators that no network here has: Relu",
    ),
    "a constant that fills the memory": (
        prepend(constant("sides", 2**20, 2**20), onnx.helper.make_node("ConstantOfShape", ["sides"], ["huge"])),
        "the tensor huge would be larger",
    ),
    "a tensor that fills the memory": (
        prepend(constant("times", 1, 1, 2**20, 2**20), onnx.helper.make_node("Tile", ["pixels", "times"], ["much"])),
        "the tensor much would be larger",
    ),
    "nothing": (lambda _: b"", "not readable as ONNX"),
    "text": (lambda _: b"onnx", "not readable as ONNX"),
    "a pickle": (lambda _: pickle.dumps([1]), "not readable as ONNX"),
    "cut by half": (lambda content: content[: len(content) // 2], "not readable as ONNX"),
    "no description": (with_graph(lambda model: model.ClearField("metadata_props")), "holds no description"),
    "a description that is no JSON": (with_text("{"), "not readable as JSON"),
    "a description without end": (with_text("[" * 200_000), "not readable as JSON"),
    "a description that is none": (with_text("[]"), "model.yaml = []"),
    "a description of something else": (with_text('{"a": 1}'), "is missing"),
    "other names": (with_graph(rename_input), "is not the one of its description"),
    "NaN for weights": (with_graph(fill_with_nan), "the network gives values that are no numbers"),
}


@pytest.mark.parametrize("what", each(GRAPHS, "text", "no description", "NaN for weights"))
def test_a_bent_onnx_file_is_refused(what: str, knock: Knock, given: Path, out: Path, onnx_file: bytes) -> None:
    bend, told = GRAPHS[what]
    pairs(given, 1)
    (given / "model.onnx").write_bytes(bend(onnx_file))
    call = with_model("predict", given / "model.onnx", given, out)
    message = knock("predict --model", f"onnx: {what}", call, told)
    assert "model.onnx" in message or "p0.png" in message


@pytest.mark.parametrize("name", each(["missing", "x" * 300, "model/missing.onnx", "/dev/zero"], "missing"))
def test_a_model_that_is_none_is_refused(name: str, knock: Knock, given: Path, out: Path) -> None:
    call = with_model("predict", given / name, pairs(given, 1), out)
    knock("predict --model", f"named {name:.20}", call, "no such")


# ------------------------------------------------------------------------------------------------------ other stages

ROW_CHANGES: dict[str, tuple[Callable[[str], str], str]] = {
    "nothing": (lambda _: "", "not a manifest"),
    "a header alone": (lambda text: text.splitlines()[0] + "\n", ""),
    "cut in a row": (lambda text: text[: len(text) // 2], "not a manifest"),
    "a column too few": (lambda text: text.replace("phash", "hash", 1), "not a manifest"),
    "one row twice": (lambda text: text + text.splitlines()[1] + "\n", "not a manifest"),
    "another split": (lambda text: text.replace(",train,", ",training,", 1), "not a manifest"),
    "a height of 0": (lambda text: text.replace(",40,", ",0,", 1), "not a manifest"),
    "a height that is no number": (lambda text: text.replace(",40,", ",tall,", 1), "not a manifest"),
    "a height that is not the image's": (lambda text: text.replace(",40,", ",41,", 1), "differs in size"),
    "a region that is none": (lambda text: text.replace("0:0:", "a:b:", 1), "not a manifest"),
    "an image that is gone": (lambda text: text.replace("0.png", "9.png", 1), "no such file"),
    "no UTF-8": (lambda text: text.replace("lesion", "l\udcffsion"), "not a manifest"),
    "quotes that are not closed": (lambda text: text.replace("0.png", '"0.png', 1), "not a manifest"),
}


@pytest.mark.parametrize(
    "what", each(ROW_CHANGES, "nothing", "a column too few", "a height that is not the image's", "no UTF-8")
)
def test_a_bent_manifest_stops_the_next_stage(what: str, knock: Knock, given: Path, out: Path) -> None:
    bend, told = ROW_CHANGES[what]
    rows = [tiny.row(given, f"{n}.png", *tiny.square(n, 40, 50), label="lesion", split="train") for n in range(3)]
    rows += [tiny.row(given, "v.png", *tiny.square(7, 40, 50), label="lesion", split="val")]
    text = pd.DataFrame(rows).to_csv(index=False, lineterminator="\n")
    (given / "manifest.csv").write_text(bend(text), encoding="utf-8", errors="surrogateescape")
    outs = (out / "prepared", out / "samples.png")
    call = stage("prepare", parameters(given), given, given / "manifest.csv", *outs)
    assert knock("prepare: manifest.csv", what, call, told)
    assert not (out / "prepared").exists()


STORES: dict[str, tuple[Bend, str]] = {
    "no images": (without("images.npy"), "no complete packed arrays"),
    "images cut": (changed("images.npy", lambda content: content[:-1]), "no complete packed arrays"),
    "a header cut": (changed("images.npy", lambda content: content[:20]), "no complete packed arrays"),
    "a pickle": (lambda folder: np.save(folder / "images.npy", np.array([{}] * 4)), "no complete packed arrays"),
    "an npz archive": (
        lambda folder: (folder / "images.npy").write_bytes(bent.zipped({"a.npy": b""})),
        "no complete packed arrays",
    ),
    "floats": (lambda folder: np.save(folder / "images.npy", np.zeros((4, 32, 32, 1))), "not uint8 (N, H, W, C)"),
    "other sides": (
        lambda folder: np.save(folder / "masks.npy", np.zeros((4, 9, 9), np.uint8)),
        "not uint8 (N, H, W, C)",
    ),
    "one mask too few": (lambda folder: np.save(folder / "masks.npy", np.zeros((3, 32, 32), np.uint8)), "not uint8"),
    "a number": (lambda folder: np.save(folder / "images.npy", np.uint8(1)), "not uint8 (N, H, W, C)"),
    "no index": (without("index.csv"), "no complete packed arrays"),
    "an empty index": (written("index.csv", b""), "no complete packed arrays"),
    "a short index": (changed("index.csv", lambda content: content[: len(content) // 2]), "do not match"),
    "an index without labels": (
        changed("index.csv", lambda content: content.replace(b"label", b"x")),
        "lacks the columns",
    ),
    "no geometry": (without("about.yaml"), "no such file"),
    "a geometry that is none": (written("about.yaml", b"geometry: 1"), "geometry = 1"),
}


@pytest.mark.parametrize(
    ("what", "door"),
    [
        *(pytest.param(*case.values, "train", marks=case.marks) for case in each(STORES, "images cut", "a pickle")),
        *(pytest.param(what, "augment", marks=pytest.mark.slow) for what in ("no images", "floats", "no index")),
    ],
)
def test_bent_arrays_stop_the_next_stage(what: str, door: str, knock: Knock, given: Path, out: Path) -> None:
    bend, told = STORES[what]
    tiny.write_packed(given / "train", 4)
    tiny.write_packed(given / "val", 2)
    (given / "weights").mkdir()
    path = _written_yaml(given / "params.yaml", SECTIONS | {"augment": tiny.STILL | {"seed": 0, "factor": 2}})
    bend(given / "train")
    if door == "train":
        outs = (out / "network", out / "metrics", out / "train.json", out / "logs", out / "environment.json")
        call = stage("train", path, given / "train", given / "val", given / "weights", given / "overlap.csv", *outs)
    else:
        call = stage("augment", path, given / "train", out / "augmented", out / "sheet.png")
    assert str(given / "train") in knock(f"{door}: arrays", what, call, told)
    assert list(out.rglob("*")) == []


# -------------------------------------------------------------------------------------------------------- evaluate

STUDIES: dict[str, tuple[Bend, tuple[str, ...], str]] = {
    "nothing": (lambda folder: shutil.rmtree(folder / "images"), (), "no file matches"),
    "a mask too few": (lambda folder: (folder / "masks/p0.png").unlink(), (), "images/p0.png: has no mask"),
    "an image cut off": (changed("images/p0.png", lambda content: content[:50]), (), "not readable as an image"),
    "a mask of grades": (written("masks/p0.png", bent.masks()["grades"].content), (), "different values"),
    "a mask on its side": (written("masks/p0.png", bent.masks()["on its side"].content), (), "measures"),
    "a link that leads back": (lambda folder: (folder / "images/x").symlink_to(".."), (), "leads back"),
    "a name of two lines": (
        lambda folder: [(folder / part / "p0.png").rename(folder / part / "p\n0.png") for part in ("images", "masks")],
        (),
        "can't stand in the manifest",
    ),
    "no image left": (
        lambda folder: [(folder / f"images/p{n}.png").write_bytes(b"") for n in range(3)],
        ("--skip-bad",),
        "none of its 3 images can be used",
    ),
    "patterns that do not fit": (lambda _: None, ("--masks", "masks/{other}.png"), "'images' has no field other"),
    "a pattern without a field": (lambda _: None, ("--masks", "masks/a.png"), "'masks' names no field"),
    "a layout that is another": (lambda _: None, ("--layout", "busi"), "name --images and --masks"),
    "a label that is empty": (lambda _: None, ("--label", ""), "an argument is empty"),
}


@pytest.mark.parametrize("what", each(STUDIES, "an image cut off", "a link that leads back", "a label that is empty"))
def test_a_bent_study_is_refused(what: str, knock: Knock, given: Path, out: Path, bundles: Path) -> None:
    bend, options, told = STUDIES[what]
    bend(pairs(given, 3))
    patterns = {"--images": "images/{name}.png", "--masks": "masks/{name}.png"}
    others = [word for option in patterns.items() if option[0] not in options for word in option]
    command = invoke(app, "evaluate", "--model", bundles / "model", "--data", given, "--out", out, *others, *options)
    knock("evaluate --data", what, command, told)
    assert not out.exists()


@pytest.mark.parametrize(
    ("where", "told"), [("given", "holds something else than an evaluation"), ("given/images/p0.png", "no folder")]
)
def test_an_evaluation_never_replaces_what_it_did_not_write(
    where: str, told: str, knock: Knock, given: Path, tmp_path: Path, bundles: Path
) -> None:
    patterns = ("--images", "images/{name}.png", "--masks", "masks/{name}.png")
    command = ("evaluate", "--model", bundles / "model", "--data", pairs(given, 1), "--out", tmp_path / where)
    knock("evaluate --out", where, invoke(app, *command, *patterns), told)


# ------------------------------------------------------------------------------------------------------- downloads


def answer(status: int, body: bytes = b"", **headers: str) -> Callable[[BaseHTTPRequestHandler], None]:
    """A page of the server on this machine."""

    def respond(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(body)

    return respond


def babble(handler: BaseHTTPRequestHandler) -> None:
    handler.wfile.write(b"hello")


WHOLE = bent.zipped(bent.MEMBERS)
PAGES: dict[str, tuple[Callable[[BaseHTTPRequestHandler], None], str | None]] = {
    "whole": (answer(200, WHOLE, Content_Length=str(len(WHOLE))), None),
    "without a length": (answer(200, WHOLE), None),
    "not there": (answer(404), "404"),
    "an error of the server": (answer(500), "500"),
    "a redirect to a file": (answer(302, Location="file:///etc/passwd"), "No connection adapters"),
    "a redirect to FTP": (answer(302, Location="ftp://127.0.0.1/set.zip"), "No connection adapters"),
    "a redirect to itself": (answer(302, Location="/set.zip"), "redirects"),
    "a redirect to nowhere": (answer(302, Location="http://127.0.0.1:9/"), "Max retries exceeded"),
    "too few bytes": (answer(200, WHOLE[:-9], Content_Length=str(len(WHOLE))), "IncompleteRead"),
    "too short a length": (answer(200, WHOLE, Content_Length="50"), "not the file"),
    "a length that is no number": (answer(200, WHOLE, Content_Length="many"), None),
    "nothing": (answer(200, b"", Content_Length="0"), "not the file"),
    "a web page": (answer(200, b"<html>sign in</html>"), "perhaps a web page"),
    "bytes that do not unpack": (answer(200, WHOLE, Content_Encoding="gzip"), "gzip"),
    "no header at all": (babble, "hello"),
}


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


@pytest.mark.parametrize("what", each(PAGES, "whole", "too few bytes", "a web page", "a redirect to a file"))
def test_a_download_comes_whole_or_is_refused(
    what: str, knock: Knock, given: Path, out: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    page, told = PAGES[what]
    monkeypatch.setattr(archives, "ATTEMPTS", 1)
    server.pages["/set.zip"] = page
    url = server.url("/set.zip")
    data = {
        "name": "ucsb",
        "path": None,
        "archives": [{"file": "s.zip", "addresses": [{"url": url, "checksum": None}]}],
    }
    path = _written_yaml(given / "params.yaml", {"data": data, "machine": MACHINE})
    message = knock("download", what, stage("download", path, out / "raw"), told)
    if told is None:
        assert held(out / "raw") == bent.MEMBERS
    else:
        assert url in message
        assert not (out / "raw").exists()
        assert not any(found.is_file() for found in out.rglob("*"))


# ------------------------------------------------------------------------------------------ in processes of their own

RUN = "from medseg.cli import main; main()"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "arguments", "told"),
    [
        ("a bomb as image", ("predict", "bomb.png", "--model", "model", "--out", "out"), "more than 67108864"),
        ("weights that are a pickle", ("export", "--model", "trap", "--out", "out"), "not readable as weights"),
    ],
)
def test_a_process_ends_with_one_message(
    what: str,
    arguments: tuple[str, ...],
    told: str,
    given: Path,
    bundles: Path,
    project: Path,
    record_property: Callable[[str, object], None],
) -> None:
    shutil.copytree(bundles, given, dirs_exist_ok=True)
    shutil.copytree(given / "model", given / "trap")
    no_code(given / "trap")
    (given / "bomb.png").write_bytes(IMAGES["png, 9000x9000 of one colour"].content)
    environment = os.environ | {"PYTHONPATH": str(project / "src")}
    command = [sys.executable, "-c", RUN, *arguments]
    done = subprocess.run(command, cwd=given, env=environment, capture_output=True, text=True, timeout=100, check=False)
    record_property("door", (what, f"process: {arguments[0]}", done.stderr, done.returncode))
    assert done.returncode == 1
    assert told in done.stderr
    assert "error: " in done.stderr
    assert "Traceback" not in done.stderr
    assert not (given / "sprung").exists()
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 < MOST_MEMORY


# --------------------------------------------------------------------------------------------------------- no pickle

PICKLES = ("pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal")


def test_nothing_that_runs_code_is_read(project: Path) -> None:
    """No module for pickles is imported, no `torch.load` and no `allow_pickle` stands anywhere."""
    found = []
    for path in (file for folder in ("src", "stages", "benchmarks") for file in (project / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.Import(names=names):
                    unfit = any(alias.name.split(".")[0] in PICKLES for alias in names)
                case ast.ImportFrom(module=module):
                    unfit = str(module).split(".")[0] in PICKLES
                case ast.Call(func=ast.Attribute(value=ast.Name(id="torch"), attr="load"), keywords=keywords):
                    unfit = not any(
                        key.arg == "weights_only" and isinstance(key.value, ast.Constant) and key.value.value is True
                        for key in keywords
                    )
                case ast.Call(func=ast.Attribute(attr="read_pickle" | "load_from_checkpoint")):
                    unfit = True
                case ast.keyword(arg="allow_pickle", value=ast.Constant(value=True)):
                    unfit = True
                case _:
                    unfit = False
            if unfit:
                found.append(f"{path}:{getattr(node, 'lineno', 0)}")
    assert found == []
