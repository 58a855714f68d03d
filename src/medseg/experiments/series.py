"""A series of experiments: the variants of one older project, run together and shown in one table.

A series is all experiments in `conf/experiment/` whose names begin with the same words: `ucsb` is `ucsb_unet`,
`ucsb_segnet` and `ucsb_pspnet`.
"""

import difflib
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

from medseg.core.errors import UserError
from medseg.core.markdown import table
from medseg.core.params import Word, read_record, validate
from medseg.evaluation.describe import network_briefly
from medseg.evaluation.formatting import score
from medseg.experiments import queue
from medseg.experiments.compose import compose
from medseg.experiments.finished import bring_network, draw_plots, find_record, find_revision, has_network
from medseg.experiments.queue import State

COLUMNS = ("variant", "model", "loss", "scored on", "Dice", "IoU")
PLOTS = Path("dvc_plots")  # ignored by git, where DVC's own plots go, too


@dataclass(frozen=True)
class Variant:
    """One experiment of a series."""

    name: str
    parameters: dict[str, Any]  # as composed: all that can change its result

    @property
    def initial_network(self) -> str | None:
        """The experiment whose network it starts from, if any."""
        train = self.parameters["train"]
        initial_network: str | None = train["init_from"] or train["continue_from"]
        return initial_network


def find_series(conf: Path, series: str) -> list[str]:
    """The names of the experiments under `conf` that belong to `series`, sorted. Raises `UserError` without any."""
    names = sorted(path.stem for path in (conf / "experiment").glob("*.yaml"))
    found = [name for name in names if name == series or name.startswith(f"{series}_")]
    if not found:
        near = difflib.get_close_matches(series, sorted({words for name in names for words in _beginnings(name)}))
        hint = f"; near it: {', '.join(near)}" if near else ""
        raise UserError(f"{conf}/experiment: no name begins with '{series}'{hint}; there are: {', '.join(names)}")
    return found


def read_variants(conf: Path, names: Sequence[str], overrides: Sequence[str]) -> list[Variant]:
    """Compose experiments with `overrides` on top of each. Raises `UserError` where they do not fit.

    Their names become those of commits and folders, and parts of commands.
    """
    for name in names:
        validate(name, Word, f"{conf}/experiment/{name}.yaml: its name")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "params.yaml"
        variants = []
        for name in names:
            compose(conf, path, [f"experiment={name}", *overrides])
            variants.append(Variant(name, read_record(path)))
            validate(variants[-1].initial_network, Word | None, f"{name}: train.init_from or continue_from")
    return variants


def run_series(variants: Sequence[Variant], overrides: Sequence[str], jobs: int) -> dict[str, str]:
    """Run the variants that are not finished yet, `jobs` at a time, each after the one that it starts from.

    Returns why each variant without a result has none, by its name. Raises `UserError` where one was finished with
    other parameters, is in the queue already, or starts from a network that can't be had.
    """
    order = _order(variants)
    refuse_rootless(variants)
    refuse_other_results(variants)
    earlier = queue.read()
    refuse_queued(variants, earlier)
    unfinished = {variant.name: "not run: the network that it starts from was not trained" for variant in variants}
    while names := order.get_ready():
        wave = [variant for variant in variants if variant.name in names]
        for name, fault in _run_wave(wave, overrides, jobs, earlier):
            if fault is None:
                del unfinished[name]
                order.done(name)
            else:
                unfinished[name] = fault
    return unfinished


def refuse_other_results(variants: Sequence[Variant]) -> None:
    """Raise `UserError` where a variant was finished with other parameters than it has now."""
    other = [
        variant.name
        for variant in variants
        if (record := find_record(variant.name)) and record["parameters"] != variant.parameters
    ]
    if other:
        raise UserError(
            f"finished earlier with other parameters: {', '.join(other)}; to run them anew: "
            f"dvc exp remove {' '.join(other)}"
        )


def refuse_queued(variants: Sequence[Variant], state: State) -> None:
    """Raise `UserError` where a variant waits in the queue or runs."""
    names = {variant.name for variant in variants}
    queued = sorted(task.name for task in state.tasks if task.name in names and not task.ended)
    if queued:
        raise UserError(
            f"in the queue already: {', '.join(queued)}; let them end (dvc queue start, dvc queue status), "
            "or end them (dvc queue kill, dvc queue remove)"
        )


def refuse_rootless(variants: Sequence[Variant]) -> None:
    """Raise `UserError` where a variant starts from a network that is neither of this series, placed nor trained."""
    names = {variant.name for variant in variants}
    for variant in variants:
        initial_network = variant.initial_network
        if (
            initial_network
            and initial_network not in names
            and not has_network(initial_network)
            and not find_revision(initial_network)
        ):
            raise UserError(
                f"{variant.name} starts from the network {initial_network!r}: there is neither "
                f"weights/{initial_network} nor a finished experiment of that name; run it first: "
                f"medseg series {initial_network}"
            )


def series_table(names: Sequence[str]) -> str:
    """The Markdown table of those experiments in `names` that are finished. Raises `UserError` where none is."""
    records = [record for name in names if (record := find_record(name))]
    if not records:
        raise UserError(f"none of these experiments is finished: {', '.join(names)}")
    return table(COLUMNS, map(_cells, records), numbers=("Dice", "IoU")) + "\n"


def draw_series(series: str, names: Sequence[str]) -> Path:
    """Draw the curves of the finished experiments in `names` into one another and return the page."""
    return draw_plots([name for name in names if find_revision(name)], PLOTS / series)


def _run_wave(
    variants: Sequence[Variant], overrides: Sequence[str], jobs: int, earlier: State
) -> Iterator[tuple[str, str | None]]:
    """Run variants that depend on none that is unfinished; give each one's name, and why it failed if it did."""
    fresh = [variant for variant in variants if not find_revision(variant.name)]
    for variant in variants:
        if variant not in fresh:
            print(f"{variant.name}: finished earlier, kept; to run it anew: dvc exp remove {variant.name}", flush=True)
            yield variant.name, None
    for initial_network in sorted({variant.initial_network for variant in fresh if variant.initial_network}):
        bring_network(initial_network)
    for variant in fresh:
        queue.add(variant.name, overrides)
    if fresh:
        queue.start(jobs)
    for task in queue.wait([variant.name for variant in fresh], earlier, jobs):
        print(f"{task.name}: {'finished' if task.status == 'Success' else 'failed'}", flush=True)
        yield task.name, None if task.status == "Success" else f"failed:\n{queue.log_tail(task)}"


def _order(variants: Sequence[Variant]) -> TopologicalSorter[str]:
    names = {variant.name for variant in variants}
    order = TopologicalSorter({v.name: [v.initial_network] if v.initial_network in names else [] for v in variants})
    try:
        order.prepare()
    except CycleError as error:
        raise UserError(f"conf/experiment: they start from one another: {', '.join(error.args[1])}") from None
    return order


def _beginnings(name: str) -> list[str]:
    words = name.split("_")
    return ["_".join(words[:count]) for count in range(1, len(words) + 1)]


def _cells(record: dict[str, Any]) -> list[str]:
    parameters, metrics = record["parameters"], record["metrics"]
    return [
        record["name"],
        network_briefly(parameters["model"]),
        parameters["loss"]["name"],
        metrics["split"],
        score(metrics["dice"]),
        score(metrics["iou"]),
    ]
