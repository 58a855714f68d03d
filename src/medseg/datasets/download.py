"""Fetching the files of a data set: from a local folder, from local archives, or from the network.

`tarfile`'s data filter and `zipfile` keep members below the destination and set plain permissions. What they let
through is refused here: links (the filter of Python before 3.11.13 could be led out of the folder by them), names that
are taken, members that a damaged archive loses silently, and archives that would fill the disk or the memory.
"""

import bz2
import gzip
import hashlib
import io
import lzma
import os
import shutil
import stat
import struct
import tarfile
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

import pooch
from pydantic import Field
from tqdm import tqdm

from medseg.core.errors import UserError
from medseg.core.folders import walk_folders
from medseg.core.params import PathInside, Section

DATA_VARIABLE = "MEDSEG_DATA"  # environment variable: a folder with local data sets
TABLES = (".csv", ".txt")  # published beside the archives and kept as they are

TIMEOUT = 30.0  # seconds to wait for an answer, and between two pieces
ATTEMPTS = 3  # per address, where the connection fails; not for a wrong checksum
PAUSE = 1.0  # seconds before the second attempt, twice that before the third
GRACE = 60.0  # seconds after which the mean rate must be at least `SLOWEST`
SLOWEST = 1024  # bytes per second; a server that sends a byte now and then never times out
PIECE = 1 << 20  # bytes read at a time

MAX_BYTES = 200 << 30  # unpacked; ISIC 2017, the largest data set in use, has about 12 GiB
MAX_MEMBERS = 500_000  # each takes a kilobyte of memory
MAX_RATIO = 500  # unpacked to packed: images reach 2, masks kept as plain TIFF 190, a bomb 1000 and more
HARMLESS_BYTES = 1 << 26  # up to this size any ratio is accepted
SPARE_BYTES = 1 << 28  # that unpacking leaves free on the disk
MAX_HEADER = 1 << 24  # bytes of a tar header: names reach 4096; a longer one could fill the memory

_END, _LONGEST_COMMENT = 22, 0xFFFF  # bytes of the end record of a zip archive, and of the comment behind it
_ZIP64 = 0xFFFF  # in place of the number of members, where there are as many or more
_ZIP64_END, _LOCATOR = 76, 20  # bytes of the longer record with its locator, and of the locator alone

_COMPRESSED: dict[bytes, Any] = {  # the first bytes of a file, and what opens it
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\x00": lzma.open,
    b"]\x00\x00\x80": lzma.open,  # the older .lzma
}


class Address(Section):
    """A URL that serves an archive. Mirrors may serve other bytes, so each has its own checksum."""

    url: str = Field(pattern=r"^https?://")
    checksum: str | None = Field(pattern=r"^(sha256:[0-9a-f]{64}|md5:[0-9a-f]{32})$")


class Archive(Section):
    """One file to fetch, and its addresses, which are tried in turn."""

    file: PathInside = Field(pattern=r"^[^/\\]+$")
    addresses: tuple[Address, ...]


def fetch_archives(name: str, path: str | None, archives: Sequence[Archive], destination: Path) -> list[Path]:
    """Fill the existing empty folder `destination` with the files of the data set `name`, as their archives hold them.

    Looked for in this order: the folder `$MEDSEG_DATA/NAME`, the archives in `$MEDSEG_DATA`, the local folder or
    archive `path`, the addresses. Local files are taken as they are; a download must have its checksum. Returns the
    local files and folders that were read. Raises `UserError`.
    """
    local = _data_folder()
    if local is not None and (local / name).is_dir():
        print(f"{name}: taken from {local / name}, which {DATA_VARIABLE} names{', not from data.path' if path else ''}")
        copy_folder(local / name, destination)
        return [local / name]
    if path is not None and not any(_is_in(local, archive) for archive in archives):
        _take(path, destination)
        return [Path(path).expanduser()]
    if archives:
        files = [
            local / archive.file if local and _is_in(local, archive) else retrieve(archive) for archive in archives
        ]
        for archive, file in zip(archives, files, strict=True):
            if archive.file.lower().endswith(TABLES):
                shutil.copyfile(file, destination / archive.file)
            else:
                unpack(file, destination)
        return [file for file in files if local and file.is_relative_to(local)]
    raise UserError(
        f"{name}: no address of this data set is known. Name its folder or archive in 'data.path', or put "
        f"its folder at {name}/ in a folder that the environment variable {DATA_VARIABLE} names"
    )


