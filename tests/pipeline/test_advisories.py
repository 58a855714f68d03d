"""`make audit`: what it makes of pip-audit's answers, which a script in its place gives."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PROJECT = Path(__file__).parents[2]
SOUND = {"name": "a", "version": "1.0", "vulns": []}
FAULTY = {"name": "b", "version": "2.0", "vulns": [{"id": "PYSEC-1", "fix_versions": ["2.1", "3.0"]}]}
UNKNOWN = {"name": "c", "skip_reason": "not found"}


def audit(folder: Path, answer: list[dict[str, Any]] | None) -> subprocess.CompletedProcess[str]:
    """Run it with a `uv` that leaves this answer of pip-audit, or none and a message."""
    text = json.dumps({"dependencies": answer, "fixes": []})
    leave = "echo 'no route to host' >&2; exit 2" if answer is None else f"cat > \"${{@: -1}}\" <<'END'\n{text}\nEND"
    (folder / "uv").write_text(f"#!/bin/bash\n{leave}\n")
    (folder / "uv").chmod(0o755)
    (folder / "python").symlink_to(sys.executable)
    command = [str(folder / "python"), str(PROJECT / ".ci" / "audit.py"), "requirements.lock"]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("answer", "code", "printed", "told"),
    [
        ([SOUND], 0, "1 of 1 packages", ""),
        ([SOUND, FAULTY], 1, "b 2.0: PYSEC-1", ""),
        ([SOUND, UNKNOWN], 2, "1 of 2 packages", "c: not found"),
        (None, 2, "", "no route to host"),
    ],
    ids=["sound", "faulty", "unknown", "unreachable"],
)
def test_what_was_found_and_what_could_not_be_looked_up_is_told(
    tmp_path: Path, answer: list[dict[str, Any]] | None, code: int, printed: str, told: str
) -> None:
    done = audit(tmp_path, answer)
    assert done.returncode == code
    assert printed in done.stdout
    assert told in done.stderr
    assert "Traceback" not in done.stderr


def test_a_fault_outweighs_what_could_not_be_looked_up(tmp_path: Path) -> None:
    assert audit(tmp_path, [UNKNOWN, FAULTY]).returncode == 1
