"""The stage `prepare`: pictures of any size to packed arrays of the network's size."""

from pathlib import Path

from medseg.console import run_stage


def main(params: Path, raw: Path, manifest: Path, prepared: Path, sheet: Path) -> None:
    """Resize, scale or cut the pictures of train and val, and draw a contact sheet of them.

    Example: `python -m stages.prepare params.yaml data/raw data/manifest.csv data/prepared
    plots/prepare/samples.png`
    """
    from medseg.figures import evenly_spaced, sample_sheet
    from medseg.geometry import Geometry
    from medseg.imaging import write_png
    from medseg.machine import MachineParams
    from medseg.manifest import read_manifest
    from medseg.outputs import whole_folder
    from medseg.params import read_section
    from medseg.preparation import prepare
    from medseg.store import open_store

    geometry, machine = read_section(params, "prepare", Geometry), read_section(params, "machine", MachineParams)
    table = read_manifest(manifest)
    with whole_folder(prepared) as partial:
        for split in ("train", "val"):
            prepare(table[table["split"] == split], raw, geometry, machine, partial / split)
    store = open_store(prepared / "train")
    chosen = evenly_spaced(len(store.images), 32)
    write_png(sheet, sample_sheet(store.images[chosen], store.masks[chosen], columns=8, side=128))


if __name__ == "__main__":
    run_stage(main)
