"""The stage `manifest`: one row per image, its group and its split, and an audit of the data."""

from pathlib import Path

from medseg.core.app import run_stage


def main(
    params: Path, raw: Path, lists: Path, weights: Path, manifest: Path, splits: Path, overlap: Path, audit_file: Path
) -> None:
    """Tabulate the images and masks under RAW, draw the split, and audit the data.

    OVERLAP tells which images of val and test the networks in WEIGHTS have seen.

    Example: `python -m stages.manifest params.yaml data/raw conf/lists weights data/manifest.csv data/splits
    data/initial_overlap.csv metrics/manifest.json`
    """
    import json

    from medseg.core.files import atomic_folder, write_text
    from medseg.core.parallel import MachineParams
    from medseg.core.params import read_section
    from medseg.data.image import images_of
    from medseg.data.manifest import ManifestParams, measure, write_manifest
    from medseg.data.splits import SplitParams, assign, uneven_shares, write_lists
    from medseg.data.task import TaskParams
    from medseg.data.training_images import overlap_of_networks
    from medseg.datasets import DataParams
    from medseg.datasets.changes import told_where_changed
    from medseg.previews.audit import audit, inverted_masks, turned_images

    data = read_section(params, "data", DataParams)
    settings = read_section(params, "manifest", ManifestParams)
    with told_where_changed():
        table, faults = measure(data.scan(raw), raw, settings, read_section(params, "machine", MachineParams))
    split = read_section(params, "split", SplitParams)
    table.insert(4, "split", assign(table, split, lists))
    read_section(params, "task", TaskParams).check_manifest(table)
    write_manifest(table, manifest)
    seen = overlap_of_networks(table, weights)
    write_text(overlap, seen.to_csv(index=False, lineterminator="\n"))
    images = images_of(table, raw)
    audited = audit(
        data.name, table, faults, inverted_masks(images), turned_images(images), uneven_shares(table, split)
    )
    for warning in audited["warnings"]:
        print(f"warning: {warning}")
    write_text(audit_file, json.dumps(audited, indent=2) + "\n")
    with atomic_folder(splits) as partial:
        write_lists(table, partial)


if __name__ == "__main__":
    run_stage(main)
