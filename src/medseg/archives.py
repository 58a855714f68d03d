"""Bringing the files of a data set into a folder: from local folders, local archives, or the network."""

from pydantic import Field

from medseg.params import Section


class Address(Section):
    """One place on the network that serves an archive; mirrors may serve other bytes."""

    url: str = Field(pattern=r"^https?://")
    checksum: str | None = Field(pattern=r"^(sha256:[0-9a-f]{64}|md5:[0-9a-f]{32})$")


class Archive(Section):
    """One file to fetch, and the addresses to ask for it, in turn."""

    file: str = Field(pattern=r"^[^/\\]+$")
    addresses: tuple[Address, ...]


class ArchiveParams(Section):
    """Where a data set comes from that somebody else published."""

    name: str
    path: str | None
    archives: tuple[Archive, ...]
