import threading
import time
from typing import Any

import pytest

from medseg.core.errors import UserError
from medseg.core.parallel import MachineParams, run_parallel, worker_count
from medseg.core.params import validate


def machine(**values: Any) -> MachineParams:
    checked: MachineParams = validate(
        {"workers": 2, "backend": "threading", "accelerator": "cpu", **values}, MachineParams, "machine"
    )
    return checked


def square(number: int) -> int:
    return number * number


def refuse(number: int) -> int:
    if number == 3:
        raise UserError("number 3 can't be used")
    return number


def slow_first(number: int) -> int:
    time.sleep(0.05 if number == 0 else 0)
    return number


@pytest.mark.parametrize(("backend", "workers"), [("auto", 0), ("threading", 1), ("threading", 2), ("loky", 2)])
def test_results_come_in_the_order_of_the_items(backend: str, workers: int) -> None:
    assert run_parallel(machine(backend=backend, workers=workers), square, range(20), "t") == [n * n for n in range(20)]


def test_a_slow_item_keeps_its_place() -> None:
    assert run_parallel(machine(workers=4), slow_first, iter(range(12)), "t") == list(range(12))


def test_nothing_to_do_is_done() -> None:
    assert run_parallel(machine(), square, [], "t") == []


@pytest.mark.parametrize("backend", ["threading", "loky"])
def test_a_mistake_in_a_worker_reaches_the_caller_as_it_was(backend: str) -> None:
    with pytest.raises(UserError, match=r"^number 3 can't be used$"):
        run_parallel(machine(backend=backend), refuse, range(6), "t")


def test_as_many_threads_work_as_were_asked_for() -> None:
    barrier = threading.Barrier(3, timeout=20)  # passes only where three items are at work at once
    run_parallel(machine(workers=3), lambda _: barrier.wait(), range(3), "t")


def test_zero_workers_mean_all_cores() -> None:
    assert worker_count(machine(workers=0)) >= 1
    assert worker_count(machine(workers=7)) == 7


@pytest.mark.parametrize(
    ("key", "value"), [("workers", -1), ("backend", "dask"), ("backend", "tcp://"), ("accelerator", "tpu")]
)
def test_unknown_values_are_refused(key: str, value: object) -> None:
    with pytest.raises(UserError, match=f"^machine.{key} = "):
        machine(**{key: value})


def test_no_bar_is_drawn_where_no_one_looks(capsys: pytest.CaptureFixture[str]) -> None:
    run_parallel(machine(), square, range(3), "title")
    assert capsys.readouterr() == ("", "")
