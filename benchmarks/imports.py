"""How long `--help` of every stage and command takes, what each module costs to import, and a `dvc repro` of nothing.

Times of `--help` (medians) and of imports (once) are of the processor in the new process, children included: what else
runs on the machine hardly moves them. The third part is wall-clock time, in turn: `dvc repro` in a clone of this
project whose pipeline has run (a few small phantoms, one epoch), against `dvc status` in a new repository without a
stage.

Run in the project's root, changes committed (a clone has no others): `python -m benchmarks.imports`.
"""

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

from benchmarks.measuring import Row, report, row, seconds

ROOT = Path(__file__).parents[1]
LIMIT = 1.5  # seconds of a `--help`; and how many times an empty status a `dvc repro` of nothing may take
ROUNDS = 3
REPRO_ROUNDS = 7
STAGES = ("download", "manifest", "prepare", "augment", "train", "evaluate", "report")
COMMANDS = ("", "params", "table", "series", "compare", "predict", "export", "evaluate")
MODULES = (
    *("numpy", "pandas", "pandera.pandas", "cv2", "joblib", "torch", "pytorch_lightning", "distributed"),
    *("medseg.core.params", "medseg.datasets", "medseg.data.manifest", "medseg.data.prepare", "medseg.data.augment"),
    *(
        "medseg.training.trainer",
        "medseg.evaluation.evaluate",
        "medseg.report.sections",
        "medseg.experiments.compare",
        "medseg.inference.predict",
    ),
)
SMALLEST = (
    *("data.benign=8", "data.malignant=8", "data.normal=4", "data.width=[64,64]", "prepare.height=32"),
    *("prepare.width=32", "augment=none", "model=unet_plain", "model.init_features=4", "train.epochs=1"),
    *("evaluate=plain", "name=smallest"),
)


def main() -> None:
    """Print the table, slowest first, and write them to benchmarks/results/imports.json."""
    helps: dict[str, tuple[str, ...]] = {f"stages.{stage}": ("-m", f"stages.{stage}", "--help") for stage in STAGES}
    for command in COMMANDS:
        code = f"import sys; sys.argv = {['medseg', *command.split(), '--help']}; import medseg.cli; medseg.cli.main()"
        helps[f"medseg {command}".strip()] = ("-c", code)
    rounds = {name: [once(arguments) for _ in range(ROUNDS)] for name, arguments in helps.items()}
    rows = [row(f"{name} --help", [(found, LIMIT) for found in times], 1.0) for name, times in rounds.items()]
    imported = {module: once(("-c", f"import {module}")) for module in MODULES}
    with tempfile.TemporaryDirectory() as folder:
        nothing, own_part = nothing_to_do(Path(folder))
    slowest = sorted(imported.items(), key=lambda cost: cost[1], reverse=True)
    facts: dict[str, object] = {f"import {module}, s": round(cost, 2) for module, cost in slowest}
    report("imports", [nothing, *sorted(rows, key=lambda each: each.ours, reverse=True)], own_part | facts)


def once(arguments: tuple[str, ...]) -> float:
    """Seconds of processor time of a new Python with these arguments."""
    before = os.times()
    environment = os.environ | {"PYTHONPATH": "src"}
    subprocess.run([sys.executable, *arguments], cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, check=True)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def nothing_to_do(folder: Path) -> tuple[Row, dict[str, object]]:
    """`dvc repro` of a pipeline that is up to date, against `dvc status` where there is none; DVC's own part of it."""
    project, empty, bare = (
        up_to_date(folder / "project"),
        new_repository(folder / "empty"),
        seven_stages(folder / "bare"),
    )
    sides = ((project, "repro"), (empty, "status"), (bare, "repro"))
    rounds = []
    for number in range(REPRO_ROUNDS):
        found = {place: seconds(partial(call, place, "dvc", what)) for place, what in sides[:: (-1) ** number]}
        rounds.append([found[place] for place in (project, empty, bare)])
    own = statistics.median(bare / status for _, status, bare in rounds)
    fact = "DVC's own part: repro of seven stages without code or parameters, times an empty status"
    row_rounds = [(ours, status) for ours, status, _ in rounds]
    return row("dvc repro with nothing to do", row_rounds, 1 / LIMIT), {fact: round(own, 2)}


def new_repository(folder: Path) -> Path:
    """A repository of git and DVC with this project's settings and no stage."""
    call(ROOT, "git", "init", "--quiet", str(folder))
    call(folder, "dvc", "init", "--quiet")
    shutil.copy(ROOT / ".dvc" / "config", folder / ".dvc" / "config")
    return folder


def seven_stages(folder: Path) -> Path:
    """As many stages as ours in a row, each with the last one's file as its only dependency; they have run."""
    new_repository(folder)
    stages = [f"  s{n}: {{cmd: echo {n} > o{n}, deps: [o{n - 1}], outs: [o{n}]}}" for n in range(1, len(STAGES) + 1)]
    (folder / "dvc.yaml").write_text("\n".join(["stages:", *stages]))
    (folder / "o0").touch()
    call(folder, "dvc", "repro")
    return folder


def up_to_date(project: Path) -> Path:
    """A clone of this project in which the pipeline has run with the smallest parameters."""
    call(ROOT, "git", "clone", "--quiet", "--shared", str(ROOT), str(project))
    call(project, "medseg", "params", *SMALLEST)
    call(project, "dvc", "repro")
    return project


def call(folder: Path, *command: str) -> None:
    """Run a command of this environment in `folder`; end with what it printed where it fails."""
    places = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = os.environ | {"PATH": places, "PYTHONPATH": "src"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed in {folder}:\n{done.stdout}{done.stderr}")


if __name__ == "__main__":
    main()
