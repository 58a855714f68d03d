import base64
import bz2
import gzip
import hashlib
import io
import lzma
import os
import shutil
import stat
import tarfile
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from http_server import Server

from medseg.core.errors import UserError
from medseg.core.params import validate
from medseg.datasets import download
from medseg.datasets.download import Address, Archive, copy_folder, fetch_archives, retrieve, unpack

FILES = {"Set/benign/benign (1).png": b"image", "Set/benign/benign (1)_mask.png": b"mask", "Set/notes.txt": b""}


def zipped(files: dict[str, bytes] = FILES) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)  # always of the same date
    return buffer.getvalue()


def tarred(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for info, content in members:
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def sha256(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


@pytest.fixture
def target(tmp_path: Path) -> Path:
    folder = tmp_path / "target"
    folder.mkdir()
    return folder


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No data folder, a cache of its own, no waiting between attempts, and no proxy on the way to the local server."""
    monkeypatch.delenv("MEDSEG_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(download, "PAUSE", 0.0)


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


def archive_at(*addresses: tuple[str, str | None], file: str = "set.zip") -> Archive:
    return Archive(file=file, addresses=tuple(Address(url=url, checksum=checksum) for url, checksum in addresses))


def fetch(destination: Path, *found: Archive, path: str | None = None) -> None:
    fetch_archives("set", path, found, destination)


class TestUnpack:
    @pytest.mark.parametrize("pack", [bytes, gzip.compress, bz2.compress, lzma.compress])
    def test_takes_tar_archives_of_every_compression(
        self, tmp_path: Path, target: Path, pack: Callable[[bytes], bytes]
    ) -> None:
        (tmp_path / "set.bin").write_bytes(pack(tarred(*((tarfile.TarInfo(name), FILES[name]) for name in FILES))))
        unpack(tmp_path / "set.bin", target)
        assert contents(target) == FILES

    def test_takes_zip_archives_with_folders_of_their_own(self, tmp_path: Path, target: Path) -> None:
        (tmp_path / "set.zip").write_bytes(zipped({"Set/": b"", "Set/empty/": b"", **FILES}))
        unpack(tmp_path / "set.zip", target)
        assert contents(target) == FILES
        assert (target / "Set" / "empty").is_dir()

    def test_takes_a_tar_archive_that_ends_with_a_zip_for_a_tar_archive(self, tmp_path: Path, target: Path) -> None:
        (tmp_path / "set.tar").write_bytes(tarred((tarfile.TarInfo("inner.zip"), zipped())))
        unpack(tmp_path / "set.tar", target)
        assert contents(target) == {"inner.zip": zipped()}

    def test_reads_backslashes_as_folders(self, tmp_path: Path, target: Path) -> None:
        (tmp_path / "set.zip").write_bytes(zipped({"Set\\benign\\a.png": b"x"}))
        unpack(tmp_path / "set.zip", target)
        assert contents(target) == {"Set/benign/a.png": b"x"}

    def test_gives_files_that_their_owner_can_write(self, tmp_path: Path, target: Path) -> None:
        info = tarfile.TarInfo("a.png")
        info.mode = 0o4444
        (tmp_path / "set.tar").write_bytes(tarred((info, b"x")))
        unpack(tmp_path / "set.tar", target)
        mode = (target / "a.png").stat().st_mode
        assert mode & stat.S_IWUSR
        assert not mode & stat.S_ISUID

    @pytest.mark.parametrize("name", ["/etc/evil", "Set/../../evil", "..\\evil"])
    @pytest.mark.parametrize("kind", ["zip", "tar"])
    def test_writes_nothing_outside_its_folder(self, tmp_path: Path, target: Path, name: str, kind: str) -> None:
        content = zipped({name: b"x"}) if kind == "zip" else tarred((tarfile.TarInfo(name), b"x"))
        (tmp_path / "bad").write_bytes(content)
        with suppress(UserError):
            unpack(tmp_path / "bad", target)
        assert {path.name for path in tmp_path.iterdir()} == {"bad", "target"}
        assert not Path("/etc/evil").exists()

    @pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
    def test_refuses_links_and_devices_in_tar_archives(self, tmp_path: Path, target: Path, kind: bytes) -> None:
        info = tarfile.TarInfo("Set/link")
        info.type, info.linkname = kind, "a.png"  # inside: the data filter would take it
        (tmp_path / "bad.tar").write_bytes(tarred((info, b"")))
        with pytest.raises(UserError, match=r"bad\.tar: refused: its member 'Set/link' is a link or a device"):
            unpack(tmp_path / "bad.tar", target)
        assert not list(target.iterdir())

    def test_refuses_links_in_zip_archives(self, tmp_path: Path, target: Path) -> None:
        info = zipfile.ZipInfo("Set/link")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        with zipfile.ZipFile(tmp_path / "bad.zip", "w") as archive:
            archive.writestr(info, "/etc/passwd")
        with pytest.raises(UserError, match=r"'Set/link' is a link or a device"):
            unpack(tmp_path / "bad.zip", target)

    def test_refuses_a_sparse_member_which_says_its_own_size(self, tmp_path: Path, target: Path) -> None:
        info = tarfile.TarInfo("zeros")
        info.type = tarfile.GNUTYPE_SPARSE
        header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
        header[386:410] = b"%011o\0%011o\0" % (30 << 20, 0)  # where its last part would begin, and no byte of it
        header[483:495] = b"%011o\0" % (30 << 20)
        header[148:156] = b"%06o\0 " % (sum(header[:148]) + sum(header[156:512]) + 8 * 32)
        (tmp_path / "bomb.tar.gz").write_bytes(gzip.compress(bytes(header) + bytes(1024)))
        with pytest.raises(UserError, match=r"its member 'zeros' is a link or a device, or sparse"):
            unpack(tmp_path / "bomb.tar.gz", target)
        assert not contents(target)

    def test_refuses_a_small_archive_that_unpacks_to_much(self, tmp_path: Path, target: Path) -> None:
        (tmp_path / "bomb.zip").write_bytes(zipped({"zeros": bytes(100 << 20)}))
        with pytest.raises(UserError, match=r"refused: its first 1 members unpack to 104857600 bytes"):
            unpack(tmp_path / "bomb.zip", target)
        assert not contents(target)

    @pytest.mark.parametrize("limit", [1, 1000], ids=["64 bits", "32 bits"])  # of members for the shorter end record
    def test_refuses_too_many_members_before_they_are_listed(
        self, tmp_path: Path, target: Path, monkeypatch: pytest.MonkeyPatch, limit: int
    ) -> None:
        monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", limit)
        (tmp_path / "many.zip").write_bytes(zipped({f"{number}.png": b"x" for number in range(9)}))
        unpack(tmp_path / "many.zip", target)
        assert len(contents(target)) == 9
        monkeypatch.setattr(download, "MAX_MEMBERS", 8)
        monkeypatch.setattr(zipfile, "ZipFile", None)
        with pytest.raises(UserError, match=r"many\.zip: refused: it has 9 members, more than 8"):
            unpack(tmp_path / "many.zip", target)

    def test_stops_before_the_disk_is_full(self, tmp_path: Path, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        free = shutil.disk_usage(target)._replace(free=download.SPARE_BYTES + 4)
        monkeypatch.setattr(shutil, "disk_usage", lambda _: free)
        (tmp_path / "set.zip").write_bytes(zipped())
        with pytest.raises(UserError, match=r"set\.zip: not unpacked: 'Set/benign/benign \(1\)\.png' takes 5 bytes"):
            unpack(tmp_path / "set.zip", target)

    def test_refuses_a_bomb_before_it_is_written(
        self, tmp_path: Path, target: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(download, "HARMLESS_BYTES", 1 << 20)
        (tmp_path / "bomb.zip").write_bytes(zipped({"zeros": bytes(4 << 20)}))
        (tmp_path / "bomb.tar.bz2").write_bytes(bz2.compress(tarred((tarfile.TarInfo("zeros"), bytes(4 << 20)))))
        for name in ("bomb.zip", "bomb.tar.bz2"):
            with pytest.raises(UserError, match=r"refused: its first 1 members unpack to 4194304 bytes"):
                unpack(tmp_path / name, target)
        assert not contents(target)

    def test_takes_a_high_ratio_where_the_archive_is_small(self, tmp_path: Path, target: Path) -> None:
        (tmp_path / "masks.zip").write_bytes(zipped({"empty mask.tif": bytes(4 << 20)}))
        unpack(tmp_path / "masks.zip", target)
        assert (target / "empty mask.tif").stat().st_size == 4 << 20

    @pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME])
    def test_refuses_a_header_that_would_fill_the_memory(self, tmp_path: Path, target: Path, kind: bytes) -> None:
        info = tarfile.TarInfo("x")
        info.type, info.size = kind, 3 << 30  # said, not there
        (tmp_path / "bomb.tar.gz").write_bytes(gzip.compress(info.tobuf(tarfile.GNU_FORMAT) + bytes(1 << 20)))
        with pytest.raises(UserError, match=r"bomb\.tar\.gz: damaged, or no archive that can be read"):
            unpack(tmp_path / "bomb.tar.gz", target)

    @pytest.mark.parametrize("kind", ["zip", "tar"])
    def test_refuses_two_members_of_one_name(self, tmp_path: Path, target: Path, kind: str) -> None:
        if kind == "zip":
            with zipfile.ZipFile(tmp_path / "two", "w") as archive:
                archive.writestr("a.png", b"first")
                with pytest.warns(UserWarning, match="Duplicate name"):
                    archive.writestr("a.png", b"second")
        else:
            members = [(tarfile.TarInfo("a.png"), content) for content in (b"first", b"second")]
            (tmp_path / "two").write_bytes(tarred(*members))
        with pytest.raises(UserError, match=r"two: refused: its member 'a\.png' is there already"):
            unpack(tmp_path / "two", target)

    @pytest.mark.parametrize("place", [32, 48])  # in the table: the length of the first comment; a letter of the name
    def test_names_a_zip_archive_whose_table_loses_a_member(self, tmp_path: Path, target: Path, place: int) -> None:
        content = bytearray(zipped({"S/a": b"x", "S/b": b"y", "S/c": b"z"}))
        content[content.index(b"PK\x01\x02") + place] = {32: 49, 48: 0}[place]
        (tmp_path / "bad.zip").write_bytes(content)
        with pytest.raises(UserError, match=r"bad\.zip: damaged, or no archive"):
            unpack(tmp_path / "bad.zip", target)

    @pytest.mark.parametrize(("limit", "value"), [("MAX_BYTES", 6), ("MAX_MEMBERS", 1)])
    def test_refuses_more_than_it_may_write(
        self, tmp_path: Path, target: Path, monkeypatch: pytest.MonkeyPatch, limit: str, value: int
    ) -> None:
        monkeypatch.setattr(download, limit, value)
        (tmp_path / "set.zip").write_bytes(zipped())
        with pytest.raises(UserError, match="refused"):
            unpack(tmp_path / "set.zip", target)

    @pytest.mark.parametrize(
        "kind",
        [
            "cut zip",
            "cut tar",
            "tar without end",
            "wrong tar header",
            "cut tar.gz",
            "wrong byte",
            "text",
            "empty",
            "bz2 of text",
        ],
    )
    def test_names_a_damaged_archive(self, tmp_path: Path, target: Path, kind: str) -> None:
        stored = io.BytesIO()
        with zipfile.ZipFile(stored, "w") as archive:
            archive.writestr("a.png", b"image")
        two = tarred((tarfile.TarInfo("first.png"), b"1" * 400), (tarfile.TarInfo("second.png"), b"2" * 400))
        noise = os.urandom(100_000)  # does not compress, so half of the file is half of its content
        content = {
            "cut zip": zipped()[:-30],
            "cut tar": two[:700],
            "tar without end": two[:2048],
            "wrong tar header": two.replace(b"second.png", b"sEcond.png"),
            "cut tar.gz": gzip.compress(tarred((tarfile.TarInfo("a"), noise)))[:50_000],
            "wrong byte": stored.getvalue().replace(b"image", b"pictuRe"),
            "text": b"<html>not found</html>",
            "empty": b"",
            "bz2 of text": bz2.compress(b"no tar archive"),
        }[kind]
        (tmp_path / "set.bin").write_bytes(content)
        with pytest.raises(UserError, match=r"set\.bin: damaged, or no archive"):
            unpack(tmp_path / "set.bin", target)

    def test_names_an_encrypted_archive(self, tmp_path: Path, target: Path) -> None:
        content = bytearray(zipped({"a": b"x"}))
        content[6] |= 1  # the flag in the member's own header
        content[content.index(b"PK\x01\x02") + 8] |= 1  # and in the table at the end
        (tmp_path / "set.zip").write_bytes(content)
        with pytest.raises(UserError, match=r"set\.zip: not unpacked: .*encrypted"):
            unpack(tmp_path / "set.zip", target)


class TestLocalData:
    def test_the_data_folder_goes_before_the_path(
        self, tmp_path: Path, target: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name, content in {"data/set/a.png": b"from the data folder", "other/a.png": b"from the path"}.items():
            (tmp_path / name).parent.mkdir(parents=True)
            (tmp_path / name).write_bytes(content)
        monkeypatch.setenv("MEDSEG_DATA", str(tmp_path / "data"))
        fetch(target, path=str(tmp_path / "other"))
        assert contents(target) == {"a.png": b"from the data folder"}

    def test_archives_in_the_data_folder_go_before_the_path(
        self, tmp_path: Path, target: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "set.zip").write_bytes(zipped())
        (tmp_path / "labels.csv").write_bytes(b"image,label\n")
        monkeypatch.setenv("MEDSEG_DATA", str(tmp_path))
        fetch(target, archive_at(), archive_at(file="labels.csv"), path="/nowhere")
        assert contents(target) == {**FILES, "labels.csv": b"image,label\n"}

    def test_the_path_is_taken_where_the_data_folder_lacks_the_set(
        self, tmp_path: Path, target: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "data").mkdir()
        (tmp_path / "mine.zip").write_bytes(zipped())
        monkeypatch.setenv("MEDSEG_DATA", str(tmp_path / "data"))
        fetch(target, archive_at(("http://127.0.0.1:9/never", None)), path=str(tmp_path / "mine.zip"))
        assert contents(target) == FILES

    def test_copies_of_read_only_files_can_be_written(self, tmp_path: Path, target: Path) -> None:
        folder = tmp_path / "mine" / "deep"
        folder.mkdir(parents=True)
        (folder / "a.png").write_bytes(b"x")
        (folder / "a.png").chmod(0o444)
        folder.chmod(0o555)
        fetch(target, path=str(tmp_path / "mine"))
        folder.chmod(0o755)
        (target / "deep" / "a.png").write_bytes(b"new")
        (target / "deep" / "b.png").write_bytes(b"new")

    def test_links_in_a_folder_become_files(self, tmp_path: Path, target: Path) -> None:
        (tmp_path / "mine").mkdir()
        (tmp_path / "real.png").write_bytes(b"x")
        (tmp_path / "mine" / "a.png").symlink_to(tmp_path / "real.png")
        copy_folder(tmp_path / "mine", target)
        assert contents(target) == {"a.png": b"x"}
        assert not (target / "a.png").is_symlink()

    def test_a_link_that_leads_back_is_named(self, tmp_path: Path, target: Path) -> None:
        for name in ("mine/a", "mine/b"):
            (tmp_path / name).mkdir(parents=True)
            (tmp_path / name / "x.png").write_bytes(b"x")
        (tmp_path / "mine/a/there").symlink_to(tmp_path / "mine/b")
        copy_folder(tmp_path / "mine", target)  # twice the same folder is no loop
        (tmp_path / "mine/b/back").symlink_to(tmp_path / "mine/a")
        with pytest.raises(UserError, match=r"there/back: this link leads back|back/there: this link leads back"):
            copy_folder(tmp_path / "mine", target)

    def test_what_is_no_plain_file_is_named_instead_of_read_for_ever(self, tmp_path: Path, target: Path) -> None:
        (tmp_path / "mine").mkdir()
        for make in (os.mkfifo, lambda path: path.symlink_to("/dev/zero"), lambda path: path.symlink_to("nowhere")):
            make(tmp_path / "mine" / "a.png")
            with pytest.raises(UserError, match=r"mine/a\.png: no plain file, or a broken link"):
                copy_folder(tmp_path / "mine", target)
            (tmp_path / "mine" / "a.png").unlink()

    @pytest.mark.parametrize("path", ["~nobody-of-that-name/data", "x" * 300, "a\0b"])
    def test_a_path_that_cannot_be_is_told(self, target: Path, path: str) -> None:
        with pytest.raises(UserError, match=r"no such folder or archive; correct 'data\.path'"):
            fetch(target, path=path)

    def test_refuses_a_folder_that_holds_the_destination(self, tmp_path: Path, target: Path) -> None:
        with pytest.raises(UserError, match="holds the folder to copy to"):
            copy_folder(tmp_path, target)

    def test_names_what_is_wrong(self, tmp_path: Path, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(UserError, match=r"/nowhere: no such folder or archive; correct 'data\.path'"):
            fetch(target, path="/nowhere")
        with pytest.raises(UserError, match=r"/dev/null: no folder and no plain file; correct 'data\.path'"):
            fetch(target, path="/dev/null")
        with pytest.raises(UserError, match=r"Name its folder or archive in 'data\.path'.*MEDSEG_DATA"):
            fetch(target)
        with pytest.raises(
            UserError, match=r"set\.zip: not here and not downloaded\n.*no address is known\n.*MEDSEG_DATA"
        ):
            fetch(target, archive_at())
        (tmp_path / "empty").mkdir()
        with pytest.raises(UserError, match="empty: holds no file"):
            fetch(target, path=str(tmp_path / "empty"))
        monkeypatch.setenv("MEDSEG_DATA", str(tmp_path / "gone"))
        with pytest.raises(UserError, match=r"MEDSEG_DATA=.*gone: this folder does not exist"):
            fetch(target, path=str(tmp_path))


class TestParameters:
    @pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://host/a.zip", "a.zip", ""])
    def test_addresses_are_http(self, url: str) -> None:
        with pytest.raises(UserError, match="url"):
            validate({"url": url, "checksum": None}, Address, "data")

    @pytest.mark.parametrize("checksum", ["", "abc", "sha256:" + "0" * 32, "sha1:" + "0" * 40])
    def test_checksums_name_their_kind(self, checksum: str) -> None:
        with pytest.raises(UserError, match="checksum"):
            validate({"url": "https://host/a.zip", "checksum": checksum}, Address, "data")

    @pytest.mark.parametrize("file", ["", "../a.zip", "a/b.zip", "/a.zip"])
    def test_files_are_names_without_folders(self, file: str) -> None:
        with pytest.raises(UserError, match="file"):
            validate({"file": file, "addresses": []}, Archive, "data")


class TestDownload:
    def test_takes_an_archive_with_the_right_checksum(self, server: Server, target: Path) -> None:
        url = server.serve("/set.zip", zipped())
        fetch(target, archive_at((url, sha256(zipped()))))
        assert contents(target) == FILES

    @pytest.mark.parametrize("checksum", [sha256(zipped()), "md5:" + hashlib.md5(zipped()).hexdigest(), None])
    def test_asks_once_and_keeps_the_file(self, server: Server, checksum: str | None) -> None:
        url = server.serve("/set.zip", zipped())
        assert retrieve(archive_at((url, checksum))) == retrieve(archive_at((url, checksum)))
        assert server.asked == ["/set.zip"]

    def test_takes_a_file_that_is_no_archive_as_it_is(self, server: Server, target: Path) -> None:
        url = server.serve("/labels.csv?v=1", b"image,label\n")
        fetch(target, archive_at((url, None), file="labels.csv"))
        assert contents(target) == {"labels.csv": b"image,label\n"}

    def test_goes_on_to_the_mirror_and_remembers_it(self, server: Server) -> None:
        first, mirror = server.serve("/first", b"something else"), server.serve("/mirror", zipped())
        archive = archive_at((first, sha256(zipped({"a": b""}))), (mirror, sha256(zipped())))
        assert retrieve(archive).read_bytes() == zipped()
        assert server.asked == ["/first", "/mirror"]
        assert retrieve(archive).read_bytes() == zipped()
        assert server.asked == ["/first", "/mirror"]

    def test_a_wrong_checksum_leaves_nothing_and_is_asked_for_once(self, server: Server, tmp_path: Path) -> None:
        url = server.serve("/set.zip", zipped())
        wrong = archive_at((url, "sha256:" + "0" * 64))
        with pytest.raises(UserError, match=rf"(?s){url}: .*hash.*{sha256(zipped())[7:]}.*MEDSEG_DATA"):
            retrieve(wrong)
        assert server.asked == ["/set.zip"]
        assert not contents(tmp_path / "cache")
        assert retrieve(archive_at((url, sha256(zipped())))).is_file()

    def test_a_transfer_that_is_cut_off_is_tried_again_and_leaves_nothing(self, server: Server, tmp_path: Path) -> None:
        url = server.serve("/set.zip", zipped(), missing=10)
        with pytest.raises(UserError, match=rf"{url}: .*"):
            retrieve(archive_at((url, None)))
        assert server.asked == ["/set.zip"] * download.ATTEMPTS
        assert not contents(tmp_path / "cache")
        server.serve("/set.zip", zipped())
        assert retrieve(archive_at((url, None))).read_bytes() == zipped()

    def test_a_transfer_that_is_cut_off_once_comes_through(self, server: Server) -> None:
        url = server.serve("/set.zip", zipped(), missing=10)
        cut = server.pages["/set.zip"]
        server.serve("/set.zip", zipped())
        whole = server.pages["/set.zip"]
        server.pages["/set.zip"] = lambda handler: (cut if len(server.asked) == 1 else whole)(handler)
        assert retrieve(archive_at((url, None))).read_bytes() == zipped()
        assert len(server.asked) == 2

    def test_names_every_address_and_what_went_wrong(self, server: Server) -> None:
        gone, moved = server.url("/gone.zip"), server.redirect("/moved", "file:///etc/hosts")
        closed = "http://127.0.0.1:9/set.zip"
        with pytest.raises(UserError) as caught:
            retrieve(archive_at((gone, None), (moved, None), (closed, None)))
        lines = str(caught.value).splitlines()
        assert lines[0].startswith("set.zip: ")
        assert lines[1].strip().startswith(f"{gone}: 404")
        assert lines[2].strip().startswith(f"{moved}: ")
        assert lines[3].strip().startswith(f"{closed}: ")
        assert "MEDSEG_DATA" in lines[4]
        assert server.asked == ["/gone.zip", "/moved"]

    @pytest.mark.parametrize("sent", [0, 50])
    def test_a_server_that_falls_silent_is_left(
        self, server: Server, monkeypatch: pytest.MonkeyPatch, sent: int
    ) -> None:
        monkeypatch.setattr(download, "TIMEOUT", 0.3)
        monkeypatch.setattr(download, "ATTEMPTS", 1)
        url = server.serve("/set.zip", zipped(), missing=len(zipped()) - sent, stall=True)
        start = time.monotonic()
        with pytest.raises(UserError, match="Read timed out"):
            retrieve(archive_at((url, None)))
        assert time.monotonic() - start < 5

    def test_a_server_that_trickles_is_left(self, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(download, "GRACE", 0.3)
        monkeypatch.setattr(download, "ATTEMPTS", 1)

        def trickle(handler: BaseHTTPRequestHandler) -> None:
            handler.send_response(200)
            handler.end_headers()
            while not server.released.wait(0.02):
                handler.wfile.write(b"x")

        server.pages["/set.zip"] = trickle
        with pytest.raises(UserError, match=r"only \d+ bytes came in 0 seconds"):
            retrieve(archive_at((server.url("/set.zip"), None)))

    def test_a_server_that_never_ends_is_left(
        self, server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setattr(download, "MAX_BYTES", 100)
        monkeypatch.setattr(download, "ATTEMPTS", 1)
        with pytest.raises(UserError, match="more than 100 bytes came"):
            retrieve(archive_at((server.serve("/set.zip", bytes(1000)), None)))
        assert not contents(tmp_path / "cache")

    @pytest.mark.parametrize("file", ["set.zip", "labels.csv"])
    def test_a_web_page_in_place_of_the_file_is_not_kept(self, server: Server, tmp_path: Path, file: str) -> None:
        url = server.serve("/login", b"\n<!DOCTYPE html><html>Please sign in</html>")
        with pytest.raises(UserError, match="perhaps a web page"):
            retrieve(archive_at((url, None), file=file))
        assert not contents(tmp_path / "cache")


def test_a_password_in_netrc_is_used(
    server: Server, target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The way that is told to who puts a password into an address."""
    given: list[str | None] = []

    def page(handler: BaseHTTPRequestHandler) -> None:
        given.append(handler.headers["Authorization"])
        handler.send_response(200)
        handler.end_headers()
        handler.wfile.write(zipped())

    server.pages["/set.zip"] = page
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password word\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    address = Address(url=server.url("/set.zip"), checksum=None)
    unpack(retrieve(Archive(file="set.zip", addresses=(address,))), target)
    assert contents(target) == FILES
    assert given == ["Basic " + base64.b64encode(b"me:word").decode()]


def test_a_relative_path_that_leads_nowhere_says_where_it_starts(
    target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=rf"study: .*It starts at {tmp_path}; the queue and --temp .*absolute path"):
        fetch(target, path="../study")


@pytest.mark.parametrize("file", ["..", "a/b.zip", "../b.zip", "."])
def test_an_archive_s_name_leads_nowhere_else(file: str) -> None:
    with pytest.raises(UserError, match="file = "):
        validate({"file": file, "addresses": []}, Archive, "archive")


@pytest.mark.parametrize("second", ["../b.png", "/b.png", "./b.png", "x/../b.png"])
def test_members_that_come_to_lie_in_one_place_are_refused(tmp_path: Path, second: str) -> None:
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        archive.writestr("b.png", b"first")
        archive.writestr(second, b"second")
    (tmp_path / "out").mkdir()
    if second == "x/../b.png":  # what leads up is left out, so this one is x/b.png
        unpack(tmp_path / "set.zip", tmp_path / "out")
        assert (tmp_path / "out/x/b.png").read_bytes() == b"second"
    else:
        with pytest.raises(UserError, match="is there already"):
            unpack(tmp_path / "set.zip", tmp_path / "out")
    assert (tmp_path / "out/b.png").read_bytes() == b"first"
