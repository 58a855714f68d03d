"""Bad input at every door: refused by name or read right, in words, quickly, and with nothing written elsewhere.

Every case goes through a command or a stage as typed, or through the function behind it. `knock` asserts what holds
for all of them; what each case must bring, its test does. `conftest.py` prints the table of all cases at the end.
"""

import importlib
import json
import os
import resource
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
    assert len(accepted) <= 20  # what follows the pixels alone, such as the last chunk of a PNG file


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