def copy_folder(source: Path, destination: Path) -> None:
    """Copy all files below `source` (links followed) to the same places below `destination`.

    Raises `UserError` where there is no file, or where one can't be copied: a pipe, a device, a broken link.
    """
    if destination.resolve().is_relative_to(source.resolve()):
        raise UserError(f"{source}: holds the folder to copy to, {destination}; name the data set's own folder")
    files = [Path(folder) / name for folder, _, names in walk_folders(source) for name in names]
    if not files:
        raise UserError(f"{source}: holds no file")
    try:
        for file in tqdm(files, desc=f"copy {source.name}", unit="file", disable=None):
            if not file.is_file():  # a pipe or a device might never end
                raise UserError(f"{file}: no plain file, or a broken link; remove it")
            target = destination / file.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)  # the contents alone: the copy of a read-only file can be written
    except OSError as error:
        raise UserError(f"{source}: not copied: {error}") from error


def retrieve(archive: Archive) -> Path:
    """Download an archive into the user's cache, unless it is there, from the first address that gives it whole.

    Raises `UserError`.
    """
    known = sorted(archive.addresses, key=lambda address: not _cached(archive, address).is_file())
    failures = []
    for address in known:
        try:
            return _retrieve_from(archive, address)
        except (OSError, ValueError) as error:
            failures.append(f"{address.url}: {error}")
    reasons = "\n       ".join(failures or ["no address is known"])
    raise UserError(
        f"{archive.file}: not here and not downloaded\n       {reasons}\n"
        f"       To place it by hand, put {archive.file} into a folder and name the folder in the environment "
        f"variable {DATA_VARIABLE}, or name a folder or archive with the whole data set in 'data.path'"
    )


def unpack(file: Path, destination: Path) -> None:
    """Write the members of a zip or tar archive (plain, gz, bz2, xz) below the existing folder `destination`.

    Raises `UserError` where the file is no archive, is damaged or encrypted, or holds what a data set never does: a
    link, a device, a name that is taken, or more than `MAX_BYTES`, `MAX_MEMBERS`, `MAX_RATIO` or `MAX_HEADER` allow.
    """
    # Tar first: a tar archive that ends with a zip file looks like a zip file.
    members = _tar_members(file, destination) if _is_tar(file) else _zip_members(file, destination)
    total, taken = 0, set[str]()
    try:
        for count, member in enumerate(tqdm(members, desc=f"unpack {file.name}", unit="file", disable=None), 1):
            total += member.size
            _check_size(file, count, total)
            _check_room(file, member, destination)
            if not member.is_plain:
                raise UserError(f"{file}: refused: its member '{member.name}' is a link or a device, or sparse")
            place = _place(member.name)
            if place in taken or (destination / place).is_file():
                raise UserError(
                    f"{file}: refused: its member '{member.name}' is there already, from it or another archive of the "
                    "data set"
                )
            taken.add(place)
            member.extract()
    except UserError:
        raise
    except Exception as error:  # the readers raise nearly anything on damaged files: IndexError, UnicodeDecodeError ...
        raise UserError(f"{file}: {_fault(error)}: {error}") from error


def _place(name: str) -> str:
    """Where a member comes to lie: both readers leave out what would lead elsewhere, so `b` and `../b` are one file."""
    return "/".join(part for part in name.replace("\\", "/").split("/") if part not in ("", ".", ".."))


def _fault(error: Exception) -> str:
    """What to say of an archive after this error: a full disk, a long name or encryption is no damage."""
    # These two are damage, though the one is an OSError and the other a RuntimeError.
    is_damage = isinstance(error, gzip.BadGzipFile | NotImplementedError)
    if isinstance(error, OSError | RuntimeError | tarfile.FilterError) and not is_damage:
        return "not unpacked"
    return "damaged, or no archive that can be read"


def _data_folder() -> Path | None:
    named = os.environ.get(DATA_VARIABLE)
    if not named:
        return None
    if not Path(named).is_dir():
        raise UserError(f"{DATA_VARIABLE}={named}: this folder does not exist; correct or unset the variable")
    return Path(named)


def _is_in(local: Path | None, archive: Archive) -> bool:
    return local is not None and (local / archive.file).is_file()


