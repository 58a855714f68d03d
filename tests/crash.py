"""Kills the pipeline anywhere and runs the same command again: `make crash` writes docs/explanation/crash.md.

In a clone of the project with a tiny run, a stage is run alone (`-f -s`) by `dvc repro`, by `dvc exp run`, or by a
worker of the queue, and killed (SIGKILL), with all of DVC or without. What lies there then must be absent or complete,
and the same command must end with the outputs of a run that nothing disturbed.
"""

import argparse
import hashlib
import os
import random
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

from clone import STAGES, TINY, copy_project
from ruamel.yaml import YAML

from medseg.core.files import write_text

Way = Literal["dvc repro", "dvc exp run", "queue"]
Victims = Literal["all", "stage"]  # every process of the command, or the stage's alone
LIVE = {"metrics/train/plots"}  # written while training goes on, to be watched
STARTS = 5  # of the queue, until it must be empty
LAST_MOMENT = 0.9  # share of a stage's work after which it may have ended, since no two runs take just as long
LOOK = 0.02  # seconds between looks for a process
EXPERIMENTS, WORKERS = 20, 4  # of the queue that must end with all results right
STAGE_ALONE = 0.3  # share of the kills that strike the stage's process alone
PROJECT = Path(__file__).parents[1]
PATIENCE = 1800.0  # seconds that a command may take
GOES_ON = re.compile(r"resuming from epoch (\d+) of")


@dataclass(frozen=True)
class Kill:
    """One kill and what came of it."""

    stage: str
    way: Way
    victims: Victims
    seconds: float  # from the start of the command
    running: bool  # whether the stage's process ran then; else DVC was busy before or after it
    resumed: int | None  # epoch from which training went on
    faults: tuple[str, ...]  # none: it ended right


