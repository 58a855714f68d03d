"""The stage `report`: a page, a summary and a record of what the other stages found."""

from pathlib import Path

from medseg.core.app import run_stage


def main(
    params: Path,
    raw: Path,
    manifest: Path,
    audit: Path,
    training: Path,
    segmenter: Path,
    predictions: Path,
    plots: Path,
    code: Path,
    stages: Path,
    page: Path,
    summary: Path,
    records: Path,
) -> None:
    """Write PAGE (HTML that needs no network), SUMMARY (Markdown) and, in the folder RECORDS, NAME.json of the run.

    CODE and STAGES are the folders of the source code; all three hold their hash.

    Example: `python -m stages.report params.yaml data/raw data/manifest.csv metrics/manifest.json metrics/train
    models/segmenter data/predictions plots/evaluate src/medseg stages reports/report.html reports/report.md
    metrics/runs`
    """
    from medseg.core.files import write_text
    from medseg.core.parallel import MachineParams
    from medseg.core.params import Word, read_record, read_section
    from medseg.experiments.run_record import run_record, write_record
    from medseg.report.page import render_html, render_markdown
    from medseg.report.sections import Sources, collect

    name = read_section(params, "name", Word)
    run = run_record(read_record(params), manifest, audit, segmenter, predictions / "summary.json", [code, stages])
    sources = Sources(raw, manifest, audit, training, segmenter, predictions, plots)
    report = collect(run, sources, read_section(params, "machine", MachineParams))
    write_text(page, render_html(report))
    write_text(summary, render_markdown(report))
    write_record(run, records / f"{name}.json")


if __name__ == "__main__":
    run_stage(main)
