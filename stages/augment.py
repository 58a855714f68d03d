"""The stage `augment`: variants of the training samples, and of those alone."""

from pathlib import Path

from medseg.core.app import run_stage


def main(params: Path, prepared: Path, augmented: Path, sheet: Path) -> None:
    """Write `augment.factor` variants of every training sample, and draw a contact sheet of some.

    Example: `python -m stages.augment params.yaml data/prepared/train data/augmented plots/augment/variants.png`
    """
    from medseg.core.files import atomic_folder
    from medseg.core.parallel import MachineParams
    from medseg.core.params import read_section
    from medseg.data.augment import AugmentParams, augment
    from medseg.data.image_io import write_png
    from medseg.data.packed import open_packed
    from medseg.previews.drawing import sample_sheet

    settings = read_section(params, "augment", AugmentParams)
    with atomic_folder(augmented) as partial:
        augment(prepared, settings, read_section(params, "machine", MachineParams), partial)
    shown = slice(0, 5 * settings.factor)  # the first samples, a row each
    store = open_packed(augmented)
    write_png(sheet, sample_sheet(store.images[shown], store.masks[shown], columns=settings.factor, side=128))


if __name__ == "__main__":
    run_stage(main)
