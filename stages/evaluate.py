"""The stage `evaluate`: the trained network against the test pictures, and the bundle that a user takes away."""

from pathlib import Path

from medseg.console import run_stage


def main(
    params: Path,
    raw: Path,
    manifest: Path,
    network: Path,
    segmenter: Path,
    predictions: Path,
    metrics: Path,
    plots: Path,
) -> None:
    """Score NETWORK on the test pictures (on val where there are none) and write masks, tables and plots.

    Example: `python -m stages.evaluate params.yaml data/raw data/manifest.csv models/network models/segmenter
    data/predictions metrics/evaluate.json plots/evaluate`
    """
    from medseg.bundle import load_bundle, save_bundle
    from medseg.evaluation import EvaluateParams, evaluate, write_plots, write_tables
    from medseg.machine import MachineParams
    from medseg.manifest import read_manifest
    from medseg.outputs import whole_folder
    from medseg.params import read_section

    settings = read_section(params, "evaluate", EvaluateParams)
    machine = read_section(params, "machine", MachineParams)
    trained, description = load_bundle(network)
    chosen = description.model_copy(update={"threshold": settings.threshold})
    table = read_manifest(manifest)
    with whole_folder(predictions) as partial:
        evaluation = evaluate(trained, chosen, table, raw, settings, machine, partial / "masks")
        write_tables(evaluation, partial / "per_image.csv", metrics)
    with whole_folder(plots) as partial:
        write_plots(evaluation, table, raw, predictions / "masks", partial)
    with whole_folder(segmenter) as partial:
        save_bundle(partial, trained, chosen)


if __name__ == "__main__":
    run_stage(main)
