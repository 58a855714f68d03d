"""Where all runs of this project on a machine find each other: below `.dvc/tmp/medseg/` of the main checkout."""

import os
from pathlib import Path


def common_folder() -> Path | None:
    """The folder that all runs share, also those of the queue, which work in copies of the project; it may not exist.

    None outside a DVC project.
    """
    named = os.environ.get("DVC_ROOT")  # DVC names the project to the stages it runs; to the queue's, whose queue it is
    here = Path(named) if named else Path.cwd()
    project = next((folder for folder in (here, *here.parents) if (folder / ".dvc").is_dir()), None)
    return project / ".dvc/tmp/medseg" if project else None