def _take(name: str, destination: Path) -> None:
    try:
        path = Path(name).expanduser()
        path.stat()
    except (OSError, RuntimeError, ValueError) as error:  # of a user without home: RuntimeError
        raise UserError(f"{name}: no such folder or archive; correct 'data.path'{_started(name)} ({error})") from None
    if path.is_dir():
        copy_folder(path, destination)
    elif path.is_file():
        unpack(path, destination)
    else:
        raise UserError(f"{path}: no folder and no plain file; correct 'data.path'{_started(name)}")


def _started(name: str) -> str:
    """Where a relative path was looked for: not every run works in the project's own folder."""
    if name.startswith(("/", "~")):
        return ""
    return f". It starts at {Path.cwd()}; the queue and --temp work in a copy of the project: give an absolute path"


def _cached(archive: Archive, address: Address) -> Path:
    """The file of an address in the cache. Each has its own, because two may serve different bytes."""
    origin = hashlib.sha256(address.url.encode()).hexdigest()[:12]
    return Path(pooch.os_cache("medseg")) / f"{origin}-{archive.file}"


def _retrieve_from(archive: Archive, address: Address) -> Path:
    for attempt in range(1, ATTEMPTS):
        try:
            return _attempt(archive, address)
        except OSError as error:
            # A server that answered (404) or an address that cannot be asked (ValueError) will not change its mind.
            if isinstance(error, ValueError) or getattr(error, "response", None) is not None:
                raise
            time.sleep(PAUSE * attempt)
    return _attempt(archive, address)


def _attempt(archive: Archive, address: Address) -> Path:
    target = _cached(archive, address)
    pooch.retrieve(address.url, address.checksum, fname=target.name, path=target.parent, downloader=_transfer)
    if address.checksum is None and not _is_plausible(target):
        target.unlink()
        raise ValueError("this is not the file but perhaps a web page")
    return target


def _transfer(url: str, output_file: str, _: object) -> None:
    """A downloader for pooch: write what `url` serves to a file. Raises `OSError` where it fails or is too slow."""
    import requests  # slow to import, and seldom needed
    from urllib3.exceptions import HTTPError

    with ExitStack() as stack:
        response = stack.enter_context(requests.get(url, stream=True, timeout=TIMEOUT))
        response.raise_for_status()
        out = stack.enter_context(Path(output_file).open("wb"))
        length = response.headers.get("content-length", "")
        total = int(length) if length.isdecimal() else None
        bar = stack.enter_context(tqdm(desc=url, total=total, unit="B", unit_scale=True, disable=None))
        start, received = time.monotonic(), 0
        try:
            while piece := response.raw.read1(PIECE, decode_content=True):  # what has arrived, without waiting for more
                received += len(piece)
                _check_transfer(received, time.monotonic() - start)
                out.write(piece)
                bar.update(len(piece))
        except HTTPError as error:
            raise OSError(str(error)) from error


def _check_transfer(received: int, seconds: float) -> None:
    if seconds > GRACE and received < SLOWEST * seconds:
        raise OSError(f"only {received} bytes came in {seconds:.0f} seconds")
    if received > MAX_BYTES:
        raise OSError(f"more than {MAX_BYTES} bytes came")


def _is_plausible(file: Path) -> bool:
    if file.name.lower().endswith(TABLES):
        with file.open("rb") as content:
            return not content.read(PIECE).lstrip().startswith(b"<")
    return _is_tar(file) or zipfile.is_zipfile(file)


@dataclass(frozen=True)
class _Member:
    """One entry of an archive, whatever its format."""

    name: str
    size: int  # bytes when unpacked
    is_plain: bool  # a file that is not sparse, or a folder
    extract: Callable[[], object]


