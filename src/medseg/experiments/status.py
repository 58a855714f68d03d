"""Where the last run stands: its headline numbers, its report, what is out of date, whether its data have changed."""

import json
from pathlib import Path

from medseg.core.errors import UserError
from medseg.core.files import read_json
from medseg.datasets.changes import AGAIN, changed_source
from medseg.evaluation import estimates
from medseg.evaluation.formatting import measured, score, spread
from medseg.experiments.commands import attempt

REPORT = Path("reports/report.html")
METRICS = Path("metrics/evaluate.json")


def status_lines() -> list[str]:
    """Lines for the terminal. Raises `UserError` where the metrics are unreadable, or DVC fails."""
    lines = []
    if path := changed_source():
        lines.append(f"{path} has changed since it was copied; to fetch it anew: {AGAIN}")
    if not METRICS.is_file():
        return [*lines, "no run is finished here: make repro"]
    if stages := _changed_stages():
        lines.append(f"out of date: {', '.join(stages)} (`dvc status` tells why); what follows is of the run before")
    metrics = read_json(METRICS)
    dice = spread(estimates.of_keys(metrics, "dice"))
    lines.append(f"Dice {dice}, IoU {score(metrics.get('iou'))}, HD95 {measured(metrics.get('hd95'), 'pixels')}")
    return [*lines, f"report: {REPORT.resolve()}"] if REPORT.is_file() else lines


def _changed_stages() -> list[str]:
    """The stages whose code, parameters, inputs or outputs are not those of `dvc.lock`."""
    done = attempt("dvc", "status", "--json")
    try:
        return list(json.loads(done.stdout))
    except ValueError:
        raise UserError(f"dvc status failed:\n{done.stdout.strip()}") from None
