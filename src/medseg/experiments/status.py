"""Where the last run stands: its headline numbers, its report, and whether its data have changed since."""

from pathlib import Path

from medseg.core.files import read_json
from medseg.datasets.changes import AGAIN, changed_source
from medseg.evaluation.describe import score, spread

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
    dice = spread(*(metrics.get(key) for key in ("dice", "dice_low", "dice_high")))
    hd95 = metrics.get("hd95")
    shown = "undefined" if hd95 is None else f"{hd95:.1f} pixels"
    lines.append(f"Dice {dice}, IoU {score(metrics.get('iou'))}, HD95 {shown}")
    return [*lines, f"report: {REPORT.resolve()}"] if REPORT.is_file() else lines
