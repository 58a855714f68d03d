"""`conf/` to `params.yaml`, exactly as `dvc exp run` composes it."""

from collections.abc import Sequence
from pathlib import Path

from dvc.utils.hydra import compose_and_dump
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from medseg.core.errors import UserError


def compose(conf: Path, output: Path, overrides: Sequence[str]) -> None:
    """Compose the Hydra configuration under `conf` with `overrides` (`data=busi`, `train.epochs=3`) into `output`.

    Raises `UserError` where a group, a choice or a key does not exist.
    """
    try:
        compose_and_dump(str(output), str(conf.resolve()), None, "config", "", list(overrides))
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(f"{conf}: {error}") from error