class Site:
    """A clone in which a tiny run is complete and committed."""

    def __init__(self, project: Path, folder: Path) -> None:
        """Make the clone in `folder`, and run the pipeline in it, undisturbed."""
        self.clone = copy_project(project, folder)
        self.folder = folder
        self.logs = folder.parent / "logs"
        self.logs.mkdir(exist_ok=True)
        self.count = 0
        self.children: list[subprocess.Popen[bytes]] = []
        self.clone.run("medseg", "params", *TINY)
        self.work = self._first_run()  # CPU seconds, by stage
        self.clone.run("git", "add", "-A")
        self.clone.run("git", "commit", "-qm", "a tiny run", "--allow-empty")
        stages = YAML(typ="safe").load(folder / "dvc.yaml")["stages"]
        self.outs = {name: outputs(stage) for name, stage in stages.items()}
        self.right = {out: digest(folder / out) for name in STAGES for out in self.outs[name]}
        self.locked = _entries((folder / "dvc.lock").read_text())

    def _first_run(self) -> dict[str, float]:
        child = self._open(["dvc", "repro"], "first")
        work = dict.fromkeys(STAGES, 0.0)
        while child.poll() is None:
            for stage in STAGES:
                work[stage] = max(work[stage], _cpu_seconds(self.stage_process(stage)))
            time.sleep(LOOK)
        assert child.returncode == 0, (self.logs / "first").read_text()
        return work

    def start(self, way: Way, stage: str, name: str) -> "subprocess.Popen[bytes]":
        """Start the command and come back when it runs; its output goes to a file of that name."""
        commands: dict[Way, list[str]] = {
            "dvc repro": ["dvc", "repro", "-f", "-s", stage],
            "dvc exp run": ["dvc", "exp", "run", "-f", "-s", *_options(), stage],
            "queue": ["dvc", "queue", "start", "-j", "1"],
        }
        if way == "queue":
            self.queue(stage, name)
        return self._open(commands[way], name)

    def _open(self, command: list[str], name: str) -> "subprocess.Popen[bytes]":
        with (self.logs / name).open("ab") as log:
            child = subprocess.Popen(
                command,
                cwd=self.folder,
                env=self.clone.environment(),
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
            )
        self.children.append(child)
        return child

    def queue(self, stage: str, name: str, *changes: str) -> None:
        """Queue a stage as an experiment."""
        self.clone.run("dvc", "exp", "run", "--queue", "-n", name, "-f", "-s", *_options(*changes), stage)

    def processes(self) -> dict[int, list[str]]:
        """The processes that work in the clone, with their command lines."""
        return {pid: command for pid, place, command in _all_processes() if place.is_relative_to(self.folder)}

    def stage_process(self, stage: str) -> int | None:
        """The process of a stage, once it runs."""
        words = ["-m", f"stages.{stage}"]
        return next((pid for pid, command in self.processes().items() if command[1:3] == words), None)

    def wait_for(self, happened: Callable[[], object], what: str) -> None:
        """Wait until `happened` gives something true."""
        end = time.monotonic() + PATIENCE
        while not happened():
            if time.monotonic() > end:
                raise TimeoutError(f"{what}: not within {PATIENCE:.0f} s; processes: {self.processes()}")
            for child in self.children:
                child.poll()  # or it stays as a zombie
            time.sleep(LOOK)

    def finish(self) -> None:
        """Wait until nothing runs in the clone any more."""
        self.wait_for(lambda: not self.processes(), "the end of the command")

    def kill(self, stage: str, victims: Victims) -> None:
        """Kill the processes and wait for those that are left to end."""
        alone = self.stage_process(stage)
        for pid in self.processes() if victims == "all" else filter(None, [alone]):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.finish()

    def duration(self, stage: str, way: Way) -> float:
        """Seconds that the undisturbed command takes."""
        name = self.new_name(way, stage)
        self.start(way, stage, name)
        start = time.monotonic()
        self.finish()
        assert not self.faults_of_end(stage, way, name)
        return time.monotonic() - start

    def faults_of_rest(self, stage: str, way: Way) -> list[str]:
        """What lies in the workspace after a kill and neither is right nor absent."""
        found = {out: digest(self.folder / out) for out in self.right}
        may_miss = set(self.outs[stage]) if way != "queue" else set()
        wrong = [out for out, value in found.items() if value not in (self.right[out], None)]
        gone = [out for out, value in found.items() if value is None and out not in may_miss]
        live = LIVE if stage == "train" and way != "queue" else set()
        return [f"{out}: looks complete and is not" for out in wrong if out not in live] + [
            f"{out}: gone" for out in gone
        ]

    def faults_of_end(self, stage: str, way: Way, name: str) -> list[str]:
        """What the command that was run again left otherwise than the undisturbed run."""
        lock = self.lock_of(name) if way == "queue" else (self.folder / "dvc.lock").read_text()
        if lock is None:
            return [f"the queue ended without the experiment: {self.output(name)}"]
        wrong = [out for out, value in _entries(lock)[stage].items() if value != self.locked[stage][out]]
        wrong += [out for out in self.right if digest(self.folder / out) != self.right[out]]
        return [f"{out}: other bytes than undisturbed: {self.output(name)}" for out in dict.fromkeys(wrong)]

    def empty_queue(self, workers: int) -> None:
        """Start workers until nothing waits in the queue: on a busy machine DVC's leave while something does."""
        for _ in range(STARTS):
            if "Queued" not in self.clone.run("dvc", "queue", "status"):
                return
            self.clone.run("dvc", "queue", "start", "-j", str(workers))
            self.finish()
        raise TimeoutError(f"{STARTS} starts of the queue left something waiting in it")

    def lock_of(self, experiment: str) -> str | None:
        """The file dvc.lock of an experiment that ended."""
        refs = self.clone.run("git", "for-each-ref", "--format=%(refname)", "refs/exps").split()
        ref = next((ref for ref in refs if ref.endswith(f"/{experiment}")), None)
        return self.clone.run("git", "show", f"{ref}:dvc.lock") if ref else None

    def faults_of_queue(self, experiments: int, workers: int, alone: int) -> list[str]:
        """Train with so many seeds in the queue at once: experiments without a result, or with another one's.

        The last `alone` of them are also held against training of each alone.
        """
        names = [f"seed-{seed}" for seed in range(1, experiments + 1)]
        for seed, name in enumerate(names, start=1):
            self.queue("train", name, "train.epochs=1", f"seed={seed}")
        self.empty_queue(workers)
        locks = {name: lock for name in names if (lock := self.lock_of(name))}
        faults = [f"{name}: no result: {self.output(name)}" for name in names if name not in locks]
        weights = {name: _trained(lock) for name, lock in locks.items()}
        faults += [f"{name}: another's result" for name in weights if list(weights.values()).count(weights[name]) > 1]
        for seed in range(experiments + 1 - alone, experiments + 1):
            self.clone.run("dvc", "exp", "run", "-f", "-s", *_options("train.epochs=1", f"seed={seed}"), "train")
            if weights.get(f"seed-{seed}") != _trained((self.folder / "dvc.lock").read_text()):
                faults.append(f"seed-{seed}: not what it is alone")
            self.clone.run("git", "checkout", "-q", ".")
            self.clone.run("dvc", "checkout", "--force")
        return faults

    def output(self, name: str) -> str:
        """What the command printed, in the queue the stage."""
        text = (self.logs / name).read_text(errors="replace")
        logged = self.clone.attempt("dvc", "queue", "logs", name)
        return text + (logged.stdout if logged.returncode == 0 else "")

    def new_name(self, way: Way, stage: str) -> str:
        """A name for a command's output, and in the queue for the experiment."""
        self.count += 1
        return f"{way.replace(' ', '-')}-{stage}-{self.count}"

    def strike(self, stage: str, way: Way, victims: Victims, when: Callable[[float], object]) -> Kill:
        """Start the command, kill it at a moment, run it again, and see what came of it.

        The moment is when `when`, called with the seconds since the start, gives something true.
        """
        name = self.new_name(way, stage)
        self.start(way, stage, name)
        start = time.monotonic()
        self.wait_for(lambda: when(time.monotonic() - start) or not self.processes(), "the moment to kill")
        seconds, running = time.monotonic() - start, self.stage_process(stage) is not None
        self.kill(stage, victims)
        faults = self.faults_of_rest(stage, way)
        self.start(way, stage, name)
        self.finish()
        if way == "queue":
            self.empty_queue(1)
        faults += self.faults_of_end(stage, way, name)
        went_on = GOES_ON.findall(self.output(name))
        return Kill(stage, way, victims, seconds, running, int(went_on[-1]) if went_on else None, tuple(faults))

    def has_worked(self, stage: str, share: float) -> bool:
        """Whether the stage's process is there, and has done this share of its work, whatever else the machine does."""
        pid = self.stage_process(stage)
        return pid is not None and _cpu_seconds(pid) >= share * self.work[stage]

    def has_finished(self, epoch: int) -> bool:
        """Whether training can go on from this epoch or a later one."""
        kept = (self.folder / ".dvc/tmp/medseg/training").glob("*/*/epoch-*")
        return any(int(path.name.removeprefix("epoch-")) >= epoch for path in kept)


