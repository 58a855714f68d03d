"""The groups of `conf/`, each with the type of the section that its files hold."""

from pathlib import Path
from typing import Any

from medseg.augmentation import AugmentParams, Transforms
from medseg.classes import TaskParams
from medseg.datasets import DataParams
from medseg.geometry import Geometry
from medseg.losses import LossParams
from medseg.machine import MachineParams
from medseg.manifest import ManifestParams
from medseg.models.params import ModelParams
from medseg.optimisation import OptimizerParams, SchedulerParams
from medseg.sampling import SamplingParams
from medseg.selection import EvaluateParams
from medseg.splits import SplitParams
from medseg.training import TrainParams

CONF = Path(__file__).parents[1] / "conf"
SECTIONS: dict[str, Any] = {
    "data": DataParams,
    "manifest": ManifestParams,
    "split": SplitParams,
    "prepare": Geometry,
    "augment": AugmentParams,
    "task": TaskParams,
    "model": ModelParams,
    "loss": LossParams,
    "optimizer": OptimizerParams,
    "scheduler": SchedulerParams,
    "sampling": SamplingParams,
    "online": Transforms,
    "train": TrainParams,
    "evaluate": EvaluateParams,
    "machine": MachineParams,
}
