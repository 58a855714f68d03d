"""Finished experiments by their names: commit, record, network, curves. To be called in the project's root."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medseg.experiments.commands import run, show_and_run

WEIGHTS = Path("weights")


def find_revision(name: str) -> str | None:
    """The commit of the finished experiment `name`, the newest where several have the name; None without one."""
    commits = run("git", "for-each-ref", "--sort=-committerdate", "--format=%(objectname)", f"refs/exps/??/*/{name}")
    return commits.split()[0] if commits else None


def find_record(name: str) -> dict[str, Any] | None:
    """The record, as `run_record.run_record` makes it, of the finished experiment `name`; None without one.

    Raises `UserError` where the experiment holds no record.
    """
    revision = find_revision(name)
    if revision is None:
        return None
    record: dict[str, Any] = json.loads(run("git", "show", f"{revision}:metrics/runs/{name}.json"))
    return record


def has_network(name: str) -> bool:
    """Whether an initial network `name` lies in `weights/`, or DVC can bring it there."""
    return (WEIGHTS / name).exists() or (WEIGHTS / f"{name}.dvc").exists()


def bring_network(name: str) -> None:
    """Place the network that the experiment `name` trained in `weights/NAME`, unless something lies there already.

    DVC tracks it there, and git what DVC wrote: a queued experiment sees nothing else.
    """
    folder, pointer = WEIGHTS / name, WEIGHTS / f"{name}.dvc"
    if has_network(name):
        print(f"{folder} is there already: taken as it is", flush=True)
    else:
        show_and_run("dvc", "get", ".", "models/network", "--rev", name, "-o", str(folder))
    if not pointer.exists():
        show_and_run("dvc", "add", str(folder))
    show_and_run("git", "add", str(pointer), str(WEIGHTS / ".gitignore"))


def draw_plots(names: Sequence[str], folder: Path) -> Path:
    """Draw the curves of experiments into one another and return the page."""
    folder.mkdir(parents=True, exist_ok=True)  # DVC makes it for images, but not for curves alone
    show_and_run("dvc", "plots", "diff", *names, "-o", str(folder))
    return folder / "index.html"