def _options(*changes: str) -> list[str]:
    """Those of `dvc exp run` for the tiny run; of several values of a key the last one counts."""
    values = dict(setting.split("=", 1) for setting in (*TINY, *changes))
    return [word for key, value in values.items() for word in ("-S", f"{key}={value}")]


def outputs(stage: dict[str, Any]) -> list[str]:
    entries = [entry for kind in ("outs", "metrics", "plots") for entry in stage.get(kind, [])]
    paths = (next(iter(entry)) if isinstance(entry, dict) else entry for entry in entries)
    return [path.replace("${name}", "default") for path in paths]


def digest(path: Path) -> str | None:
    """A hash of a file, or of a folder's files with their names; None where there is nothing."""
    if not path.exists():
        return None
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    parts = [f"{file.relative_to(path)} {hashlib.sha256(file.read_bytes()).hexdigest()}" for file in files]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _entries(lock: str) -> dict[str, dict[str, str]]:
    """Hashes of outs by stage, as dvc.lock has them."""
    stages = YAML(typ="safe").load(lock)["stages"]
    return {name: {out["path"]: out["md5"] for out in stage["outs"]} for name, stage in stages.items()}


def _trained(lock: str) -> str:
    """The hash of the network."""
    return _entries(lock)["train"]["models/network"]


def _all_processes() -> Iterator[tuple[int, Path, list[str]]]:
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended, or is another user's
            place = (entry / "cwd").readlink()
            command = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
            yield int(entry.name), place, command


