"""The stage `prepare`: images of any size to packed arrays of the network's size."""

from pathlib import Path

from medseg.core.app import run_stage


def main(params: Path, raw: Path, manifest: Path, prepared: Path, sheet: Path) -> None:
    """Resize, scale or patchify the images of train and val, and draw a contact sheet of them.

    Example: `python -m stages.prepare params.yaml data/raw data/manifest.csv data/prepared
    plots/prepare/samples.png`
    """
    from medseg.core.files import atomic_folder
    from medseg.core.parallel import MachineParams
    from medseg.core.params import read_section
    from medseg.data.geometry import Geometry
    from medseg.data.image import images_of, of_split
    from medseg.data.image_io import check_type, write_png
    from medseg.data.intensity import IntensityParams
    from medseg.data.manifest import read_manifest
    from medseg.data.packed import evenly_spaced, open_packed
    from medseg.data.percentiles import resolve_intensity
    from medseg.data.prepare import prepare
    from medseg.data.splits import DROPPED
    from medseg.datasets.changes import told_where_changed
    from medseg.previews.drawing import sample_sheet

    geometry, machine = read_section(params, "prepare", Geometry), read_section(params, "machine", MachineParams)
    wanted, images = read_section(params, "intensity", IntensityParams), images_of(read_manifest(manifest), raw)
    with told_where_changed(), atomic_folder(prepared) as partial:
        intensity = resolve_intensity(of_split(images, "train"), wanted, machine)
        for image in images:
            if image.split != DROPPED:  # those of test, too: or evaluation would find out after training
                check_type(image.root / image.file, intensity)
        for split in ("train", "val"):
            of_range = [image.reading(intensity) for image in of_split(images, split)]
            for loss in prepare(of_range, geometry, machine, partial / split):
                print(f"warning: {loss}")
    store = open_packed(prepared / "train")
    chosen = evenly_spaced(len(store.images), 32)
    write_png(sheet, sample_sheet(store.images[chosen], store.masks[chosen], columns=8, side=128))


if __name__ == "__main__":
    run_stage(main)
