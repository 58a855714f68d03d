"""The command `medseg`: what is done by hand beside the pipeline. Run it in the project's root."""

from pathlib import Path
from typing import Annotated

import typer

from medseg.console import new_app, run_app

app = new_app(no_args_is_help=True, help="Beside the pipeline, which `dvc repro` runs: what is done by hand.")


@app.command()
def params(
    overrides: Annotated[list[str] | None, typer.Argument(help="As after `dvc exp run -S`: data=busi, seed=3")] = None,
    output: Annotated[Path, typer.Option(help="The file to write.")] = Path("params.yaml"),
) -> None:
    """Compose conf/ into params.yaml. Example: `medseg params data=busi train.epochs=20`."""
    from medseg.composition import compose

    compose(Path("conf"), output, overrides or [])


@app.command()
def table() -> None:
    """Write the table of the runs in metrics/runs/ into README.md. Example: `medseg table`."""
    from medseg.runs import update_readme

    update_readme(Path("README.md"), Path("metrics/runs"))


def main() -> None:
    """The entry point."""
    run_app(app)
