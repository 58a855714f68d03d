"""`conf/` to `params.yaml`, exactly as `dvc exp run` composes it."""

from collections.abc import Sequence
from pathlib import Path

from dvc.utils.hydra import compose_and_dump
from hydra.errors import HydraException, OverrideParseException
from omegaconf.errors import OmegaConfBaseException

from medseg.core.errors import UserError
from medseg.core.files import atomic_file
from medseg.core.sections import check_sections

_QUOTING = """
       Values with braces, commas, spaces, = or : need quotes twice, for the shell and for Hydra:
       -S 'data.images="images/{stem}.png"'"""


def compose(conf: Path, output: Path, overrides: Sequence[str]) -> None:
    """Compose the Hydra configuration under `conf` with `overrides` (`data=busi`, `train.epochs=3`) into `output`.

    Raises `UserError` where a group, a choice or a key does not exist.
    """
    try:
        compose_and_dump(str(output), str(conf.resolve()), None, "config", "", list(overrides))
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(f"{conf}: {error}{_QUOTING if isinstance(error, OverrideParseException) else ''}") from error


def write_params(conf: Path, output: Path, overrides: Sequence[str]) -> None:
    """As `compose`, for the pipeline: `output` stays as it was unless every section is valid. Raises `UserError`."""
    with atomic_file(output) as partial:
        compose(conf, partial, overrides)
        check_sections(partial, shown=output)
