"""One run at a time in a checkout: a stage refuses to work among results of other parameters, and to end under others.

DVC takes the hashes that it writes to `dvc.lock` after a stage has ended. A second run, or an editor, that changes
`params.yaml` meanwhile would so be recorded as what ran. Nothing is checked where no `dvc.yaml` lists the stage.
"""

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from medseg.core.errors import UserError
from medseg.core.params import read_yaml

PIPELINE, LOCK = Path("dvc.yaml"), Path("dvc.lock")  # in the working folder: DVC runs stages in the project's root
ADVICE = "a checkout holds one run at a time (`dvc exp run --temp` and the queue work in copies); say dvc repro again"
ABSENT = object()


@contextmanager
def one_run(stage: str, params: Path) -> Iterator[None]:
    """Hold the parameters of the stages before `stage` against `dvc.lock`, and after the block its own to the start.

    Says on stderr where code that ran was changed in the meantime. Raises `UserError` naming the parameters that
    differ.
    """
    stages = read_yaml(PIPELINE)["stages"] if PIPELINE.is_file() and params.is_file() else {}
    if stage not in stages:  # run by hand, elsewhere
        yield
        return
    started, before = time.time(), read_yaml(params)
    _check_earlier(list(stages)[: list(stages).index(stage)], params, before)
    yield
    after = read_yaml(params)
    own = stages[stage].get("params", [])
    changed = sorted(key for name in own for key in _differences(name, before.get(name), after.get(name)))
    if changed:
        raise UserError(f"{params}: {', '.join(changed)} changed while the stage {stage} ran; {ADVICE}")
    for path in _changed_code(started):
        print(
            f"warning: {path} changed while the stage {stage} ran, and DVC records it as it is now; "
            f"to run it: dvc repro -f -s {stage}",
            file=sys.stderr,
        )


def _check_earlier(stages: list[str], params: Path, values: Mapping[str, Any]) -> None:
    recorded = read_yaml(LOCK).get("stages", {}) if LOCK.is_file() else {}
    for stage in stages:
        for name, value in recorded.get(stage, {}).get("params", {}).get(str(params), {}).items():
            if keys := _differences(name, value, values.get(name)):
                raise UserError(f"{params}: {', '.join(keys)} changed after the stage {stage} had run; {ADVICE}")


def _differences(key: str, before: Any, after: Any) -> list[str]:
    """The dotted keys below `key` whose values differ."""
    if not (isinstance(before, dict) and isinstance(after, dict)):
        return [] if before == after else [key]
    names = dict.fromkeys([*before, *after])
    return [
        found
        for name in names
        for found in _differences(f"{key}.{name}", before.get(name, ABSENT), after.get(name, ABSENT))
    ]


def _changed_code(since: float) -> list[Path]:
    """Loaded files of this project that were written after `since`, in seconds as `time.time` counts."""
    files = [Path(file) for module in list(sys.modules.values()) if (file := getattr(module, "__file__", None))]
    root = Path.cwd()
    own = sorted(file for file in files if {"src", "stages"} & set(file.parts) and file.is_relative_to(root))
    return [file.relative_to(root) for file in own if file.is_file() and file.stat().st_mtime > since]
