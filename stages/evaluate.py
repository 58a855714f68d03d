"""The stage `evaluate`: what val chooses for the network, and what comes of it against the test pictures."""

from pathlib import Path

from medseg.console import run_stage


def main(
    params: Path,
    raw: Path,
    manifest: Path,
    audit: Path,
    network: Path,
    segmenter: Path,
    predictions: Path,
    metrics: Path,
    plots: Path,
    environment: Path,
) -> None:
    """Choose on val, score NETWORK on the test pictures (on val where there are none), write masks, tables and plots.

    Example: `python -m stages.evaluate params.yaml data/raw data/manifest.csv metrics/manifest.json models/network
    models/segmenter data/predictions metrics/evaluate.json plots/evaluate metrics/environment.json`
    """
    from medseg.bundle import load_bundle, save_bundle
    from medseg.cards import own_cards
    from medseg.description import Description
    from medseg.environment import record_environment
    from medseg.evaluation import evaluate
    from medseg.evaluation_plots import write_plots
    from medseg.inference import choose_device, network_forward
    from medseg.inputs import read_json
    from medseg.machine import MachineParams
    from medseg.manifest import read_manifest
    from medseg.model_card import write_card
    from medseg.outputs import whole_folder
    from medseg.params import read_section
    from medseg.segmenter import Segmenter
    from medseg.selection import EvaluateParams, select
    from medseg.summary import write_tables

    settings = read_section(params, "evaluate", EvaluateParams)
    machine = read_section(params, "machine", MachineParams)
    trained, described = load_bundle(network, Description)
    table, audited = read_manifest(manifest), read_json(audit)
    with own_cards(machine.accelerator, 1), whole_folder(predictions) as partial:
        forward = network_forward(trained, choose_device(machine.accelerator))
        description, thresholds = select(forward, described, table[table["split"] == "val"], raw, settings)
        found = evaluate(Segmenter(description, forward), table, raw, settings.batch_size, partial)
        figures, summary = write_tables(found, partial, metrics)
    with whole_folder(plots) as partial:
        write_plots(found, thresholds, figures, table, raw, predictions, partial)
    with whole_folder(segmenter) as partial:
        save_bundle(partial, trained, description)
        write_card(partial, description, audited, summary, figures)
    record_environment(environment, "evaluate")


if __name__ == "__main__":
    run_stage(main)
