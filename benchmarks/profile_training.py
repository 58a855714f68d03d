"""Where the time of a default training run goes: milliseconds a step by kind of work, from torch.profiler.

Run it in the root of a tree in which the pipeline has run, `python -m benchmarks.profile_training`; with the root of
another tree as argument, it profiles that tree's code and parameters on the same arrays, and prints both. Both sides
train in processes of their own, one after the other and in turn, with the same number of threads. The medians go to
benchmarks/results/profile_training.json.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.measuring import RESULTS, machine
from medseg.core.markdown import table

ROOT = Path(__file__).parents[1]
SAMPLES = 128  # eight batches of 16
EPOCHS = 3  # the first does not count
KINDS = {  # the first that fits the beginning of an operation's name
    "convolutions": ("aten::mkldnn_conv", "aten::convolution", "aten::_slow_conv", "aten::slow_conv", "aten::_conv"),
    "batch normalisation": ("aten::native_batch_norm", "aten::batch_norm", "aten::_batch_norm"),
    "filling of new memory": ("aten::fill_",),
    "optimiser": (
        *("Optimizer", "aten::_fused", "aten::lerp_", "aten::addcdiv_", "aten::addcmul_", "aten::sqrt"),
        *("aten::_foreach", "aten::add_", "aten::mul_"),
    ),
    "loading": ("enumerate(DataLoader)",),
    "activations": ("aten::hardtanh", "aten::threshold", "aten::relu", "aten::clamp"),
}
REST = "all else"
PROFILED = "profiled step"


def main() -> None:
    """Print the table and write it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("before", type=Path, nargs="?", help="root of another tree")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)  # what a side's own process is called with
    options = parser.parse_args()
    if options.inside:
        options.inside.write_text(json.dumps(profiled()))
        return
    trees = {"before": options.before, "now": ROOT} if options.before else {"now": ROOT}
    rounds = {name: [in_process(tree) for _ in range(options.rounds)] for name, tree in trees.items()}
    found = {name: median(runs) for name, runs in rounds.items()}
    lines = [[kind, *(f"{side.get(kind, 0):.1f}" for side in found.values())] for kind in found["now"]]
    print(table(["ms a step", *found], lines))
    content = {"milliseconds": found, "rounds": options.rounds, "machine": machine()}
    (RESULTS / "profile_training.json").write_text(json.dumps(content, indent=2) + "\n")


def median(runs: list[dict[str, float]]) -> dict[str, float]:
    """Each kind's median."""
    return {kind: round(statistics.median(run[kind] for run in runs), 1) for kind in runs[0]}


def in_process(tree: Path) -> dict[str, float]:
    """Profile a tree's code by its parameters, on the arrays of this one."""
    with tempfile.NamedTemporaryFile() as file:
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tree.resolve() / "src"), str(ROOT)])}
        script = [sys.executable, str(Path(__file__).resolve()), "--inside", file.name]
        subprocess.run(script, cwd=tree, env=environment, check=True, stdout=subprocess.DEVNULL)
        found: dict[str, float] = json.loads(Path(file.name).read_text())
    return found


def profiled() -> dict[str, float]:
    """Milliseconds a step of each kind of work, and of the whole step without and with the profiler."""
    from torch.profiler import ProfilerActivity, profile

    whole = per_step(seconds_of_epochs())
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        epochs = seconds_of_epochs()
    steps = len(epochs) * SAMPLES / 16
    kinds = dict.fromkeys([*KINDS, REST], 0.0)
    for event in seen.key_averages():
        kinds[kind_of(event.key)] += event.self_cpu_time_total / 1000 / steps
    return {"step": whole} | kinds | {PROFILED: per_step(epochs)}


def per_step(epochs: list[float]) -> float:
    """Milliseconds of a step, the first epoch left out."""
    return statistics.median(epochs[1:]) * 1000 / (SAMPLES / 16)


def kind_of(name: str) -> str:
    """The kind of work that an operation is."""
    bare = name.removeprefix("autograd::engine::evaluate_function: ")
    return next((kind for kind, starts in KINDS.items() if bare.startswith(starts)), REST)


def seconds_of_epochs() -> list[float]:
    """How long the steps of each epoch took, of a run of the default parameters on the first samples."""
    import pytorch_lightning as pl

    from medseg.core.parallel import MachineParams
    from medseg.data.packed import Packed, open_packed
    from medseg.training import trainer as training

    class Clock(pl.Callback):
        def on_train_epoch_start(self, *_: Any) -> None:
            self.start = time.perf_counter()

        def on_validation_start(self, *_: Any) -> None:
            seconds.append(time.perf_counter() - self.start)

    def first(folder: Path, count: int) -> Packed:
        store = open_packed(folder)
        return Packed(store.images[:count], store.masks[:count], store.index.iloc[:count], store.geometry)

    seconds: list[float] = []
    plain = pl.Trainer
    pl.Trainer = lambda callbacks, **settings: plain(callbacks=[*callbacks, Clock()], **settings)  # type: ignore[assignment, misc]
    stores = first(ROOT / "data/augmented", SAMPLES), first(ROOT / "data/prepared/val", 4)
    with tempfile.TemporaryDirectory() as name:
        folders = training.Folders(ROOT / "weights", Path(name) / "metrics", Path(name) / "logs")
        device = MachineParams(workers=0, backend="threading", accelerator="cpu")
        training.fit(*stores, default_recipe(), folders, device)
    pl.Trainer = plain  # type: ignore[misc]
    return seconds


def default_recipe() -> Any:
    """params.yaml of the tree, with few epochs."""
    from medseg.core.params import read_section
    from medseg.data.augment import Transforms
    from medseg.data.task import TaskParams
    from medseg.models.params import ModelParams
    from medseg.training.params import LossParams, OptimizerParams, SamplingParams, SchedulerParams, TrainParams
    from medseg.training.trainer import Recipe

    kinds: dict[str, Any] = {
        "task": TaskParams,
        "model": ModelParams,
        "loss": LossParams,
        "optimizer": OptimizerParams,
        "scheduler": SchedulerParams,
        "sampling": SamplingParams,
        "online": Transforms,
    }
    sections: dict[str, Any] = {key: read_section(Path("params.yaml"), key, kind) for key, kind in kinds.items()}
    train = read_section(Path("params.yaml"), "train", TrainParams)
    return Recipe(**sections, train=train.model_copy(update={"epochs": EPOCHS}), seed=0)


if __name__ == "__main__":
    main()
