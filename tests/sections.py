"""The groups of `conf/`, each with the type of the section that its files hold."""

from pathlib import Path
from typing import Any

from medseg.core.parallel import MachineParams
from medseg.data.augment import AugmentParams, Transforms
from medseg.data.geometry import Geometry
from medseg.data.manifest import ManifestParams
from medseg.data.splits import SplitParams
from medseg.data.task import TaskParams
from medseg.datasets import DataParams
from medseg.evaluation.tuning import EvaluateParams
from medseg.models.params import ModelParams
from medseg.training.loggers import LoggerParams
from medseg.training.losses import LossParams
from medseg.training.optim import OptimizerParams, SchedulerParams
from medseg.training.sampler import SamplingParams
from medseg.training.trainer import TrainParams

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
    "logger": LoggerParams,
    "evaluate": EvaluateParams,
    "machine": MachineParams,
}
