"""The record of a run, kept in git: parameters, data, packages, choices and scores.

It holds no clock, path, revision or host, so that equal runs give equal records.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medseg.core.environment import code_sha256, package_versions
from medseg.core.errors import UserError
from medseg.core.files import read_bytes, read_json, write_text
from medseg.core.markdown import table
from medseg.evaluation import estimates
from medseg.evaluation.describe import ENDS_BRIEFLY, SPLITS, network_briefly, samples_briefly
from medseg.evaluation.formatting import ends, score
from medseg.inference.settings import SegmenterDescription
from medseg.models.model_yaml import read_description

BEGIN = "<!-- runs: written by make table -->"
END = "<!-- end of runs -->"
COLUMNS = (
    "run",
    "data",
    "train/val/test",
    "model",
    "loss",
    "samples",
    "epochs",
    "scored on",
    "images",
    "Dice",
    ENDS_BRIEFLY,
    "IoU",
)
NUMBERS = {"epochs", "images", "Dice", ENDS_BRIEFLY, "IoU"}  # aligned to the right


def run_record(
    parameters: dict[str, Any], manifest: Path, audit: Path, segmenter: Path, summary: Path, code: Sequence[Path]
) -> dict[str, Any]:
    """The record of a run, from its parameters (all but `machine`) and what the stages wrote.

    `summary` is predictions/summary.json; `code` are the folders of the source code, of which the record holds a hash.
    Raises `UserError` where a file is missing or unreadable.
    """
    counts, description = read_json(audit), read_description(segmenter, SegmenterDescription)
    return {
        "name": parameters["name"],
        "parameters": parameters,
        "data": {
            "manifest_sha256": hashlib.sha256(read_bytes(manifest)).hexdigest(),
            "images": counts["images"],
            "splits": {split: counts["splits"][split] for split in SPLITS if split in counts["splits"]},
        },
        "code_sha256": code_sha256(code),
        "packages": package_versions(),
        "training": description.training.model_dump(
            include={"best_epoch", "epochs", "samples", "initial_weights", "initial_network"}
        ),
        "chosen": description.chosen.model_dump(),
        "metrics": read_json(summary),
    }


def write_record(record: dict[str, Any], path: Path) -> None:
    """Write a record as JSON."""
    write_text(path, json.dumps(record, indent=2, ensure_ascii=False) + "\n")


def runs_table(folder: Path) -> str:
    """The Markdown table of all records in `folder`, sorted by the run's name.

    Raises `UserError` for a file that is no record of this project.
    """
    records = sorted((_row(path) for path in folder.glob("*.json")), key=lambda row: row[0])
    return table(COLUMNS, records, NUMBERS) + "\n"


def update_page(page: Path, folder: Path) -> None:
    """Write `runs_table(folder)` between its two marker lines in `page`. Raises `UserError` without them."""
    text = read_bytes(page).decode()
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise UserError(f"{page}: the table of runs goes between the lines '{BEGIN}' and '{END}': add them")
    write_text(page, f"{before}{BEGIN}\n{runs_table(folder)}{END}{after}")


def _row(path: Path) -> list[str]:
    record = read_json(path)
    try:
        return list(map(str, _cells(record)))
    except (KeyError, TypeError) as error:
        raise UserError(f"{path}: not a record of a run: {error} is missing or unfit; run the stage report") from error


def _cells(record: dict[str, Any]) -> list[Any]:
    parameters, metrics, splits = record["parameters"], record["metrics"], record["data"]["splits"]
    return [
        record["name"],
        parameters["data"]["name"],
        "/".join(str(splits.get(split, 0)) for split in SPLITS[:3]),
        network_briefly(parameters["model"]),
        parameters["loss"]["name"],
        samples_briefly(parameters["prepare"]),
        record["training"]["epochs"],
        metrics["split"],
        metrics["images"],
        score(metrics["dice"]),
        ends(estimates.of_keys(metrics, "dice")),
        score(metrics["iou"]),
    ]
