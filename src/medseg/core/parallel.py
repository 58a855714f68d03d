"""Parallel work on many images: threads, processes of this machine, or a dask cluster. No result depends on which.

A cluster's workers must see the project's folder under the same path, as on a shared file system, and have the same
version of the project and of its packages. This is checked before any work, since a worker keeps the code that it
loaded first. Start `dask scheduler` on one machine and `dask worker tcp://HOST:8786` on each, with the extra
`medseg[cluster]` installed.
"""

import hashlib
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeVar

from joblib import Parallel, cpu_count, delayed, parallel_config
from pydantic import AfterValidator, Field
from tqdm import tqdm

from medseg.core.errors import UserError
from medseg.core.params import Section

if TYPE_CHECKING:
    from distributed import Client


Item = TypeVar("Item")
Result = TypeVar("Result")

_LOCAL = ("auto", "threading", "loky")
_ADDRESS = re.compile(r"(tcp|tls|ucx|ws|wss)://\S+:\d+")
_WORTH_PROCESSES = 10.0  # seconds of work: new processes take seconds to import what they need
TIMEOUT = 10  # seconds for a scheduler to answer and for its first worker
# Packages of which another version may give other bytes.
_COMPUTING = ("numpy", "opencv-python-headless", "pillow", "scipy", "patchify", "albumentations")


def _known_backend(value: str) -> str:
    if value not in _LOCAL and not _ADDRESS.fullmatch(value):
        raise ValueError(
            f"must be {', '.join(_LOCAL)}, or the address of a dask scheduler, such as tcp://10.0.0.1:8786"
        )
    return value


class MachineParams(Section):
    """The section `machine`: it changes speed, never bytes, so no stage lists it in `dvc.yaml`."""

    workers: int = Field(ge=0, le=1024)  # 0: one per core; a dask cluster uses all it has
    backend: Annotated[str, AfterValidator(_known_backend)]
    accelerator: Literal["auto", "cpu", "gpu"]


def worker_count(machine: MachineParams) -> int:
    """The number of workers; where `workers` is 0, that of the cores that this process may use."""
    return machine.workers or int(cpu_count())


def run_parallel(
    machine: MachineParams, function: Callable[[Item], Result], items: Iterable[Item], title: str
) -> list[Result]:
    """Call `function` on every item, on all workers; return the results in the order of the items.

    `title` names the progress bar. Function, items and results must be picklable, with absolute paths: workers may run
    in another folder. Exceptions of `function` are raised here. Raises `UserError` where a dask cluster is asked for
    and the package is missing, the scheduler does not answer, or its workers have other code than this process.
    """
    todo = list(items)
    return list(tqdm(_results(machine, function, todo), desc=title, total=len(todo), disable=None))


def _results(machine: MachineParams, function: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
    if machine.backend == "auto":
        return _tried_results(worker_count(machine), function, items)
    if machine.backend in _LOCAL:
        return _local_results(machine.backend, worker_count(machine), function, items)
    return _cluster_results(machine.backend, function, items)


def _tried_results(workers: int, function: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
    """Threads start at once but share the GIL: where the first items show long work, processes do the rest."""
    start = time.perf_counter()
    yield from _local_results("threading", workers, function, items[:workers])
    seconds = (time.perf_counter() - start) / workers * (len(items) - workers)
    backend = "loky" if seconds > _WORTH_PROCESSES and workers > 1 else "threading"
    yield from _local_results(backend, workers, function, items[workers:])


def _local_results(
    backend: str, workers: int, function: Callable[[Item], Result], items: Sequence[Item]
) -> Iterator[Result]:
    pool = Parallel(n_jobs=workers, backend=backend, return_as="generator")
    yield from pool(delayed(function)(item) for item in items)


def _cluster_results(address: str, function: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
    with _client(address) as client:
        _check_workers(client, address)
        with parallel_config(backend="dask", client=client):
            yield from Parallel(return_as="generator")(delayed(function)(item) for item in items)


@contextmanager
def _client(address: str) -> "Iterator[Client]":
    where = f"params.yaml: machine.backend = {address!r}"
    try:
        from distributed import Client
    except ImportError:
        raise UserError(f"{where}: a dask cluster needs the extra `cluster`: pip install 'medseg[cluster]'") from None
    try:
        client = Client(address, timeout=TIMEOUT, set_as_default=False)  # type: ignore[no-untyped-call]
    except (OSError, TimeoutError) as error:
        raise UserError(f"{where}: no dask scheduler answers there: {error}") from None
    with client:
        yield client


def _check_workers(client: "Client", address: str) -> None:
    """Raise `UserError` where a worker has loaded other code or packages, which could change bytes."""
    where = f"params.yaml: machine.backend = {address!r}"
    try:
        client.wait_for_workers(1, timeout=TIMEOUT)
        codes = client.run(code_digest)
    except TimeoutError:
        raise UserError(f"{where}: the scheduler has no worker; start some by `dask worker {address}`") from None
    except ImportError as error:
        raise UserError(f"{where}: its workers lack this project: {error}; install it where they run") from None
    others = sorted(worker for worker, code in codes.items() if code != code_digest())
    if others:
        raise UserError(
            f"{where}: other code or packages than here run on {', '.join(others)}; bring them to this project's "
            "state and start them anew"
        )


@cache
def code_digest() -> str:
    """SHA-256 of the project's modules, as they were at the first call, and of the versions of `_COMPUTING`."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parents[1].rglob("*.py")):
        digest.update(path.read_bytes())
    for name in _COMPUTING:
        digest.update(f"{name}=={version(name)}\n".encode())
    return digest.hexdigest()
