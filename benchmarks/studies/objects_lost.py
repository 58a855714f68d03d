"""How many annotated objects leave no pixel in the samples, by data set and size of the samples.

Run in the project's root, some two minutes: `python -m benchmarks.studies.objects_lost DATA`, where DATA holds the
folders of `SETS`. Prints the table of docs/explanation/pipeline.md and writes results/objects_lost.json.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from medseg.data.geometry import Resize
from medseg.data.mask_io import read_mask
from medseg.data.prepare import count_objects_lost
from medseg.datasets import LAYOUTS
from medseg.datasets.record import Record, Region

SETS = {"busi": "busi", "isic2017": "isic2017", "cryonuseg": "cryonuseg", "ucsb": "ucsb"}  # layout, folder
SIDES = (64, 96, 128, 256, 512)  # of square samples, pixels


def main() -> None:
    """Print the table and write the numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder of the data sets")
    root = parser.parse_args().data
    found = {name: lost_of(name, root / folder) for name, folder in SETS.items()}
    print(f"| data | images with objects | objects | {' | '.join(f'{side}x{side}' for side in SIDES)} |")
    print("|---|---:|---:|" + "---:|" * len(SIDES))
    for name, numbers in found.items():
        cells = [f"{lost} ({emptied})" for lost, emptied in numbers["lost"].values()]
        print(f"| {name} | {numbers['images']} | {numbers['objects']} | {' | '.join(cells)} |")
    result = Path(__file__).parent / "results" / "objects_lost.json"
    result.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def lost_of(name: str, folder: Path) -> dict[str, Any]:
    """Annotated images and objects, and by side of the samples: objects lost, and images that lose all of theirs."""
    counted = {side: [_counted(record, folder, side) for record in LAYOUTS[name].scan(folder)] for side in SIDES}
    first = counted[SIDES[0]]
    return {
        "images": sum(objects > 0 for objects, _ in first),
        "objects": sum(objects for objects, _ in first),
        "lost": {
            str(side): (sum(lost for _, lost in images), sum(0 < objects == lost for objects, lost in images))
            for side, images in counted.items()
        },
    }


def _counted(record: Record, folder: Path, side: int) -> tuple[int, int]:
    mask = read_mask(folder / name for name in record.masks)
    squashed = Resize(name="resize", channels=1, height=side, width=side, aspect="squash", small_objects="drop")
    return count_objects_lost(mask, Region(0, 0, *mask.shape), squashed)


if __name__ == "__main__":
    main()