def _cpu_seconds(pid: int | None) -> float:
    """Seconds that a process has kept processors busy; 0 where there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")  # utime and stime of proc(5)


PLAN: dict[Way, dict[str, int]] = {  # kills while the stage runs; for each stage comes one at any moment of the command
    "dvc repro": dict.fromkeys(STAGES, 4) | {"train": 8},
    "dvc exp run": {"prepare": 2, "train": 6, "evaluate": 3},
    "queue": {"prepare": 2, "train": 6, "evaluate": 3},
}
HEAD = """# Killed anywhere, right in the end

`make crash` wrote this page. Each kill is a SIGKILL of all processes of the command, or of the stage's alone; then the
same command ran again. Most strike at a random moment of the stage's own work, one of each row at any moment of the
command. It ended right where no output that a stage had left half done looked complete, no lock stopped the second run,
and every output had the bytes of a run that nothing disturbed.

| command | stage | kills | while the stage ran | of its process alone | seconds | on from epoch | ended right |
|---|---|---|---|---|---|---|---|
"""


def random_kills(site: Site, plan: dict[Way, dict[str, int]], rng: random.Random) -> Iterator[Kill]:
    """Carry out a plan: how many kills of which stage, by command."""
    for way, counts in plan.items():
        for stage, count in counts.items():
            whole = site.duration(stage, way)
            yield _kill_anywhere(site, stage, way, whole * rng.random())
            for _ in range(count):
                victims: Victims = "stage" if rng.random() < STAGE_ALONE else "all"
                yield _kill_at_work(site, stage, way, victims, rng.uniform(0, LAST_MOMENT))


def _kill_anywhere(site: Site, stage: str, way: Way, moment: float) -> Kill:
    return site.strike(stage, way, "all", lambda seconds: seconds >= moment)


def _kill_at_work(site: Site, stage: str, way: Way, victims: Victims, share: float) -> Kill:
    return site.strike(stage, way, victims, lambda _: site.has_worked(stage, share))


def table(kills: Sequence[Kill]) -> str:
    """The page's table, a row for each command and stage, the sum of all, and what went wrong."""
    rows, faults = [], []
    for (way, stage), group in groupby(kills, key=lambda kill: (kill.way, kill.stage)):
        struck = list(group)
        times = sorted(kill.seconds for kill in struck)
        epochs = sorted(kill.resumed for kill in struck if kill.resumed)
        running = sum(kill.running for kill in struck)
        alone = sum(kill.victims == "stage" for kill in struck)
        right = sum(not kill.faults for kill in struck)
        shown = ", ".join(map(str, epochs)) if epochs else "" if stage != "train" else "none"
        rows.append(
            f"| `{way}` | {stage} | {len(struck)} | {running} | {alone} "
            f"| {times[0]:.1f} to {times[-1]:.1f} | {shown} | {right} |\n"
        )
        faults += [f"- `{way}`, {stage}: {fault}\n" for kill in struck for fault in kill.faults]
    running, right = sum(kill.running for kill in kills), sum(not kill.faults for kill in kills)
    summed = f"\nOf {len(kills)} kills {running} struck while the stage ran; {right} ended right.\n"
    return HEAD + "".join(rows) + summed + "".join(["\n", *faults] if faults else [])


def queue_words(faults: list[str]) -> str:
    """The page's last lines."""
    said = "all right, each the same as trained alone" if not faults else "\n- ".join(["wrong:\n", *faults])
    return f"\nA queue of {EXPERIMENTS} tiny trainings with {WORKERS} workers: {said}.\n"


def main() -> None:
    """Kill at random, and write the page."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kills", type=int, help="of each stage and command; as planned where it is left out")
    parser.add_argument("--page", type=Path, default=PROJECT / "docs/explanation/crash.md")
    asked = parser.parse_args()
    plan = {way: {stage: asked.kills or count for stage, count in counts.items()} for way, counts in PLAN.items()}
    with tempfile.TemporaryDirectory(prefix="medseg-crash-") as folder:
        site = Site(PROJECT, Path(folder) / "site")
        kills = []
        for kill in random_kills(site, plan, random.Random(asked.seed)):
            print(kill, flush=True)
            kills.append(kill)
        faults = site.faults_of_queue(EXPERIMENTS, WORKERS, alone=EXPERIMENTS)
    write_text(asked.page, table(kills) + queue_words(faults))
    if faults or any(kill.faults for kill in kills):
        raise SystemExit(f"some runs did not end right: see {asked.page}")


if __name__ == "__main__":
    main()
