"""Locks between processes (flock(2)): the system releases them when a process ends, however it ends."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from medseg.core.errors import UserError


def lock_file(path: Path, *, wait: bool) -> IO[bytes] | None:
    """Make the file `path` and the folder it lies in where they are missing, and lock it until it is closed.

    Where another process holds it, waits, or gives None. A lock on a file that its previous holder has removed or
    renamed meanwhile excludes nobody, so locking is tried again. On a file system without locks nobody is excluded.
    """
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            file = path.open("ab")
        except FileNotFoundError:  # the folder was removed in this moment
            continue
        try:
            fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return None
        except OSError:  # no locks here, as on some network file systems
            return file
        if _is_there(path, file):
            return file
        file.close()


@contextmanager
def sole_writer(lock: Path, written: Path) -> Iterator[None]:
    """Hold the file `lock` while the block writes `written`, and remove it then.

    Raises `UserError` where another process holds it.
    """
    file = lock_file(lock, wait=False)
    if file is None:
        raise UserError(f"{written}: another process is writing there; wait until it has ended, or name another place")
    with file:
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


def _is_there(path: Path, file: IO[bytes]) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False
