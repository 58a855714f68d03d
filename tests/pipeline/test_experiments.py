"""Every experiment trains: its own sections, on a few tiny samples for one epoch."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from medseg.core.params import Seed, read_section
from medseg.data.augment import Transforms
from medseg.data.geometry import Geometry
from medseg.data.packed import Packed
from medseg.data.task import TaskParams
from medseg.experiments.compose import compose
from medseg.models.checkpoint import load_bundle, save_bundle
from medseg.models.model_yaml import Description
from medseg.models.params import ModelParams
from medseg.training.optimizer_state import save_state
from medseg.training.params import LossParams, OptimizerParams, SamplingParams, SchedulerParams, TrainParams
from medseg.training.trainer import Folders, Recipe, Trained, fit

CONF = Path(__file__).parents[2] / "conf"
EXPERIMENTS = sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))
QUICK = {  # tested at every change: an initial network, several classes, patches of tissue
    "busi_encoder_upsampled_three_class",
    "isic2017_improved_unet_continued",
    "sample_busi_cmunext",
    "sample_tissue_pspnet",
}
NOT_DETERMINISTIC = {  # on a GPU, by the documentation of torch.use_deterministic_algorithms: they refuse to run
    f"aten::{name}"
    for name in (
        *("_adaptive_avg_pool2d_backward", "adaptive_max_pool2d_backward", "fractional_max_pool2d_backward"),
        *("max_unpool2d", "reflection_pad2d_backward", "grid_sampler_2d_backward", "histc", "kthvalue", "put_"),
        *("nll_loss_forward", "nll_loss2d_forward", "logcumsumexp", "upsample_bicubic2d_backward"),
    )  # upsample_bilinear2d_backward is not among them: on a GPU, interpolate takes other operations
}
SIDE = 32  # pixels
SAMPLES = 4


@pytest.fixture(autouse=True)
def _without_the_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


class Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves its types out
    """The names of all operations that PyTorch runs inside the block, gradients included."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(func.name().split(".")[0])
        return func(*args, **(kwargs or {}))


def read_recipe(experiment: str, folder: Path) -> tuple[Recipe, Any]:
    """The experiment's sections for training, cut to one epoch of one batch, and its geometry."""
    params = folder / f"{experiment}.yaml"
    compose(CONF, params, [f"experiment={experiment}", f"train.batch_size={SAMPLES}", "train.epochs=1"])
    recipe = Recipe(
        task=read_section(params, "task", TaskParams),
        model=read_section(params, "model", ModelParams),
        loss=read_section(params, "loss", LossParams),
        optimizer=read_section(params, "optimizer", OptimizerParams),
        scheduler=read_section(params, "scheduler", SchedulerParams),
        sampling=read_section(params, "sampling", SamplingParams),
        online=read_section(params, "online", Transforms),
        train=read_section(params, "train", TrainParams),
        seed=read_section(params, "seed", Seed),
    )
    return recipe, read_section(params, "prepare", Geometry)


def write_stores(folder: Path, recipe: Recipe, channels: Any) -> tuple[Packed, Packed]:
    labels = recipe.task.names if recipe.task.has_classes else ["a"]
    return (
        tiny.write_packed(folder / "train", SAMPLES, channels, labels=labels, side=SIDE),
        tiny.write_packed(folder / "val", len(labels), channels, seed=1, labels=labels, side=SIDE),
    )


def train(experiment: str, folder: Path) -> tuple[Recipe, Trained, Packed]:
    """One epoch of the experiment, after one of the experiment that it starts from."""
    recipe, geometry = read_recipe(experiment, folder)
    if initial_network := recipe.train.init_from or recipe.train.continue_from:
        save(*train(initial_network, folder)[:2], folder / "weights" / initial_network)
    stores = write_stores(folder / experiment, recipe, geometry.channels)
    folders = Folders(folder / "weights", folder / "metrics", folder / "logs")
    with Operations() as used:
        trained = fit(*stores, recipe, folders, tiny.CPU)
    assert trained is not None
    assert not used.names & NOT_DETERMINISTIC
    return recipe, trained, stores[1]


def save(recipe: Recipe, trained: Trained, folder: Path) -> None:
    """As the stage does."""
    save_bundle(folder, trained.network, trained.description)
    save_state(folder, trained.optimizer_state, trained.scheduler_state, recipe.optimizer, recipe.scheduler)


@pytest.mark.parametrize(
    "experiment", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in EXPERIMENTS]
)
def test_every_experiment_trains_and_its_network_can_be_saved(experiment: str, tmp_path: Path) -> None:
    recipe, trained, val = train(experiment, tmp_path)
    save(recipe, trained, tmp_path / "network")
    network, description = load_bundle(tmp_path / "network", Description)
    assert description.model == recipe.model
    assert description.task == recipe.task
    assert (description.training.initial_weights == "initial_network") == (
        description.training.initial_network is not None
    )
    with torch.no_grad():
        pixels = torch.from_numpy(np.array(val.images)).permute(0, 3, 1, 2)
        logits = network(pixels)
        assert torch.equal(logits, trained.network(pixels))
    assert logits.isfinite().all()
