"""Fetch the files of the data set that `params.yaml` names."""

from pathlib import Path

from medseg.core.app import run_stage


def main(params: Path, raw: Path) -> None:
    """Fill the folder RAW with the files of the data set that PARAMS names, as their archive holds them.

    Example: `python -m stages.download params.yaml data/raw`
    """
    from medseg.core.files import atomic_folder
    from medseg.core.parallel import MachineParams
    from medseg.core.params import read_section
    from medseg.datasets import DataParams
    from medseg.datasets.changes import remember_source

    data = read_section(params, "data", DataParams)
    machine = read_section(params, "machine", MachineParams)
    with atomic_folder(raw) as partial:
        sources = data.fetch(partial, machine)
    remember_source(sources)


if __name__ == "__main__":
    run_stage(main)
