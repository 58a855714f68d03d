"""Running one function as a command: arguments from its signature, errors in words, exit codes."""

import sys
from collections.abc import Callable
from typing import Any

import typer

from medseg.errors import UserError


def new_app(**options: Any) -> typer.Typer:
    """A Typer application that shows defects as plain tracebacks and offers no shell completion."""
    return typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="markdown", **options)


def run_app(app: typer.Typer) -> None:
    """Run `app` and exit: 0 done, 1 a user's mistake (told in one message); by Typer, 2 wrong usage, 130 Ctrl-C."""
    try:
        app()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


def run_stage(main: Callable[..., None]) -> None:
    """Run a stage's `main`, whose parameters are the paths that `dvc.yaml` passes, in that order."""
    app = new_app()
    app.command()(main)
    run_app(app)
