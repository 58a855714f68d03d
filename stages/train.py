"""The stage `train`: packed arrays to a network, its best epoch on val."""

import json
from pathlib import Path

from medseg.core.app import run_stage


def main(
    params: Path,
    augmented: Path,
    val: Path,
    weights: Path,
    overlap: Path,
    network: Path,
    metrics: Path,
    best: Path,
    logs: Path,
    environment: Path,
) -> None:
    """Train a network on AUGMENTED and keep its best epoch on VAL.

    OVERLAP tells which images of val and test the networks in WEIGHTS have seen.

    Example: `python -m stages.train params.yaml data/augmented data/prepared/val weights data/initial_overlap.csv
    models/network metrics/train metrics/train.json logs metrics/environment.json`
    """
    from medseg.core.environment import record_environment
    from medseg.core.files import atomic_folder, write_text
    from medseg.core.gpu_locks import own_gpus
    from medseg.core.parallel import MachineParams
    from medseg.core.params import Seed, read_section
    from medseg.data.augment import Transforms
    from medseg.data.packed import open_packed
    from medseg.data.task import TaskParams
    from medseg.data.training_images import training_images, write_training_images
    from medseg.models.checkpoint import save_bundle
    from medseg.models.params import ModelParams
    from medseg.training.initial_network import images_of_initial_network, overlap_warnings
    from medseg.training.optimizer_state import save_state
    from medseg.training.params import (
        LoggerParams,
        LossParams,
        OptimizerParams,
        SamplingParams,
        SchedulerParams,
        TrainParams,
    )
    from medseg.training.state_folder import state_folder
    from medseg.training.trainer import Folders, Recipe, fit

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
    machine = read_section(params, "machine", MachineParams)
    logger = read_section(params, "logger", LoggerParams)
    seen = images_of_initial_network(recipe.train.initial_network, weights)
    refuse = recipe.train.initial_overlap == "fail"
    warnings = overlap_warnings(recipe.train.initial_network, overlap, refuse)
    train_set, val_set = open_packed(augmented), open_packed(val)
    gpus = own_gpus(machine.accelerator, recipe.train.devices)
    with gpus, state_folder(recipe, [augmented, val, weights, overlap], machine.accelerator) as state:
        folders = Folders(weights, metrics, logs, state)
        trained = fit(train_set, val_set, recipe, folders, machine, logger, warnings)
        if trained is None:  # another process of this run writes what came out
            return
        with atomic_folder(network) as partial:
            save_bundle(partial, trained.network, trained.description)
            write_training_images(training_images(train_set.index, val_set.index, seen), partial)
            save_state(partial, trained.optimizer_state, trained.scheduler_state, recipe.optimizer, recipe.scheduler)
        record = trained.description.training
        write_text(best, json.dumps({"val/dice": record.val_dice, "epoch": record.best_epoch}, indent=2) + "\n")
    record_environment(environment, "train")


if __name__ == "__main__":
    run_stage(main)
