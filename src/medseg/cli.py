"""The command `medseg`: what is done by hand beside the pipeline. Run it in the project's root folder."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from medseg.core.app import new_app, run_app
from medseg.core.errors import UserError

app = new_app(no_args_is_help=True, help="Beside the pipeline, which `dvc repro` runs: what is done by hand.")


@app.command()
def params(
    overrides: Annotated[list[str] | None, typer.Argument(help="As after `dvc exp run -S`: data=busi, seed=3")] = None,
    output: Annotated[Path, typer.Option(help="The file to write.")] = Path("params.yaml"),
) -> None:
    """Compose conf/ into params.yaml. Example: `medseg params data=busi train.epochs=20`."""
    from medseg.experiments.compose import write_params

    write_params(Path("conf"), output, overrides or [])


@app.command()
def new(
    name: Annotated[str, typer.Argument(help="A word for the data set, such as my_study.")],
    folder: Annotated[Path, typer.Argument(help="The folder with images and masks.")],
) -> None:
    """Look at a folder of images and masks and write conf/data/NAME.yaml and conf/experiment/NAME.yaml.

    Example: `medseg new my_study ~/study`.

    Says which files it takes for images and masks and how it pairs them, and draws a sheet of pairs to check by eye.
    Both files are ordinary ones to edit.
    """
    from medseg.experiments.new_data import new_data

    for line in new_data(name, folder, Path("conf"), Path("plots/new") / f"{name}.png"):
        typer.echo(line)


@app.command()
def status(
    source_only: Annotated[
        bool, typer.Option("--source", help="Say only whether the data have changed; exit code 3 where they have.")
    ] = False,
) -> None:
    """Say where the last run stands: headline numbers, report, and whether its data have changed since.

    Example: `medseg status`.
    """
    if source_only:
        from medseg.datasets.changes import changed_source

        if path := changed_source():
            typer.echo(f"{path} has changed since it was copied")
            raise typer.Exit(3)
        return
    from medseg.experiments.status import status_lines

    for line in status_lines():
        typer.echo(line)


@app.command()
def table() -> None:
    """Write the table of the runs in metrics/runs/ into docs/explanation/results.md. Example: `medseg table`."""
    from medseg.experiments.run_record import update_page

    update_page(Path("docs/explanation/results.md"), Path("metrics/runs"))


@app.command()
def series(
    name: Annotated[str, typer.Argument(metavar="SERIES", help="The words that the experiments' names begin with.")],
    overrides: Annotated[
        list[str] | None, typer.Option("-S", "--set-param", help="On top of every variant: -S train.epochs=2")
    ] = None,
    jobs: Annotated[int, typer.Option("-j", "--jobs", min=1, help="How many run at a time.")] = 1,
    table_only: Annotated[
        bool, typer.Option("--table", help="Run nothing: print the table of what is finished.")
    ] = False,
) -> None:
    """Run all variants of a series of conf/experiment/ in DVC's queue, then print their table and draw their curves.

    Examples: `medseg series busi_encoder_upsampled --jobs 2`, `medseg series ucsb -S train.epochs=2`,
    `medseg series ucsb --table`.

    A variant that starts from another one's network runs after it. A variant that is finished is kept. Ctrl-C ends the
    waiting; the queue goes on until `dvc queue stop --kill`.
    """
    from medseg.experiments.series import draw_series, find_series, read_variants, run_series, series_table

    names = find_series(Path("conf"), name)
    if table_only:
        typer.echo(series_table(names), nl=False)
        return
    failed = run_series(read_variants(Path("conf"), names, overrides or []), overrides or [], jobs)
    if len(failed) < len(names):
        typer.echo(f"\n{series_table(names)}")
        typer.echo(f"Curves: {draw_series(name, names)} (the page loads its drawing library from the network)")
    if failed:
        raise UserError("\n".join(f"{variant}: {why}" for variant, why in failed.items()))


@app.command()
def compare(
    revisions: Annotated[
        list[str], typer.Argument(metavar="REV...", help="Git revisions, DVC experiments, or `workspace`; two or more.")
    ],
    metric: Annotated[str, typer.Option(help="A score column of data/predictions/per_image.csv.")] = "dice",
    across: Annotated[
        bool, typer.Option("--across", help="Summarise runs that are folds or seeds of one another.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of Markdown.")] = False,
) -> None:
    """Compare runs image by image: every later one against the first, with 95 % intervals and p-values.

    Examples: `medseg compare main workspace`, `medseg compare main resnet18 resnet50 --metric iou`,
    `medseg compare --across fold-0 fold-1 fold-2`, `medseg compare main tried --json`.

    Runs have to share their test set, masks to the byte. With --across they may be seeds, which share it too, or folds
    of one data set, whose test sets have no image in common; all but seeds and split has to be equal.
    """
    from medseg.experiments.compare import compare, comparison_text, result_json, summarise_runs, summary_text
    from medseg.experiments.runs import read_runs

    if len(revisions) < 2:
        raise typer.BadParameter("name two runs or more", param_hint="REV")
    runs = read_runs(revisions)
    if across:
        summary = summarise_runs(runs, metric)
        typer.echo(result_json(summary) if as_json else summary_text(summary))
    else:
        comparison = compare({name: run.table for name, run in runs.items()}, metric)
        typer.echo(result_json(comparison) if as_json else comparison_text(comparison))


@app.command()
def provenance(
    model: Annotated[Path, typer.Argument(help="A model folder, here or elsewhere.")] = Path("models/segmenter"),
) -> None:
    """Follow a model back to its revision, parameters, data and parent weights, and check that all still matches.

    Examples: `medseg provenance`, `medseg provenance weights/first`.

    What does not match its hash is named at the end, with exit code 1.
    """
    from medseg.experiments.provenance import provenance_text, trace

    found = trace(model)
    typer.echo(provenance_text(found))
    if found.faults:
        raise UserError("\n       ".join(found.faults))


@app.command()
def predict(
    images: Annotated[
        list[str],
        typer.Argument(metavar="IMAGES...", help="Files, folders (with all below them) and patterns in quotes."),
    ],
    model: Annotated[Path, typer.Option(help="A model folder, or an ONNX file of `medseg export`.")],
    out: Annotated[Path, typer.Option(help="The folder to write to.")],
    accelerator: Annotated[
        Literal["auto", "cpu", "gpu"], typer.Option(help="auto: a GPU where there is one.")
    ] = "auto",
    runtime: Annotated[
        Literal["torch", "onnx"] | None,
        typer.Option(help="By default torch for a folder; for a file onnx, which does not import PyTorch."),
    ] = None,
) -> None:
    """Segment images of any size: masks, overlays, probabilities, contours (GeoJSON), a table of areas and counts.

    Examples: `medseg predict scans/ --model models/segmenter --out predicted`,
    `medseg predict 'day?/*.tif' --model segmenter.onnx --out predicted`.

    Masks are made as the stage evaluate scored them. Images that fail are named at the end; the others go on.
    Research software: not for diagnosis.
    """
    from medseg.inference.backends import open_model
    from medseg.inference.predict import check_out, find_images, predict_images

    check_out(out)
    found = find_images(images, out)
    predict_images(open_model(model, runtime, accelerator), found, out)
    typer.echo(f"{len(found)} {'image' if len(found) == 1 else 'images'} predicted, written to {out}")


@app.command()
def export(
    out: Annotated[Path, typer.Option(help="The file to write, such as segmenter.onnx.")],
    model: Annotated[Path, typer.Option(help="A model folder.")] = Path("models/segmenter"),
    tile: Annotated[
        int | None,
        typer.Option(min=8, max=8192, help="Fix height and width to this many pixels, where a runtime needs it."),
    ] = None,
) -> None:
    """Write a model as one self-contained ONNX file, compared with the model before it gets its name.

    Examples: `medseg export --out segmenter.onnx`,
    `medseg export --model models/segmenter --tile 512 --out segmenter.onnx`.

    `medseg predict --model segmenter.onnx` runs it without PyTorch. Its metadata describe input, output and the
    settings of prediction for other programs.
    """
    from medseg.inference.onnx_export import export

    size = export(model, out, tile)
    typer.echo(f"{out}: takes images of {'any size' if size is None else f'{size[1]}x{size[0]} pixels'}")


@app.command()
def evaluate(
    model: Annotated[Path, typer.Option(help="A model folder, or an ONNX file of `medseg export`.")],
    data: Annotated[Path, typer.Option(help="The folder with images and masks.")],
    out: Annotated[Path, typer.Option(help="The folder to write to: a new one, or that of an earlier evaluation.")],
    images: Annotated[str | None, typer.Option(help="Pattern of image files: 'images/{name}.png'.")] = None,
    masks: Annotated[str | None, typer.Option(help="Pattern of mask files: 'masks/{name}.png'.")] = None,
    layout: Annotated[
        str | None,
        typer.Option(help="Instead of both: a published data set, by its name in conf/data, laid out as its archive."),
    ] = None,
    label: Annotated[
        str | None, typer.Option(help="With --images: the label of the images, a word or a field, '{folder}'.")
    ] = None,
    patient: Annotated[
        str | None,
        typer.Option(
            help="With --images: whose images they are, a field, '{folder}'; those of one count as one group."
        ),
    ] = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave out images that can't be used, and list them.")
    ] = False,
    accelerator: Annotated[
        Literal["auto", "cpu", "gpu"], typer.Option(help="auto: a GPU where there is one.")
    ] = "auto",
) -> None:
    """Score a model on an external data set, with the settings chosen in training: nothing is tuned on this data.

    Examples: `medseg evaluate --model models/segmenter --data scans --out scored --images 'images/{name}.png'
    --masks 'masks/{name}.png'`, `medseg evaluate --model models/segmenter --data busi --out scored --layout busi`.

    Patterns are those of conf/data/folder.yaml. Images that trained or tuned the model, near-duplicates of such, and
    images of the same patients are counted and named: leave them out, or the scores are optimistically biased.
    """
    from medseg.datasets import LAYOUTS
    from medseg.evaluation.external import evaluate_external, folder_data

    if layout is not None and (images, masks, label, patient) == (None, None, None, None):
        if layout not in LAYOUTS:
            raise typer.BadParameter(f"'{layout}' is none of {', '.join(LAYOUTS)}", param_hint="--layout")
        source = LAYOUTS[layout]
    elif layout is None and images is not None and masks is not None:
        source = folder_data(images, masks, label, patient)
    else:
        raise typer.BadParameter("name --images and --masks (--label and --patient are optional), or --layout alone")
    typer.echo(evaluate_external(model, source, data, out, skip_bad, accelerator))


def main() -> None:
    """The entry point."""
    run_app(app)


if __name__ == "__main__":
    main()
