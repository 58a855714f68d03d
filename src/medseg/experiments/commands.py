"""Commands of git and DVC, run in the project's root."""

import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

from medseg.core.credentials import without_credentials
from medseg.core.errors import UserError


def show_and_run(*command: str) -> None:
    """Print a command as it can be typed, and run it. Raises `UserError` with what it printed where it fails."""
    print(without_credentials(f"$ {shlex.join(command)}"), flush=True)
    run(*command)


def run(*command: str) -> str:
    """Run a command and return what it printed. Raises `UserError` with that where it fails."""
    done = attempt(*command)
    if done.returncode:
        raise UserError(f"{shlex.join(command)} failed:\n{done.stdout.strip()}")
    return done.stdout


def attempt(*command: str) -> subprocess.CompletedProcess[str]:
    """Run a command, whether it fails or not, stdout and stderr as one; `dvc` is this interpreter's."""
    words = [sys.executable, "-m", "dvc", *command[1:]] if command[0] == "dvc" else list(command)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # the queue's workers call dvc and python
    with tempfile.TemporaryFile("w+", encoding="utf-8") as printed:  # a pipe would stay open with the queue's workers
        environment = os.environ | {"PATH": path}
        done = subprocess.run(
            words, env=environment, stdin=subprocess.DEVNULL, stdout=printed, stderr=subprocess.STDOUT, check=False
        )
        printed.seek(0)
        return subprocess.CompletedProcess(words, done.returncode, printed.read())
