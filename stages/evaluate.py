"""The stage `evaluate`: tune the segmenter on the validation set and score it on the test set."""

from pathlib import Path

from medseg.core.app import run_stage


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
    """Tune on val, score NETWORK on test (on val where there is no test set), write masks, tables and plots.

    Example: `python -m stages.evaluate params.yaml data/raw data/manifest.csv metrics/manifest.json models/network
    models/segmenter data/predictions metrics/evaluate.json plots/evaluate metrics/environment.json`
    """
    from medseg.core.environment import record_environment
    from medseg.core.files import atomic_folder, read_json
    from medseg.core.gpu_locks import own_gpus
    from medseg.core.parallel import MachineParams
    from medseg.core.params import read_section
    from medseg.data.image import images_of, of_split
    from medseg.data.manifest import read_manifest
    from medseg.data.training_images import read_training_images, with_val, write_training_images
    from medseg.evaluation.evaluate import evaluate
    from medseg.evaluation.model_card import write_card
    from medseg.evaluation.plots import write_plots
    from medseg.evaluation.summary import write_metrics, write_tables
    from medseg.evaluation.tuning import EvaluateParams, select
    from medseg.inference.predictor import Predictor
    from medseg.inference.torch_backend import choose_device, network_forward
    from medseg.models.checkpoint import load_bundle, save_bundle
    from medseg.models.model_yaml import Description

    settings = read_section(params, "evaluate", EvaluateParams)
    machine = read_section(params, "machine", MachineParams)
    trained, described = load_bundle(network, Description)
    table, audited = read_manifest(manifest), read_json(audit)
    images = images_of(table, raw, described.intensity)
    with own_gpus(machine.accelerator, 1), atomic_folder(predictions) as partial:
        forward = network_forward(trained, described.task, choose_device(machine.accelerator))
        description, thresholds = select(forward, described, of_split(images, "val"), settings)
        found = evaluate(Predictor(description, forward), images, settings.batch_size, partial)
        means, summary = write_tables(found, partial, partial / "summary.json")
    write_metrics(summary, metrics)
    with atomic_folder(plots) as partial:
        write_plots(found, thresholds, means, images, predictions, partial)
    with atomic_folder(segmenter) as partial:
        save_bundle(partial, trained, description)
        write_training_images(with_val(read_training_images(network), table), partial)
        write_card(partial, description, audited, summary, means)
    record_environment(environment, "evaluate")


if __name__ == "__main__":
    run_stage(main)
