"""How long the `--help` of every stage and command takes, and what each module of the project costs to import.

Times are of the processor in the new process, children included: what else runs on the machine hardly moves them.
Run in the project's root: `python benchmarks/imports.py`. It exits with 1 where a `--help` takes 1.5 s or longer.
"""

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

from measuring import RESULTS, machine

ROOT = Path(__file__).parents[1]
LIMIT = 1.5  # seconds
ROUNDS = 3
STAGES = ("download", "manifest", "prepare", "augment", "train", "evaluate", "report")
COMMANDS = ("", "params", "table", "row", "compare", "predict", "export", "evaluate")
MODULES = (
    *("numpy", "pandas", "pandera.pandas", "cv2", "joblib", "torch", "pytorch_lightning", "distributed"),
    *("medseg.params", "medseg.datasets", "medseg.manifest", "medseg.preparation", "medseg.augmentation"),
    *("medseg.training", "medseg.evaluation", "medseg.report.content", "medseg.comparison", "medseg.prediction"),
)


def main() -> None:
    """Print both tables, slowest first, and write them to benchmarks/results/imports.json."""
    helps: dict[str, tuple[str, ...]] = {f"stages.{stage}": ("-m", f"stages.{stage}", "--help") for stage in STAGES}
    for command in COMMANDS:
        code = f"import sys; sys.argv = {['medseg', *command.split(), '--help']}; import medseg.cli; medseg.cli.main()"
        helps[f"medseg {command}".strip()] = ("-c", code)
    shown = {name: cost(arguments) for name, arguments in helps.items()}
    imported = {module: cost(("-c", f"import {module}")) for module in MODULES}
    for title, costs in (("--help", shown), ("import", imported)):
        for name, seconds in sorted(costs.items(), key=lambda item: -item[1]):
            print(f"{title} {name:<24} {seconds:6.2f} s")
    content = {"help": shown, "import": imported, "limit": LIMIT, "machine": machine()}
    (RESULTS / "imports.json").write_text(json.dumps(content, indent=2) + "\n")
    sys.exit(max(shown.values()) >= LIMIT)


def cost(arguments: tuple[str, ...]) -> float:
    """Seconds of processor time of a new Python with these arguments, the median of some."""
    return round(statistics.median(once(arguments) for _ in range(ROUNDS)), 2)


def once(arguments: tuple[str, ...]) -> float:
    """Seconds of processor time of one."""
    before = os.times()
    environment = os.environ | {"PYTHONPATH": "src"}
    subprocess.run([sys.executable, *arguments], cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, check=True)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


if __name__ == "__main__":
    main()
