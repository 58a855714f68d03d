"""Fixtures that many tests share."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]
SAMPLES = Path(os.environ.get("MEDSEG_SAMPLES", PROJECT.parent / "shared" / "data"))


@pytest.fixture(scope="session")
def project() -> Path:
    """The root of this checkout."""
    return PROJECT


@pytest.fixture(scope="session")
def samples() -> Path:
    """The folder with small real samples of the public data sets; tests that need it are skipped without it."""
    if not SAMPLES.is_dir():
        pytest.skip(f"the sample pictures are not at {SAMPLES}; MEDSEG_SAMPLES can name their folder")
    return SAMPLES


@pytest.fixture(autouse=True)
def undo_determinism() -> Iterator[None]:
    """Training makes PyTorch deterministic for the whole process; the next test's reference may have no such form."""
    yield
    if "torch" in sys.modules:
        sys.modules["torch"].use_deterministic_algorithms(False)
