"""DVC's queue of experiments: adding, starting workers, waiting, and why one failed.

What the queue holds is read through DVC's own objects (3.67), which are not public; adding and starting are commands,
shown so that they can be typed. To be called in the project's root.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from dvc.repo import Repo

from medseg.core.errors import UserError
from medseg.experiments.commands import show_and_run

POLL_SECONDS = 5  # between two looks at the queue
LONELY_POLLS = 6  # in a row without a worker before the queue counts as dead: a busy machine's workers answer late
LOG_LINES = 25


@dataclass(frozen=True)
class Task:
    """An experiment in the queue; `rev`, the commit of what was queued, tells it from earlier ones with its name."""

    rev: str
    name: str
    status: str  # Queued | Running | Success | Failed

    @property
    def ended(self) -> bool:
        """Whether it will not change any more."""
        return self.status in ("Success", "Failed")


@dataclass(frozen=True)
class State:
    """The queue at one moment."""

    tasks: frozenset[Task]
    workers: int  # that answered
    alive: frozenset[str]  # `rev` of tasks whose process exists, with a worker or without


def add(name: str, overrides: Sequence[str]) -> None:
    """Queue the experiment `name` of conf/experiment/ under its own name, with `overrides` on top of it."""
    choices = [word for override in (f"experiment={name}", *overrides) for word in ("-S", override)]
    show_and_run("dvc", "exp", "run", "--queue", "-n", name, *choices)


def start(jobs: int) -> None:
    """Let `jobs` workers take experiments from the queue, each as soon as it is free; they end with the queue."""
    show_and_run("dvc", "queue", "start", "-j", str(jobs))


def read() -> State:
    """Look at the queue; takes about a second, in which workers may answer."""
    with Repo() as repo:
        queue = repo.experiments.celery_queue
        tasks = frozenset(Task(found["rev"], found["name"] or "", found["status"]) for found in queue.status())
        processes = {task.rev: queue.proc.get(task.rev) for task in tasks if task.status == "Running"}
        alive = {rev for rev, process in processes.items() if process and Path("/proc", str(process.pid)).exists()}
        return State(tasks, len(queue.worker_status()), frozenset(alive))


def wait(names: Sequence[str], earlier: State, jobs: int) -> Iterator[Task]:
    """Give the task of each experiment in `names` when it has ended; tasks of `earlier` are older ones.

    DVC's workers leave a queue that seems empty to them, and on a busy machine one with tasks can: then `jobs` new ones
    are started. Raises `UserError` where they leave again without having taken a task, or a task's process has died.
    """
    old, waiting, lonely, left_behind = {task.rev for task in earlier.tasks}, set(names), 0, set[Task]()
    while waiting:
        time.sleep(POLL_SECONDS)
        state = read()
        ours = {task for task in state.tasks if task.name in waiting and task.rev not in old}
        for task in sorted((task for task in ours if task.ended), key=lambda task: task.name):
            waiting.remove(task.name)
            yield task
        lonely = 0 if state.workers else lonely + 1
        if waiting and lonely >= LONELY_POLLS:
            queued = {task for task in ours if task.status == "Queued"}
            if queued and queued != left_behind:
                start(jobs)
                lonely, left_behind = 0, queued
            elif not any(task.rev in state.alive for task in ours):
                raise UserError(f"the queue has no worker left, and these did not end: {', '.join(sorted(waiting))}")


def log_tail(task: Task) -> str:
    """The last lines that an ended task printed."""
    with Repo() as repo:
        process = repo.experiments.celery_queue.proc.get(task.rev)
    if process is None or not process.stdout or not Path(process.stdout).exists():
        return "it printed nothing; the workers' logs are .dvc/tmp/exps/celery/*.out"
    lines = Path(process.stdout).read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return "\n".join(lines[-LOG_LINES:])
