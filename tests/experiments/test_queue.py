"""Watching DVC's queue: what is done when its workers leave. The queue itself runs in test_end_to_end.py."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from medseg.core.errors import UserError
from medseg.experiments import queue as experiments
from medseg.experiments.queue import LONELY_POLLS, Task, watch

NOBODY, SOMEBODY = "Worker status: 0 active, 0 idle", "Worker status: 1 active, 0 idle"


class Queue:
    """Answers `dvc queue status` with one text after the other, the last for ever, and counts new workers."""

    def __init__(self, *answers: str) -> None:
        self.answers = list(answers)
        self.started: list[int] = []

    def run(self, *command: str) -> str:
        assert command == ("dvc", "queue", "status")
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


def status(workers: str, **tasks: str) -> str:
    rows = [f"{number:07x}  {name}  04:30 PM  {state}" for number, (name, state) in enumerate(tasks.items())]
    return "\n".join(["Task     Name    Created    Status", *rows, "", workers])


@pytest.fixture
def queue(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Queue:
    queue = Queue()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(experiments, "POLL_SECONDS", 0)
    monkeypatch.setattr(experiments, "run", queue.run)
    monkeypatch.setattr(experiments, "start_queue", queue.started.append)
    return queue


def ended(names: list[str]) -> list[tuple[str, str]]:
    return [(task.name, task.status) for task in watch(names, [], 2)]


def write_process(task: str, process: int) -> None:
    folder = Path(f".dvc/tmp/exps/run/{task}0123456789")
    folder.mkdir(parents=True)
    (folder / f"{task}0123456789.pid").write_text(str(process))


def test_tasks_are_given_as_they_end_and_those_of_others_are_not(queue: Queue) -> None:
    queue.answers = [
        status(SOMEBODY, a="Running", b="Queued", other="Success"),
        status(SOMEBODY, a="Success", b="Running", other="Success"),
        status(SOMEBODY, a="Success", b="Failed", other="Success"),
    ]
    assert ended(["a", "b"]) == [("a", "Success"), ("b", "Failed")]
    assert queue.started == []


def test_an_earlier_task_of_the_same_name_is_not_taken_for_the_new_one(queue: Queue) -> None:
    queue.answers = [
        "0000000  a  01:00 PM  Failed\n1111111  a  04:30 PM  Running\n" + SOMEBODY,
        "0000000  a  01:00 PM  Failed\n1111111  a  04:30 PM  Success\n" + SOMEBODY,
    ]
    assert [task.rev for task in watch(["a"], [Task("0000000", "a", "Failed")], 1)] == ["1111111"]


def test_workers_that_leave_tasks_behind_are_replaced(queue: Queue) -> None:
    left = [status(NOBODY, a="Success", b="Queued")] * LONELY_POLLS
    queue.answers = [*left, status(SOMEBODY, a="Success", b="Running"), status(NOBODY, a="Success", b="Success")]
    assert ended(["a", "b"]) == [("a", "Success"), ("b", "Success")]
    assert queue.started == [2]


def test_workers_that_take_nothing_are_not_replaced_for_ever(queue: Queue) -> None:
    queue.answers = [status(NOBODY, a="Queued")]
    with pytest.raises(UserError, match=r"no worker left, and these did not end: a$"):
        ended(["a"])
    assert queue.started == [2]


def test_a_task_whose_worker_left_may_end(queue: Queue) -> None:
    write_process("0000000", os.getpid())
    queue.answers = [*[status(NOBODY, a="Running")] * (3 * LONELY_POLLS), status(NOBODY, a="Success")]
    assert ended(["a"]) == [("a", "Success")]
    assert queue.started == []


def test_a_task_that_died_with_its_worker_is_named(queue: Queue) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    write_process("0000000", gone.pid)
    queue.answers = [status(NOBODY, a="Running")]
    with pytest.raises(UserError, match=r"did not end: a$"):
        ended(["a"])
