"""What the machine at hand can do: workers and the accelerator. Nothing here may change a result's bytes."""

from collections.abc import Callable, Iterable
from typing import Literal, TypeVar

from joblib import Parallel, cpu_count, delayed
from pydantic import Field
from tqdm import tqdm

from medseg.params import Section

Item = TypeVar("Item")
Result = TypeVar("Result")


class MachineParams(Section):
    """The section `machine`: it changes speed alone, so no stage lists it in `dvc.yaml`."""

    workers: int = Field(ge=0, le=1024)  # 0: one per core
    backend: Literal["threading", "loky"]
    accelerator: Literal["auto", "cpu", "gpu"]


def worker_count(machine: MachineParams) -> int:
    """The number of workers to start: as many as cores that this process may use where `workers` is 0."""
    return machine.workers or int(cpu_count())


def run_parallel(
    machine: MachineParams, function: Callable[[Item], Result], items: Iterable[Item], title: str
) -> list[Result]:
    """Call `function` on every item, on all workers, and return the results in the order of the items."""
    items = list(items)
    pool = Parallel(n_jobs=worker_count(machine), backend=machine.backend, return_as="generator")
    results = pool(delayed(function)(item) for item in items)
    return list(tqdm(results, desc=title, total=len(items), disable=None))