class _Bounded(io.RawIOBase):
    """A file that reads at most `MAX_HEADER` bytes at once: `tarfile` reads names whole, however long."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= MAX_HEADER:
            raise tarfile.ReadError(f"a header of {size} bytes")
        return self._file.read(size)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()


@contextmanager
def _opened_tar(file: Path) -> Iterator[tarfile.TarFile]:
    with file.open("rb") as raw, ExitStack() as stack:
        start = raw.read(8)
        raw.seek(0)
        opens = next((opens for magic, opens in _COMPRESSED.items() if start.startswith(magic)), None)
        content = raw if opens is None else stack.enter_context(opens(raw))
        yield stack.enter_context(tarfile.open(fileobj=_Bounded(content), mode="r:"))


def _is_tar(file: Path) -> bool:
    try:
        with _opened_tar(file):
            return True
    except (tarfile.TarError, lzma.LZMAError, EOFError, zlib.error, OSError):
        return False


def _tar_members(file: Path, destination: Path) -> Iterator[_Member]:
    with _opened_tar(file) as archive:
        for info in archive:
            extract = partial(archive.extract, info, destination, filter="data")
            is_plain = (info.isreg() and not info.issparse()) or info.isdir()  # sparse: it says its own size
            yield _Member(info.name, info.size, is_plain, extract)
        _require_end(archive)


def _require_end(archive: tarfile.TarFile) -> None:
    """Raise `tarfile.ReadError` where no empty block follows: `tarfile` takes a damaged header for the end.

    Reads what is left, because checksums of compressed files stand at their end.
    """
    if content := archive.fileobj:
        content.seek(archive.offset)
        if content.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError("a header is damaged, or the end is missing")
        while content.read(PIECE):
            if content.tell() > archive.offset + HARMLESS_BYTES:
                raise tarfile.ReadError("it goes on after its end")


def _zip_members(file: Path, destination: Path) -> Iterator[_Member]:
    _refuse_many(file)
    with zipfile.ZipFile(file) as archive:
        _require_all(file, archive)
        for info in archive.infolist():
            info.filename = info.filename.replace("\\", "/")  # some zip programs write backslashes
            if info.is_dir() and info.file_size:
                raise zipfile.BadZipFile(f"'{info.orig_filename}' is a folder that holds bytes")
            kind = stat.S_IFMT(info.external_attr >> 16)  # 0 where the archive was made on another system
            is_plain = kind in (0, stat.S_IFREG, stat.S_IFDIR)
            yield _Member(info.filename, info.file_size, is_plain, partial(archive.extract, info, destination))


def _refuse_many(file: Path) -> None:
    """Raise `UserError` for more than `MAX_MEMBERS`, before `zipfile` makes an object of each, ten times their bytes.

    The format: PKWARE, "APPNOTE.TXT", 4.3.12, 4.3.14 and 4.3.16; the number that it gives need not be true.
    """
    length = file.stat().st_size
    with file.open("rb") as content:
        content.seek(start := max(0, length - _END - _LONGEST_COMMENT - _ZIP64_END))
        tail = content.read()
        record = tail.rfind(b"PK\x05\x06")
        if record < 0 or len(tail) < record + _END:
            return  # no zip archive, as `zipfile` will say
        (size,) = struct.unpack("<I", tail[record + 12 : record + 16])
        end = start + record
        if tail[max(0, record - _LOCATOR) :].startswith(b"PK\x06\x07") and record >= _ZIP64_END:
            (size,) = struct.unpack("<Q", tail[record - 36 : record - 28])
            end -= _ZIP64_END
        content.seek(max(0, end - size))
        count = content.read(min(size, length)).count(b"PK\x01\x02")
    if count > MAX_MEMBERS:
        raise UserError(
            f"{file}: refused: it has {count} members, more than {MAX_MEMBERS}. If it is sound, unpack it by hand and "
            "name the folder in 'data.path'"
        )


def _require_all(file: Path, archive: zipfile.ZipFile) -> None:
    """Raise `zipfile.BadZipFile` where the table of members lacks some: `zipfile` does not count them.

    The format: PKWARE, "APPNOTE.TXT", 4.3.16, the end of central directory record.
    """
    with file.open("rb") as content:
        content.seek(-min(_END + _LONGEST_COMMENT, file.stat().st_size), io.SEEK_END)
        tail = content.read()
    record = tail.rindex(b"PK\x05\x06")
    (count,) = struct.unpack("<H", tail[record + 10 : record + 12])
    if count not in (_ZIP64, found := len(archive.infolist())):
        raise zipfile.BadZipFile(f"its table of members has {found} entries and should have {count}")


def _check_size(file: Path, count: int, total: int) -> None:
    ratio = total / max(file.stat().st_size, 1)
    if count > MAX_MEMBERS or total > MAX_BYTES or (total > HARMLESS_BYTES and ratio > MAX_RATIO):
        raise UserError(
            f"{file}: refused: its first {count} members unpack to {total} bytes, {ratio:.0f} times its size. If it is "
            "sound, unpack it by hand and name the folder in 'data.path'"
        )


def _check_room(file: Path, member: _Member, destination: Path) -> None:
    free = shutil.disk_usage(destination).free
    if member.size > free - SPARE_BYTES:
        raise UserError(
            f"{file}: not unpacked: '{member.name}' takes {member.size} bytes, and {free} are free at {destination}; "
            "make room there, then run the same command again"
        )
