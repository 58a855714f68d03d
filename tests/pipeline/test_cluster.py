"""All data stages on a real dask cluster of two worker processes write the bytes that threads and processes write."""

import hashlib
import os
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny
import yaml

from medseg.core import parallel as machine
from medseg.core.errors import UserError
from medseg.core.parallel import MachineParams, run_parallel
from medseg.core.params import validate
from medseg.data.augment import AugmentParams, augment
from medseg.data.geometry import Patchify
from medseg.data.image import Image
from medseg.data.manifest import ManifestParams, measure
from medseg.data.prepare import prepare
from medseg.datasets.phantom import PhantomParams
from medseg.datasets.record import Record

distributed = pytest.importorskip("distributed", reason="the extra `cluster` is not installed")

SIZES = [(40, 60), (16, 16), (33, 50), (64, 64), (20, 90)]
PATCHES = Patchify(name="patchify", channels=1, patch=16, stride=8, border="pad")
PHANTOM = {"name": "phantom", "seed": 3, "benign": 2, "malignant": 2, "normal": 1, "width": [64, 96]}
Work = Callable[[MachineParams, Path], object]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    source = str(Path(machine.__file__).parents[1])
    with (
        distributed.LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            processes=True,
            dashboard_address="127.0.0.1:0",
            env={"PYTHONPATH": source},
        ) as cluster,
    ):
        yield cluster


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("raw")


@pytest.fixture(scope="module")
def images(raw: Path) -> list[Image]:
    """Images of several sizes under `raw`."""
    return [tiny.image(raw, f"{number}.png", *tiny.square(number, *size)) for number, size in enumerate(SIZES)]


def on(backend: str, workers: int = 2) -> MachineParams:
    return MachineParams(workers=workers, backend=backend, accelerator="cpu")


def digests(folder: Path) -> dict[str, str]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def assert_same_everywhere(work: Work, cluster: Any, folder: Path) -> None:
    """`work` writes below the folder that it is given, here by five kinds of workers."""
    ways = [on("threading", 1), on("threading", 3), on("loky"), on("auto"), on(cluster.scheduler_address)]
    found = []
    for number, way in enumerate(ways):
        work(way, folder / str(number))
        found.append(digests(folder / str(number)))
    assert len(found[0]) > 0
    assert all(other == found[0] for other in found[1:])


@pytest.mark.slow
@pytest.mark.parametrize("geometry", [tiny.resize(), PATCHES], ids=lambda geometry: str(geometry.name))
def test_prepare(images: list[Image], cluster: Any, tmp_path: Path, geometry: Any) -> None:
    assert_same_everywhere(lambda way, out: prepare(images, geometry, way, out), cluster, tmp_path)


@pytest.mark.slow
def test_augment(project: Path, cluster: Any, tmp_path: Path) -> None:
    tiny.write_packed(tmp_path / "train", 150)  # several tasks
    values = yaml.safe_load((project / "conf" / "augment" / "sevenfold.yaml").read_text())
    params = validate(values | {"factor": 3}, AugmentParams, "augment")
    assert_same_everywhere(lambda way, out: augment(tmp_path / "train", params, way, out), cluster, tmp_path / "out")


@pytest.mark.slow
def test_phantom(cluster: Any, tmp_path: Path) -> None:
    params = validate(PHANTOM | {"contrast": [8.0, 20.0], "looks": 2}, PhantomParams, "data")
    assert_same_everywhere(lambda way, out: params.fetch(out, way), cluster, tmp_path)


@pytest.mark.slow
def test_manifest(images: list[Image], raw: Path, cluster: Any, tmp_path: Path) -> None:
    """The faults too name the same paths, though workers are given absolute ones."""
    records = [Record(image.file, image.masks, "a") for image in images]
    records.append(Record("gone.png", ("no.png",), "a"))

    def work(way: MachineParams, out: Path) -> None:
        table, faults = measure(
            records, Path(os.path.relpath(raw)), ManifestParams(bad_files="skip", duplicate_distance=14), way
        )
        out.mkdir(parents=True)
        table.to_csv(out / "manifest.csv")
        (out / "faults.txt").write_text(str(faults))

    assert_same_everywhere(work, cluster, tmp_path)
    assert f"{os.path.relpath(raw)}/gone.png: no such file" in (tmp_path / "0" / "faults.txt").read_text()


@pytest.mark.slow
def test_work_is_done_elsewhere_and_in_order(cluster: Any) -> None:
    found = run_parallel(on(cluster.scheduler_address), process_of, range(40), "t")
    assert [number for number, _ in found] == list(range(40))
    assert os.getpid() not in {process for _, process in found}


def process_of(number: int) -> tuple[int, int]:
    return number, os.getpid()


@pytest.mark.slow
def test_a_mistake_in_a_worker_reaches_the_caller_as_it_was(cluster: Any, images: list[Image], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"^{tmp_path}/0\.png: no such file$"):
        prepare([images[0].at(tmp_path)], PATCHES, on(cluster.scheduler_address), tmp_path / "out")


@pytest.mark.slow
def test_workers_with_other_code_are_refused(cluster: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the code was edited after they started."""
    monkeypatch.setattr(machine, "code_digest", Digest())
    with pytest.raises(UserError, match=r"other code or packages than here run on tcp://.*, tcp://.*start them anew"):
        run_parallel(on(cluster.scheduler_address), process_of, range(3), "t")


class Digest:
    """On this machine one value, on another process another: pickled, it is the real function."""

    def __call__(self) -> str:
        return "the code as it is now"

    def __reduce__(self) -> str | tuple[Any, ...]:
        return getattr, (machine, "code_digest")


def test_a_scheduler_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "TIMEOUT", 1)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(UserError, match=rf"machine\.backend = '{address}': no dask scheduler answers there"):
        run_parallel(on(address), process_of, range(3), "t")


@pytest.mark.slow
def test_a_scheduler_without_workers_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "TIMEOUT", 1)
    with distributed.LocalCluster(n_workers=0, dashboard_address="127.0.0.1:0") as empty:
        address = empty.scheduler_address
        with pytest.raises(UserError, match=rf"no worker; start some by `dask worker {address}`"):
            run_parallel(on(address), process_of, range(3), "t")


def test_without_the_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(UserError, match=r"needs the extra `cluster`: pip install 'medseg\[cluster\]'"):
        run_parallel(on("tcp://127.0.0.1:8786"), process_of, range(3), "t")
