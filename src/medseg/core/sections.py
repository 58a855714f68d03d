"""All sections of `params.yaml` at once: what whichever stage runs first checks, so that none is told after hours.

The types stand in the packages that use them, which import this one; so they are named here and looked up when asked
for. None of these modules imports torch. A stage that merely checks a section depends on neither its code nor its
values: nothing that it writes does.
"""

from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from medseg.core.errors import UserError
from medseg.core.params import read_yaml, validate

SECTIONS = {  # and where the type of each stands
    "data": "medseg.datasets:DataParams",
    "manifest": "medseg.data.manifest:ManifestParams",
    "split": "medseg.data.splits:SplitParams",
    "prepare": "medseg.data.geometry:Geometry",
    "intensity": "medseg.data.intensity:IntensityParams",
    "augment": "medseg.data.augment:AugmentParams",
    "task": "medseg.data.task:TaskParams",
    "model": "medseg.models.params:ModelParams",
    "loss": "medseg.training.params:LossParams",
    "optimizer": "medseg.training.params:OptimizerParams",
    "scheduler": "medseg.training.params:SchedulerParams",
    "sampling": "medseg.training.params:SamplingParams",
    "online": "medseg.data.augment:Transforms",
    "train": "medseg.training.params:TrainParams",
    "logger": "medseg.training.params:LoggerParams",
    "evaluate": "medseg.evaluation.tuning:EvaluateParams",
    "machine": "medseg.core.parallel:MachineParams",
    "name": "medseg.core.params:Word",
    "seed": "medseg.core.params:Seed",
}


def section_type(name: str) -> Any:
    """The type of a section, a class or a union of classes."""
    return resolve_name(SECTIONS[name])


def check_sections(path: Path, shown: Path | None = None) -> None:
    """Raise `UserError` with every fault of every section of a parameter file, named `shown` where it is a draft."""
    where = shown or path
    sections = read_yaml(path)
    faults = [f"{where}: the section '{name}' is missing" for name in SECTIONS if name not in sections]
    faults += [f"{where}: {name} is no section; there are {', '.join(SECTIONS)}" for name in sections.keys() - SECTIONS]
    for name in (name for name in SECTIONS if name in sections):
        try:
            validate(sections[name], section_type(name), f"{where}: {name}")
        except UserError as error:
            faults.append(str(error))
    if faults:
        raise UserError("\n       ".join(faults))
