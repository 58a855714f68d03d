"""Where the last run stands: its headline numbers, its report, and whether its data have changed since."""

from pathlib import Path

from medseg.core.files import read_json
from medseg.datasets.changes import AGAIN, changed_source
from medseg.evaluation.formatting import measured, score, spread

REPORT = Path("reports/report.html")
METRICS = Path("metrics/evaluate.json")


def status_lines() -> list[str]:
    """Lines for the terminal. Raises `UserError` where the metrics are unreadable."""
    lines = []
    if path := changed_source():
        lines.append(f"{path} has changed since it was copied; to fetch it anew: {AGAIN}")
    if not METRICS.is_file():
        return [*lines, "no run is finished here: make repro"]
    metrics = read_json(METRICS)
    dice = spread(metrics.get("dice"), metrics.get("dice_low"), metrics.get("dice_high"))
    lines.append(f"Dice {dice}, IoU {score(metrics.get('iou'))}, HD95 {measured(metrics.get('hd95'), 'pixels')}")
    return [*lines, f"report: {REPORT.resolve()}"] if REPORT.is_file() else lines
