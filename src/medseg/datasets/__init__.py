"""The data sets: one module per source, each of which knows where its files come from and what they mean.

A new source is one module, one file in `conf/data`, and its line in `DataParams` and `scan`.
"""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from medseg.core.parallel import MachineParams
from medseg.datasets import phantom
from medseg.datasets.busi import BusiParams, scan_busi_layout
from medseg.datasets.cryonuseg import CryonusegParams, scan_cryonuseg
from medseg.datasets.download import fetch_archives
from medseg.datasets.folder import FolderParams, scan_folder
from medseg.datasets.isic2017 import Isic2017Params, scan_isic2017
from medseg.datasets.phantom import PhantomParams
from medseg.datasets.record import Record
from medseg.datasets.ucsb import UcsbParams, scan_ucsb

DataParams = Annotated[
    PhantomParams | BusiParams | Isic2017Params | CryonusegParams | UcsbParams | FolderParams,
    Field(discriminator="name"),
]


def fetch(params: DataParams, destination: Path, machine: MachineParams) -> None:
    """Fill the existing empty folder `destination` with the files of the data set. Raises `UserError`."""
    if isinstance(params, PhantomParams):
        phantom.fetch(params, destination, machine)
    else:
        fetch_archives(params, destination)


def scan(params: DataParams, root: Path) -> list[Record]:
    """One record per image below `root`, always in the same order.

    An image without a mask is recorded without. Raises `UserError` where the files are not laid out as the source's
    module describes.
    """
    match params:
        case PhantomParams():
            return scan_busi_layout(root)
        case BusiParams():
            return scan_busi_layout(root, params.labels)
        case Isic2017Params():
            return scan_isic2017(root)
        case CryonusegParams():
            return scan_cryonuseg(params, root)
        case UcsbParams():
            return scan_ucsb(root)
        case FolderParams():
            return scan_folder(params, root)
