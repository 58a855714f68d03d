"""What the benchmarks share: timing two sides in turn, the machine in words, a table that is printed and written."""

import json
import os
import platform
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from medseg.core.markdown import table as table_text

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Row:
    """One comparison: how many times as fast as the baseline, and at least how many were wanted.

    `unit` is what both sides are measured in; of MiB, too, less is better.
    """

    what: str
    ours: float  # median
    baseline: float  # median
    ratio: float  # baseline / ours: the median of the rounds' own
    limit: float  # at least
    unit: str = "s"


def seconds(work: Callable[[], object]) -> float:
    """How long one call takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def row(what: str, rounds: Sequence[tuple[float, float]], limit: float, unit: str = "s") -> Row:
    """A row of several rounds: in each, the values of both sides, ours first, that ran one after the other."""
    ours, baseline = (statistics.median(side) for side in zip(*rounds, strict=True))
    ratio = statistics.median(theirs / mine for mine, theirs in rounds)
    return Row(what, round(ours, 4), round(baseline, 4), round(ratio, 3), limit, unit)


def report(name: str, rows: list[Row], facts: dict[str, object]) -> None:
    """Print the table and write it, with `facts` and the machine's description, to benchmarks/results/NAME.json."""
    columns = ["what", "ours", "baseline", "ratio", "limit"]
    cells = [
        [r.what, f"{r.ours:.3f} {r.unit}", f"{r.baseline:.3f} {r.unit}", f"{r.ratio:.2f}", f">= {r.limit:.2f}"]
        for r in rows
    ]
    print(table_text(columns, cells))
    for fact, value in facts.items():
        print(f"{fact}: {value}")
    content = {"rows": [asdict(r) for r in rows], "facts": facts, "machine": machine()}
    (RESULTS / f"{name}.json").write_text(json.dumps(content, indent=2) + "\n")


def peak_anonymous(work: Callable[[], object], own: bool = True) -> float:
    """MiB of anonymous memory (RssAnon) at its largest while `work` runs, looked at every 50 ms.

    That of all child processes together, and where `own` of this process.
    """
    done, seen = threading.Event(), [_anonymous_together(own)]

    def watch() -> None:
        while not done.wait(0.05):
            seen.append(_anonymous_together(own))

    watcher = threading.Thread(target=watch)
    watcher.start()
    work()
    done.set()
    watcher.join()
    return max(seen)


def _anonymous_together(own: bool) -> float:
    this = psutil.Process()
    processes = [*([this] if own else []), *this.children(recursive=True)]
    return sum(_anonymous(process.pid) for process in processes) / 1024


def _anonymous(process: int) -> int:
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:  # it has ended
        return 0
    return sum(int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon"))


def machine() -> dict[str, object]:
    """What a number was measured on; the load tells how much else ran there."""
    names = [
        line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "name" in line
    ]
    return {
        "processor": names[0] if names else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "system": platform.release(),
        "load": [round(load, 1) for load in os.getloadavg()],
        "packages": {name: version(name) for name in ("numpy", "opencv-python-headless", "albumentations", "dvc")},
    }
