"""The stage `augment`: variants of the training samples, and of those alone."""

from pathlib import Path

from medseg.console import run_stage


def main(params: Path, prepared: Path, augmented: Path, sheet: Path) -> None:
    """Write `augment.factor` variants of every training sample, and draw a contact sheet of some.

    Example: `python -m stages.augment params.yaml data/prepared/train data/augmented plots/augment/variants.png`
    """
    from medseg.augmentation import AugmentParams, augment
    from medseg.figures import sample_sheet
    from medseg.imaging import write_png
    from medseg.machine import MachineParams
    from medseg.outputs import whole_folder
    from medseg.params import read_section
    from medseg.store import open_store

    settings = read_section(params, "augment", AugmentParams)
    with whole_folder(augmented) as partial:
        augment(prepared, settings, read_section(params, "machine", MachineParams), partial)
    shown = slice(0, 5 * settings.factor)  # the first samples, a row each
    store = open_store(augmented)
    write_png(sheet, sample_sheet(store.images[shown], store.masks[shown], columns=settings.factor, side=128))


if __name__ == "__main__":
    run_stage(main)
