"""What it costs to compare the perceptual hashes of many images, all with all, and to confirm a pair.

The images are noise, so all pairs within the distance are there by chance.
Run in the project's root: `python -m benchmarks.duplicates`, some minutes on two cores; `--images` takes other numbers.
The table is printed, and all is written to benchmarks/results/duplicates.json.
"""

import argparse
import json
import time

import numpy as np

from benchmarks.measuring import RESULTS, machine, peak_anonymous
from medseg.core.markdown import table
from medseg.core.parallel import MachineParams
from medseg.data.duplicates import Candidates, confirmed, near_hashes
from medseg.data.thumbnails import SIDE

IMAGES = (10_000, 100_000)
DISTANCE = 14  # as in conf/manifest
CONFIRMED = 2000  # pairs
MACHINE = MachineParams(workers=0, backend="threading", accelerator="cpu")


def main() -> None:
    """Measure, print the table, write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=IMAGES)
    rows = [measured(count) for count in parser.parse_args().images]
    print(table(list(rows[0]), [[str(value) for value in row.values()] for row in rows]))
    content = {"rows": rows, "distance": DISTANCE, "machine": machine()}
    (RESULTS / "duplicates.json").write_text(json.dumps(content, indent=2) + "\n")


def measured(count: int) -> dict[str, float]:
    """Seconds of the clock and of the processor, and memory with the thumbnails, of comparing `count` images."""
    thumbnails = np.random.default_rng(0).integers(0, 256, (count, SIDE, SIDE), np.uint8)
    found: list[Candidates] = []
    wall, processor = time.perf_counter(), time.process_time()
    memory = peak_anonymous(lambda: found.append(near_hashes(thumbnails, DISTANCE, MACHINE)))
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    some = found[0].only(slice(None, None, max(1, len(found[0]) // CONFIRMED)))
    start = time.process_time()
    same = confirmed(thumbnails, some, MACHINE)
    each = (time.process_time() - start) / max(1, len(some))
    return {
        "images": count,
        "seconds": round(wall, 1),
        "processor seconds": round(processor, 1),
        "MiB": round(memory),
        "pairs within the distance": len(found[0]),
        "processor ms to confirm one": round(each * 1000, 2),
        "confirmed": int(same.sum()),
    }


if __name__ == "__main__":
    main()
