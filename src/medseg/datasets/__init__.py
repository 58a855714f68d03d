"""The data sets: one module per source, which knows where its files come from and how they are laid out.

A new source is one module with a class of `SourceParams`, one file in `conf/data`, and one line in `DataParams`.
"""

from typing import Annotated, get_args

from pydantic import Field

from medseg.datasets.busi import BusiParams
from medseg.datasets.cryonuseg import CryonusegParams
from medseg.datasets.folder import FolderParams
from medseg.datasets.isic2017 import Isic2017Params
from medseg.datasets.phantom import PhantomParams
from medseg.datasets.source import SourceParams
from medseg.datasets.ucsb import UcsbParams

DataParams = Annotated[
    PhantomParams | BusiParams | Isic2017Params | CryonusegParams | UcsbParams | FolderParams,
    Field(discriminator="name"),
]

# By the value of `data.name`, which is also the name of the YAML file in conf/data.
SOURCES: dict[str, type[SourceParams]] = {
    get_args(kind.model_fields["name"].annotation)[0]: kind for kind in get_args(get_args(DataParams)[0])
}
# The sources with a published archive, as sections for a folder that lies as their archive unpacks.
LAYOUTS: dict[str, SourceParams] = {name: section for name, kind in SOURCES.items() if (section := kind.layout())}


def title_of(name: str) -> str:
    """The title of the data set of this name; one that is not known here stands for itself."""
    return SOURCES[name].title if name in SOURCES else name


def is_simulated(name: str) -> bool:
    """Whether the images of the data set of this name are simulated."""
    return name in SOURCES and SOURCES[name].simulated
