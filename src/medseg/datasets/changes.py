"""Whether the files that `download` copied have changed since: a fingerprint outside DVC's outputs.

DVC does not watch what lies outside the project, so `dvc repro` calls a changed source up to date. The fingerprint
holds relative paths, sizes and times, and lies in `.dvc/tmp/medseg/`, so that nothing that DVC hashes depends on it.
"""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from medseg.core.errors import UserError
from medseg.core.files import write_text
from medseg.core.paths import common_folder

AGAIN = "dvc repro -f -s download"  # fetches the files anew
FILE = "source.json"


def remember_source(sources: list[Path]) -> None:
    """Note what the local files and folders `sources` hold now. Nothing is noted outside a DVC project."""
    if common := common_folder():
        found = {str(path.absolute()): _fingerprint(path) for path in sources}
        write_text(common / FILE, json.dumps(found, indent=2) + "\n")


def changed_source() -> Path | None:
    """The first of the noted sources that is not as it was; None where none is, or none is noted."""
    common = common_folder()
    if common is None or not (common / FILE).is_file():
        return None
    noted = json.loads((common / FILE).read_text(encoding="utf-8"))
    return next((Path(path) for path, fingerprint in noted.items() if _fingerprint(Path(path)) != fingerprint), None)


@contextmanager
def told_where_changed() -> Iterator[None]:
    """Add to a user's error of the block how the files are fetched anew, where their source has changed."""
    try:
        yield
    except UserError as error:
        if path := changed_source():
            raise UserError(f"{error}\n       {path} has changed since it was copied: {AGAIN}") from error
        raise


def _fingerprint(path: Path) -> str:
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    digest = hashlib.sha256()
    for file in files:
        facts = file.stat()
        digest.update(
            f"{file.relative_to(path)}\0{facts.st_size}\0{facts.st_mtime_ns}\n".encode(errors="surrogateescape")
        )
    return digest.hexdigest()
