"""The base classes of data sources: title, fetching and scanning."""

from abc import abstractmethod
from pathlib import Path
from typing import ClassVar, Self

from medseg.core.parallel import MachineParams
from medseg.core.params import Section
from medseg.datasets.download import Archive, fetch_archives
from medseg.datasets.record import Record


class SourceParams(Section):
    """Base of the section `data`: one class per source, chosen by `name`."""

    name: str
    title: ClassVar[str]  # of the data set in reports: "BUSI breast ultrasound"
    simulated: ClassVar[bool] = False  # made by a program: says nothing of real images

    @abstractmethod
    def fetch(self, destination: Path, machine: MachineParams) -> list[Path]:
        """Fill the existing empty folder `destination` with the files of the data set.

        Returns the local files and folders that were read. Raises `UserError`.
        """

    @abstractmethod
    def scan(self, root: Path) -> list[Record]:
        """One record per image below `root`, always in the same order. Reads no image.

        An image without a mask is recorded without. Raises `UserError` where the files are not laid out as the
        source's module describes.
        """

    @classmethod
    def layout(cls) -> Self | None:
        """The section for a folder that lies as the published archive unpacks; None where there is no such archive."""
        return None


class ArchiveParams(SourceParams):
    """A source whose files come from a local folder, local archives or the network."""

    path: str | None  # a local folder or archive
    archives: tuple[Archive, ...]

    def fetch(self, destination: Path, machine: MachineParams) -> list[Path]:  # noqa: ARG002  # one file at a time
        """As `fetch_archives`."""
        return fetch_archives(self.name, self.path, self.archives, destination)
