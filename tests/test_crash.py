"""The pipeline killed anywhere, then started again: a dozen kills; `make crash` strikes more often, and at random."""

from pathlib import Path

import pytest
from crash import Site, Victims, Way

pytestmark = pytest.mark.timeout(1500)


@pytest.fixture(scope="module")
def site(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Site:
    return Site(project, tmp_path_factory.mktemp("crash") / "site")


@pytest.mark.parametrize(
    ("way", "stage", "victims", "seconds"),
    [
        ("dvc repro", "download", "all", 1.0),
        ("dvc repro", "manifest", "stage", 2.0),
        ("dvc repro", "prepare", "all", 2.0),
        ("dvc repro", "augment", "stage", 1.5),
        ("dvc repro", "evaluate", "all", 6.0),
        ("dvc repro", "report", "stage", 3.0),
        ("dvc exp run", "evaluate", "stage", 4.0),
        ("queue", "prepare", "all", 1.0),
    ],
)
def test_a_stage_that_was_killed_leaves_nothing_half_done_and_ends_right_when_run_again(
    site: Site, way: Way, stage: str, victims: Victims, seconds: float
) -> None:
    kill = site.strike(stage, way, victims, lambda _: site.has_run(stage, seconds))
    assert kill.running
    assert kill.faults == ()


@pytest.mark.parametrize(
    ("way", "victims", "epoch"),
    [("dvc repro", "all", 1), ("dvc repro", "stage", 3), ("dvc exp run", "all", 2), ("queue", "stage", 2)],
)
def test_training_that_was_killed_goes_on_and_ends_right(site: Site, way: Way, victims: Victims, epoch: int) -> None:
    kill = site.strike("train", way, victims, lambda _: site.has_finished(epoch))
    assert kill.faults == ()
    assert kill.resumed is not None
    assert kill.resumed >= epoch
    assert not site.has_finished(kill.resumed)  # removed on success
