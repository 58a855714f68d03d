"""Waiting for DVC's queue: what is done when its workers leave. The queue itself runs in test_series.py."""

import pytest

from medseg.core.errors import UserError
from medseg.experiments import queue as module
from medseg.experiments.queue import LONELY_POLLS, State, Task, wait

NOTHING = State(frozenset(), 0, frozenset())


class Queue:
    """Answers `read` with one state after the other, the last for ever, and counts new workers."""

    def __init__(self) -> None:
        self.states: list[State] = []
        self.started: list[int] = []

    def read(self) -> State:
        return self.states.pop(0) if len(self.states) > 1 else self.states[0]


def state(workers: int, alive: str = "", **tasks: str) -> State:
    queued = frozenset(Task(f"rev-{name}", name, status) for name, status in tasks.items())
    return State(queued, workers, frozenset(alive.split()))


@pytest.fixture
def queue(monkeypatch: pytest.MonkeyPatch) -> Queue:
    queue = Queue()
    monkeypatch.setattr(module, "POLL_SECONDS", 0)
    monkeypatch.setattr(module, "read", queue.read)
    monkeypatch.setattr(module, "start", queue.started.append)
    return queue


def ended(*names: str) -> list[tuple[str, str]]:
    return [(task.name, task.status) for task in wait(names, NOTHING, 2)]


def test_tasks_are_given_as_they_end_and_those_of_others_are_not(queue: Queue) -> None:
    queue.states = [
        state(1, a="Running", b="Queued", other="Success"),
        state(1, a="Success", b="Running", other="Success"),
        state(1, a="Success", b="Failed", other="Success"),
    ]
    assert ended("a", "b") == [("a", "Success"), ("b", "Failed")]
    assert queue.started == []


def test_an_earlier_task_of_the_same_name_is_not_taken_for_the_new_one(queue: Queue) -> None:
    old, new = Task("0", "a", "Failed"), Task("1", "a", "Running")
    queue.states = [
        State(frozenset({old, new}), 1, frozenset()),
        State(frozenset({old, Task("1", "a", "Success")}), 1, frozenset()),
    ]
    assert [task.rev for task in wait(["a"], State(frozenset({old}), 0, frozenset()), 1)] == ["1"]


def test_workers_that_leave_tasks_behind_are_replaced(queue: Queue) -> None:
    left = [state(0, a="Success", b="Queued")] * LONELY_POLLS
    queue.states = [*left, state(1, a="Success", b="Running"), state(0, a="Success", b="Success")]
    assert ended("a", "b") == [("a", "Success"), ("b", "Success")]
    assert queue.started == [2]


def test_workers_that_take_nothing_are_not_replaced_for_ever(queue: Queue) -> None:
    queue.states = [state(0, a="Queued")]
    with pytest.raises(UserError, match=r"no worker left, and these did not end: a$"):
        ended("a")
    assert queue.started == [2]


def test_a_task_whose_worker_left_may_end(queue: Queue) -> None:
    queue.states = [*[state(0, alive="rev-a", a="Running")] * (3 * LONELY_POLLS), state(0, a="Success")]
    assert ended("a") == [("a", "Success")]
    assert queue.started == []


def test_a_task_that_died_with_its_worker_is_named(queue: Queue) -> None:
    queue.states = [state(0, a="Running")]
    with pytest.raises(UserError, match=r"did not end: a$"):
        ended("a")
