"""Running a function as a command: arguments from its signature, error messages, exit codes."""

import errno
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate, NoReturn, ParamSpec

import typer

from medseg.core.credentials import without_credentials
from medseg.core.errors import UserError
from medseg.core.one_run import one_run

# Errors of the system that the user can put right: full disks and missing rights.
REFUSED = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES)
INTERRUPTED = 130  # exit code after Ctrl-C

Paths = ParamSpec("Paths")


def new_app(**options: Any) -> typer.Typer:
    """A Typer application without shell completion, which shows plain tracebacks."""
    return typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="markdown", **options)


def run_app(app: typer.Typer) -> None:
    """Run `app` and exit with 0 (done), 1 (`UserError` or `REFUSED`, with one message), 2 (usage) or 130 (Ctrl-C)."""
    try:
        app()
    except UserError as error:
        _fail(str(error))
    except OSError as error:
        if error.errno not in REFUSED:
            raise
        place = f"{error.filename}: " if error.filename else ""
        _fail(f"{place}{error.strerror}: check space and permissions there, then run the same command again")
    except SystemExit as end:
        if end.code == INTERRUPTED:
            print("interrupted", file=sys.stderr)
        raise


def _fail(message: str) -> NoReturn:
    print(f"error: {without_credentials(message)}", file=sys.stderr)
    sys.exit(1)


def run_stage(main: Callable[Concatenate[Path, Paths], None]) -> None:
    """Run a stage's `main`, whose parameters are the paths that `dvc.yaml` passes, in that order.

    The first is the parameter file, of which all sections are checked, those of later stages too; it may not change
    while the stage runs (see `one_run`).
    """

    @wraps(main)
    def checked(params: Path, *args: Paths.args, **others: Paths.kwargs) -> None:
        from medseg.core.sections import check_sections  # loads nothing for --help

        check_sections(params)
        with one_run(Path(main.__code__.co_filename).stem, params):
            main(params, *args, **others)

    app = new_app()
    app.command()(checked)
    run_app(app)
