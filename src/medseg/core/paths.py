"""The folder that all runs of this project on a machine share: `.dvc/tmp/medseg/` of the main checkout."""

import os
from pathlib import Path


def common_folder() -> Path | None:
    """The shared folder, which may not exist yet; None outside a DVC project.

    Runs of the queue share it too, although they work in copies of the project.
    """
    root = os.environ.get("DVC_ROOT")  # set by DVC for its stages; in the queue, to the main checkout
    here = Path(root) if root else Path.cwd()
    project = next((folder for folder in (here, *here.parents) if (folder / ".dvc").is_dir()), None)
    return project / ".dvc/tmp/medseg" if project else None
