"""Fixtures that many tests share."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import Phase, settings

if TYPE_CHECKING:
    from medseg.data.image import Image
    from medseg.evaluation.evaluate import Evaluation

PROJECT = Path(__file__).parents[1]
SAMPLES = Path(os.environ.get("MEDSEG_SAMPLES", PROJECT.parent / "shared" / "data"))

# How long one example takes depends on what else the machine does. `--hypothesis-profile` chooses another profile.
settings.register_profile("project", deadline=None)
settings.load_profile("project")

# For `make mutate`, which runs the tests a thousand times and asks only whether one fails, not for the simplest case.
settings.register_profile(
    "mutants", max_examples=15, derandomize=True, phases=[Phase.explicit, Phase.generate], deadline=None
)


@pytest.fixture(scope="session")
def project() -> Path:
    """The root of this checkout."""
    return PROJECT


@pytest.fixture(scope="session")
def samples() -> Path:
    """The folder with small real samples of the public data sets; tests that need it are skipped without it."""
    if not SAMPLES.is_dir():
        pytest.skip(f"the sample images are not at {SAMPLES}; MEDSEG_SAMPLES can name their folder")
    return SAMPLES


@pytest.fixture(autouse=True)
def undo_settings_of_torch() -> Iterator[None]:
    """Determinism and the number of threads, which changes rounding, hold for the process: the next test has its own.

    Training sets the one, some tests the other.
    """
    torch = sys.modules.get("torch")
    if torch is None:
        yield
        return
    threads = torch.get_num_threads()
    yield
    torch.use_deterministic_algorithms(False)
    torch.set_num_threads(threads)


# What `scored` draws is imported where it is asked for: most tests need none of it, and it takes seconds.


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where `images` (in raw/) and what was predicted for them lie."""
    return tmp_path_factory.mktemp("evaluation")


@pytest.fixture(scope="module")
def images(folder: Path) -> list[Image]:
    """Those of `scored.four_images`."""
    from scored import four_images

    return four_images(folder / "raw")


@pytest.fixture(scope="module")
def evaluation(folder: Path, images: list[Image]) -> Evaluation:
    """These four, scored."""
    from scored import run

    return run(folder, images)


@pytest.fixture(scope="module")
def class_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `folder`, of `class_images`."""
    return tmp_path_factory.mktemp("classes")


@pytest.fixture(scope="module")
def class_images(class_folder: Path) -> list[Image]:
    """Those of `scored.images_of_classes`."""
    from scored import images_of_classes

    return images_of_classes(class_folder / "raw")


@pytest.fixture(scope="module")
def classes(class_folder: Path, class_images: list[Image]) -> Evaluation:
    """These, scored with three classes."""
    from scored import run_classes

    return run_classes(class_folder, class_images)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what came of all cases of bad input, as `test_doors` recorded them."""
    reports = [report for outcome in ("passed", "failed") for report in terminalreporter.getreports(outcome)]
    rows = [value for report in reports for name, value in report.user_properties if name == "door"]
    if not rows:
        return
    terminalreporter.section("bad input: what, where, exit code, message")
    for what, where, message, code in sorted(rows, key=lambda row: (row[1], row[0])):
        terminalreporter.line(f"{what!a:.60} | {where} | {code} | {' '.join(message.split())!a:.120}")
    terminalreporter.line(f"{len(rows)} cases")
