"""Running a function as a command: arguments from its signature, error messages, exit codes."""

import errno
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate, NoReturn, ParamSpec

import typer
from typer.core import TyperCommand, TyperOption

from medseg.core.credentials import without_credentials
from medseg.core.errors import UserError
from medseg.core.one_run import one_run

# Errors of the system that the user can put right: full disks and missing rights, and paths that can't be.
REFUSED = dict.fromkeys(
    (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES),
    "check space and permissions there, then run the same command again",
) | dict.fromkeys(
    (errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.EEXIST),
    "name another path, or move away what is there",
)
INTERRUPTED = 130  # exit code after Ctrl-C

Paths = ParamSpec("Paths")


class _Command(TyperCommand):
    """A command that refuses what would be taken in silence: an option given twice, and an empty word.

    Of an option given twice the first would be dropped. An empty word, often an unset variable of a shell, would stand
    for the current folder where a path is expected.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        values, _, given = self.make_parser(ctx).parse_args(args=list(args))
        for option in given:
            if isinstance(option, TyperOption) and not (option.multiple or option.is_flag) and given.count(option) > 1:
                ctx.fail(f"{option.opts[0]} is given more than once")
        if "" in args or "" in values.values():
            ctx.fail("an argument is empty; a path needs a name, such as . for the current folder")
        return super().parse_args(ctx, args)


class _App(typer.Typer):
    def command(self, name: str | None = None, **options: Any) -> Any:
        return super().command(name, **{"cls": _Command, **options})


def new_app(**options: Any) -> typer.Typer:
    """A Typer application without shell completion, which shows plain tracebacks and takes no option twice."""
    return _App(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="markdown", **options)


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
        _fail(f"{place}{error.strerror}: {REFUSED[error.errno]}")
    except SystemExit as end:
        if end.code == INTERRUPTED:
            print("interrupted", file=sys.stderr)
            # Python notes that Ctrl-C came while a string was run, as `dataclass` and others do on import, and would
            # then end by the signal whatever exit code it is given. Running another string makes it forget that.
            exec("")
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
