"""Every stage on a full disk, and stopped by Ctrl-C: it says so in a line, leaves no output, and ends right later."""

import errno
import importlib
import os
import re
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from clone import STAGES, TINY
from crash import LIVE, digest, outputs

from medseg.experiments.compose import compose

PROJECT = Path(__file__).parents[2]
COMMANDS: dict[str, Any] = yaml.safe_load((PROJECT / "dvc.yaml").read_text())["stages"]
CODE = ("src/medseg", "stages", "conf/lists")
SMALL = ["model.encoder=timm-mobilenetv3_small_minimal_100", "model.encoder_weights=none", "machine.workers=1"]
WAIT = 120.0  # seconds
QUICK = ("manifest", "evaluate")  # in `make test`; the others in `make test-all`
SOME_SLOW = [stage if stage in QUICK else pytest.param(stage, marks=pytest.mark.slow) for stage in STAGES]


def arguments(stage: str, inputs: Path, made: Path) -> list[Path]:
    """The arguments of a stage that reads from one folder and writes to another."""
    outs = outputs(COMMANDS[stage])
    words = shlex.split(COMMANDS[stage]["cmd"].replace("${name}", "default"))[4:]
    are_outs = [any(out == word or out.startswith(f"{word}/") for out in outs) for word in words]
    places = [
        PROJECT if word in CODE else made if is_out else inputs for word, is_out in zip(words, are_outs, strict=True)
    ]
    return [place / word for place, word in zip(places, words, strict=True)]


def run(stage: str, inputs: Path, made: Path) -> None:
    importlib.import_module(f"stages.{stage}").main(*arguments(stage, inputs, made))


def digests(stage: str, made: Path) -> dict[str, str | None]:
    """Hashes of a stage's outputs, but for those that grow while it runs, for people to watch."""
    return {out: digest(made / out) for out in outputs(COMMANDS[stage]) if out not in LIVE}


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which all stages ran undisturbed."""
    folder = tmp_path_factory.mktemp("whole")
    compose(PROJECT / "conf", folder / "params.yaml", [*TINY, *SMALL])
    (folder / "weights").mkdir()
    for stage in STAGES:
        run(stage, folder, folder)
    return folder


@pytest.fixture(autouse=True)
def state_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The state of training goes to a project of its own."""
    (tmp_path / "project/.dvc").mkdir(parents=True)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path / "project"))


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Let this process write no byte behind the first `size` of a file: a full disk, but for the error's number."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("stage", SOME_SLOW)
def test_a_stage_that_can_not_write_leaves_no_output_and_ends_right_when_it_can(
    whole: Path, tmp_path: Path, stage: str
) -> None:
    made, right = tmp_path / "made", digests(stage, whole)
    largest = max(
        path.stat().st_size
        for out in right
        for path in ([whole / out] if (whole / out).is_file() else files(whole / out))
    )
    with largest_file(largest // 2), pytest.raises(OSError, match="File too large") as caught:
        run(stage, whole, made)
    assert caught.value.errno == errno.EFBIG
    assert {out: found for out, found in digests(stage, made).items() if found not in (None, right[out])} == {}
    assert set(digests(stage, made).values()) != set(right.values())
    assert not list(made.rglob(".partial-*"))
    run(stage, whole, made)
    assert digests(stage, made) == right


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[None]:
    """Mount a file system in memory at `folder`; skip the test where this process may not."""
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/bin/mount").exists(), reason="there is no mount here")
def test_a_full_disk_is_one_message_and_more_room_is_all_that_it_takes(whole: Path, tmp_path: Path) -> None:
    disk, right = tmp_path / "disk", digests("train", whole)
    with small_disk(disk, "2m"):
        done = subprocess.run(
            command("train", whole, disk), env=environment(), capture_output=True, text=True, check=False
        )
        assert done.returncode == 1
        assert "No space left on device: check space" in done.stderr
        assert "Traceback" not in done.stderr
        assert not (disk / "models/network").exists()
        subprocess.run(["mount", "-o", "remount,size=100m", str(disk)], check=True)
        subprocess.run(command("train", whole, disk), env=environment(), capture_output=True, check=True)
        assert digests("train", disk) == right


@pytest.mark.slow
@pytest.mark.skipif(not Path("/bin/mount").exists(), reason="there is no mount here")
def test_a_folder_that_can_only_be_read_is_read_and_its_refusal_to_be_written_is_one_message(
    whole: Path, tmp_path: Path
) -> None:
    disk, made = tmp_path / "disk", tmp_path / "made"
    with small_disk(disk, "100m"):
        shutil.copytree(whole, disk, dirs_exist_ok=True)
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        for stage in ("manifest", "prepare"):
            run(stage, disk, made)
            assert digests(stage, made) == digests(stage, whole)
        done = subprocess.run(
            command("prepare", whole, disk), env=environment(), capture_output=True, text=True, check=False
        )
        assert done.returncode == 1
        assert re.fullmatch(
            rf"error: {disk}/.*: Read-only file system: check space and permissions there, .*\n", done.stderr
        )


def command(stage: str, inputs: Path, made: Path) -> list[str]:
    return [sys.executable, "-m", f"stages.{stage}", *map(str, arguments(stage, inputs, made))]


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": f"{PROJECT / 'src'}:{PROJECT}"}


def is_at_work(pid: int) -> bool:
    """Whether a stage's process has begun to read its parameters."""
    return "pydantic_core" in Path(f"/proc/{pid}/maps").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_ctrl_c_ends_a_stage_with_a_word_and_130(whole: Path, tmp_path: Path, stage: str) -> None:
    made = tmp_path / "made"
    with subprocess.Popen(
        command(stage, whole, made),
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
    ) as process:
        end = time.monotonic() + WAIT
        while process.poll() is None and not is_at_work(process.pid) and time.monotonic() < end:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=WAIT)
    assert (process.returncode, told) == (130, "interrupted\n")
    assert files(made) == []


@pytest.mark.slow
def test_ctrl_c_in_training_keeps_what_was_learnt(whole: Path, tmp_path: Path) -> None:
    made, right = tmp_path / "made", digests("train", whole)
    states = tmp_path / "project/.dvc/tmp/medseg/training"
    with subprocess.Popen(
        command("train", whole, made),
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        end = time.monotonic() + WAIT
        while process.poll() is None and not any(states.glob("*/*/epoch-*")) and time.monotonic() < end:
            time.sleep(0.001)
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=WAIT)
    assert process.returncode == 130
    assert told.endswith("interrupted\n")
    assert "Traceback" not in told
    again = subprocess.run(command("train", whole, made), env=environment(), capture_output=True, text=True, check=True)
    assert "resuming from epoch" in again.stdout
    assert digests("train", made) == right
    assert list(states.iterdir()) == []
