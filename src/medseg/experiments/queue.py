"""Experiments by their names, through DVC: queueing and watching them, their networks and their records.

DVC and git run as commands in the project's root, so that all of this can be typed by hand, too.
"""

import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medseg.core.errors import UserError

WEIGHTS = Path("weights")
POLL_SECONDS = 10  # at least, between two looks at the queue
POLL_SHARE = 4  # how many times as long as a look takes to wait for the next: it costs seconds of a core
LONELY_POLLS = 6  # in a row without a worker before the queue counts as dead: a busy machine's workers answer late
LOG_LINES = 25
TASK = re.compile(r"^([0-9a-f]{7})\s+(\S+)\s.*\s(Queued|Running|Success|Failed)\s*$", re.MULTILINE)


@dataclass(frozen=True)
class Task:
    """An experiment in DVC's queue; `rev` tells it from earlier ones with its name."""

    rev: str
    name: str
    status: str  # Queued | Running | Success | Failed

    @property
    def ended(self) -> bool:
        """Whether it will not change any more."""
        return self.status in ("Success", "Failed")


def find_revision(name: str) -> str | None:
    """The commit of the finished experiment `name`, the newest where several have the name; None without one."""
    commits = run("git", "for-each-ref", "--sort=-committerdate", "--format=%(objectname)", f"refs/exps/??/*/{name}")
    return commits.split()[0] if commits else None


def find_record(name: str) -> dict[str, Any] | None:
    """The record of a run, as `run_record.run_record` makes it, of the finished experiment `name`; None without one.

    Raises `UserError` where the experiment holds no record.
    """
    revision = find_revision(name)
    if revision is None:
        return None
    record: dict[str, Any] = json.loads(run("git", "show", f"{revision}:metrics/runs/{name}.json"))
    return record


def enqueue(name: str, overrides: Sequence[str]) -> None:
    """Queue the experiment `name` of conf/experiment/ under its own name, with `overrides` on top of it."""
    choices = [word for override in (f"experiment={name}", *overrides) for word in ("-S", override)]
    show_and_run("dvc", "exp", "run", "--queue", "-n", name, *choices)


def start_queue(jobs: int) -> None:
    """Let `jobs` workers take experiments from the queue, each as soon as it is free; they end with the queue."""
    show_and_run("dvc", "queue", "start", "-j", str(jobs))


def read_queue() -> list[Task]:
    """What the queue holds: waiting, running and ended."""
    return [Task(*found) for found in TASK.findall(run("dvc", "queue", "status"))]


def watch(names: Sequence[str], earlier: Sequence[Task], jobs: int) -> Iterator[Task]:
    """Give the task of each experiment in `names` when it has ended; `earlier` tasks are others' or older ones'.

    DVC's workers leave a queue that seems empty to them, and on a busy machine one with tasks can: then `jobs` new ones
    are started. Raises `UserError` where they leave again without having taken a task, or a task has died.
    """
    old, waiting, lonely, left_behind, took = {task.rev for task in earlier}, set(names), 0, set[Task](), 0.0
    while waiting:
        time.sleep(max(POLL_SECONDS, POLL_SHARE * took))
        start = time.monotonic()
        status = run("dvc", "queue", "status")
        took = time.monotonic() - start
        ours = {
            task for found in TASK.findall(status) if (task := Task(*found)).name in waiting and task.rev not in old
        }
        for task in sorted((task for task in ours if task.ended), key=lambda task: task.name):
            waiting.remove(task.name)
            yield task
        lonely = lonely + 1 if "Worker status: 0 active, 0 idle" in status else 0
        if waiting and lonely >= LONELY_POLLS:
            queued = {task for task in ours if task.status == "Queued"}
            if queued and queued != left_behind:
                start_queue(jobs)
                lonely, left_behind = 0, queued
            elif not any(_is_alive(task) for task in ours):
                raise UserError(f"the queue has no worker left, and these did not end: {', '.join(sorted(waiting))}")


def _is_alive(task: Task) -> bool:
    """Whether the process of a task runs, as the file tells that DVC keeps to kill it by."""
    files = Path(".dvc/tmp/exps/run").glob(f"{task.rev}*/*.pid")
    return any(Path("/proc", file.read_text().strip()).exists() for file in files)


def log_tail(task: Task) -> str:
    """The last lines of what a task printed, or DVC's words where it printed nothing."""
    done = attempt("dvc", "queue", "logs", task.rev)
    return "\n".join(done.stdout.strip().splitlines()[-LOG_LINES:])


def has_network(name: str) -> bool:
    """Whether an initial network `name` lies in `weights/`, or DVC can bring it there."""
    return any(path.exists() for path in _placed(name))


def bring_network(name: str) -> None:
    """Place the network that the experiment `name` trained in `weights/NAME`, unless something lies there already.

    DVC tracks it there, and git what DVC wrote: a queued experiment sees nothing else.
    """
    folder, pointer = _placed(name)
    if has_network(name):
        print(f"{folder} is there already: taken as it is", flush=True)
    else:
        show_and_run("dvc", "get", ".", "models/network", "--rev", name, "-o", str(folder))
    if not pointer.exists():
        show_and_run("dvc", "add", str(folder))
    show_and_run("git", "add", str(pointer), str(WEIGHTS / ".gitignore"))


def draw_plots(names: Sequence[str], folder: Path) -> Path:
    """Draw the curves of experiments into one another and return the page."""
    folder.mkdir(parents=True, exist_ok=True)  # DVC makes it for images, but not for curves alone
    show_and_run("dvc", "plots", "diff", *names, "-o", str(folder))
    return folder / "index.html"


def show_and_run(*command: str) -> None:
    """Print a command as it can be typed, and run it. Raises `UserError` with what it printed where it fails."""
    print(f"$ {shlex.join(command)}", flush=True)
    run(*command)


def run(*command: str) -> str:
    """Run a command and return what it printed. Raises `UserError` with that where it fails."""
    done = attempt(*command)
    if done.returncode:
        raise UserError(f"{shlex.join(command)} failed:\n{done.stdout.strip()}")
    return done.stdout


def attempt(*command: str) -> subprocess.CompletedProcess[str]:
    """Run a command, whatever becomes of it, with its two outputs as one; `dvc` is this interpreter's."""
    words = [sys.executable, "-m", "dvc", *command[1:]] if command[0] == "dvc" else list(command)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # the queue's workers call dvc and python
    with tempfile.TemporaryFile("w+", encoding="utf-8") as printed:  # a pipe would stay open with the queue's workers
        environment = os.environ | {"PATH": path}
        done = subprocess.run(
            words, env=environment, stdin=subprocess.DEVNULL, stdout=printed, stderr=subprocess.STDOUT, check=False
        )
        printed.seek(0)
        return subprocess.CompletedProcess(words, done.returncode, printed.read())


def _placed(name: str) -> tuple[Path, Path]:
    """The folder of an initial network and the file by which DVC knows it."""
    return WEIGHTS / name, WEIGHTS / f"{name}.dvc"
