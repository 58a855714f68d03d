"""Distinct GPUs for runs at the same time, with a stand-in for `nvidia-smi`."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from medseg.core.errors import UserError
from medseg.core.gpu_locks import own_gpus

RUN = """
import os, sys
from medseg.core.gpu_locks import own_gpus
with own_gpus("auto", int(sys.argv[1])):
    print(os.environ["CUDA_VISIBLE_DEVICES"], flush=True)
    sys.stdin.read()
"""
TWO = "GPU 0: NVIDIA H200 (UUID: GPU-aaaa-1)\nGPU 1: NVIDIA H200 (UUID: GPU-bbbb-2)\n"
DIVIDED = """GPU 0: NVIDIA H200 (UUID: GPU-aaaa-1)
  MIG 1g.18gb     Device  0: (UUID: MIG-cccc-1)
  MIG 1g.18gb     Device  1: (UUID: MIG-dddd-2)
GPU 1: NVIDIA H200 (UUID: GPU-bbbb-2)
"""
Pretend = Callable[[str], None]


@pytest.fixture
def pretend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pretend:
    """In a DVC project of its own, let the machine have the GPUs of a listing."""
    for name in ("CUDA_VISIBLE_DEVICES", "DVC_ROOT", "LOCAL_RANK", "SLURM_NTASKS"):
        monkeypatch.delenv(name, raising=False)
    project, tools = tmp_path / "project", tmp_path / "tools"
    (project / ".dvc").mkdir(parents=True)
    tools.mkdir()
    monkeypatch.chdir(project)
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")

    def listing(text: str) -> None:
        (tools / "nvidia-smi").write_text(f"#!/bin/sh\ncat <<'END'\n{text}END\n")
        (tools / "nvidia-smi").chmod(0o755)

    return listing


@pytest.fixture
def start() -> Iterator[Callable[..., "subprocess.Popen[str]"]]:
    """Start runs that each keep their GPUs until their input ends."""
    started: list[subprocess.Popen[str]] = []

    def run(count: int = 1, cwd: Path | None = None, **environment: str) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [sys.executable, "-c", RUN, str(count)],
            cwd=cwd,
            env=os.environ | environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()


def said(process: "subprocess.Popen[str]") -> str:
    """The next line that a run prints; waits for it."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


def seen() -> str | None:
    return os.environ.get("CUDA_VISIBLE_DEVICES")


def test_each_run_has_a_gpu_of_its_own_and_the_third_waits(
    pretend: Pretend, start: Callable[..., "subprocess.Popen[str]"]
) -> None:
    pretend(TWO)
    first, second = start(), start()
    gpus = {said(first), said(second)}
    assert gpus == {"GPU-aaaa-1", "GPU-bbbb-2"}
    third = start()
    assert said(third) == "waiting for 1 of 2 GPUs to become free"
    time.sleep(1.5)
    assert third.poll() is None
    first.communicate("")
    assert said(third) in gpus


def test_a_run_that_is_killed_frees_its_gpu(pretend: Pretend, start: Callable[..., "subprocess.Popen[str]"]) -> None:
    pretend("GPU 0: NVIDIA H200 (UUID: GPU-aaaa-1)\n")
    first = start()
    assert said(first) == "GPU-aaaa-1"
    second = start()
    assert "waiting" in said(second)
    first.send_signal(signal.SIGKILL)
    assert said(second) == "GPU-aaaa-1"


def test_a_run_on_two_gpus_waits_until_both_are_free(
    pretend: Pretend, start: Callable[..., "subprocess.Popen[str]"]
) -> None:
    pretend(TWO)
    small = start()
    assert said(small) == "GPU-aaaa-1"
    large = start(2)
    assert said(large) == "waiting for 2 of 2 GPUs to become free"
    other = start()
    assert said(other) == "GPU-bbbb-2"  # who waits holds nothing
    small.communicate("")
    other.communicate("")
    assert said(large) == "GPU-aaaa-1,GPU-bbbb-2"


def test_a_run_of_the_queue_shares_the_main_checkouts_gpus(
    pretend: Pretend, start: Callable[..., "subprocess.Popen[str]"]
) -> None:
    pretend(TWO)
    workspace = Path.cwd() / ".dvc/tmp/exps/tmp1"
    (workspace / ".dvc").mkdir(parents=True)
    runs = [start(), start(cwd=workspace, DVC_ROOT=str(Path.cwd()))]
    assert {said(run) for run in runs} == {"GPU-aaaa-1", "GPU-bbbb-2"}


@pytest.mark.parametrize(
    ("allowed", "first", "both"),
    [
        ("1,0", "GPU-bbbb-2", "GPU-bbbb-2,GPU-aaaa-1"),
        ("GPU-bbbb,0", "GPU-bbbb-2", "GPU-bbbb-2,GPU-aaaa-1"),
    ],
)
def test_the_users_choice_limits_and_orders_it(
    pretend: Pretend, monkeypatch: pytest.MonkeyPatch, allowed: str, first: str, both: str
) -> None:
    pretend(TWO)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", allowed)
    with own_gpus("auto", 1):
        assert seen() == first
    with own_gpus("gpu", 2):
        assert seen() == both
    assert seen() == allowed


@pytest.mark.parametrize("allowed", ["1", "0,5,1", "0,0"])
def test_more_gpus_than_there_are_to_choose_from_are_told(
    pretend: Pretend, monkeypatch: pytest.MonkeyPatch, allowed: str
) -> None:
    pretend(TWO)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", allowed)
    with pytest.raises(UserError, match=r"train\.devices = 2"), own_gpus("auto", 2):
        pass


@pytest.mark.parametrize("allowed", ["", "-1"])
def test_a_user_who_hides_all_gpus_gets_none(pretend: Pretend, monkeypatch: pytest.MonkeyPatch, allowed: str) -> None:
    pretend(TWO)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", allowed)
    with own_gpus("auto", 1):
        assert seen() == allowed


def test_parts_of_a_partitioned_gpu_are_gpus(pretend: Pretend) -> None:
    pretend(DIVIDED)
    with own_gpus("auto", 3):
        assert seen() == "MIG-cccc-1,MIG-dddd-2,GPU-bbbb-2"


def test_nothing_is_left_behind(pretend: Pretend) -> None:
    pretend(TWO)
    for _ in range(3):
        with own_gpus("auto", 2):
            assert seen() == "GPU-aaaa-1,GPU-bbbb-2"
        assert seen() is None


@pytest.mark.parametrize(("name", "value"), [("LOCAL_RANK", "1"), ("SLURM_NTASKS", "2")])
def test_a_process_that_is_one_of_several_is_given_its_gpu_elsewhere(
    pretend: Pretend, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    pretend(TWO)
    monkeypatch.setenv(name, value)
    with own_gpus("auto", 1):
        assert seen() is None


def test_nothing_happens_without_a_gpu_or_with_the_cpu_chosen_or_outside_a_project(
    pretend: Pretend, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pretend("No devices were found\n")
    with own_gpus("gpu", 1):
        assert seen() is None
    pretend(TWO)
    with own_gpus("cpu", 1):
        assert seen() is None
    monkeypatch.chdir(tmp_path)
    with own_gpus("auto", 1):
        assert seen() is None
    assert not list(tmp_path.rglob("gpus"))
