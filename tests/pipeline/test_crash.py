"""The pipeline killed anywhere, then started again; `make crash` strikes more often, and at random."""

import os
import re
import signal
from pathlib import Path

import pytest
from crash import Site, Victims, Way

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]


@pytest.mark.parametrize(
    ("way", "stage", "victims"),
    [
        ("dvc repro", "download", "all"),
        ("dvc repro", "manifest", "stage"),
        ("dvc repro", "augment", "stage"),
        ("dvc repro", "evaluate", "all"),
        ("dvc repro", "report", "stage"),
        ("dvc exp run", "evaluate", "stage"),
        ("queue", "prepare", "all"),
    ],
)
def test_a_stage_that_was_killed_leaves_nothing_half_done_and_ends_right_when_run_again(
    site: Site, way: Way, stage: str, victims: Victims
) -> None:
    kill = site.strike(stage, way, victims, lambda _: site.has_worked(stage, 0.5))
    assert kill.running
    assert kill.faults == ()


@pytest.mark.parametrize(
    ("way", "victims", "epoch"),
    [
        ("dvc repro", "stage", 3),
        ("dvc exp run", "all", 2),
        ("queue", "stage", 2),
    ],
)
def test_training_that_was_killed_goes_on_and_ends_right(site: Site, way: Way, victims: Victims, epoch: int) -> None:
    kill = site.strike("train", way, victims, lambda _: site.has_finished(epoch))
    assert kill.faults == ()
    assert kill.resumed is not None
    assert kill.resumed >= epoch
    assert not site.has_finished(1)  # removed on success


def test_ctrl_c_under_dvc_is_told_in_a_few_lines_and_the_next_run_goes_on(site: Site) -> None:
    name = site.new_name("dvc repro", "train")
    with site.start("dvc repro", "train", name) as process:
        site.wait_for(lambda: site.has_finished(1), "the first epoch")
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all processes of the command
    assert process.returncode == 255  # DVC's own; in its message is the shell's: the stage's, or that of Ctrl-C itself
    assert re.search(r"exited with (130|-2)\b", site.output(name))
    assert "interrupted" in site.output(name)
    assert "Traceback" not in site.output(name)
    site.start("dvc repro", "train", name)
    site.finish()
    assert "resuming from epoch" in site.output(name)
    assert site.faults_of_end("train", "dvc repro", name) == []


def test_a_second_dvc_repro_says_why_it_does_not_run_and_leaves_the_first_alone(site: Site) -> None:
    name = site.new_name("dvc repro", "train")
    site.start("dvc repro", "train", name)
    site.wait_for(lambda: site.stage_process("train"), "the stage")
    second = site.clone.attempt("dvc", "repro", "-f", "-s", "train")
    assert second.returncode == 255
    assert "is busy, it is being blocked by:\n  (PID " in second.stdout
    site.finish()
    assert site.faults_of_end("train", "dvc repro", name) == []


def test_a_queue_with_several_workers_ends_with_all_results_right(site: Site) -> None:
    assert site.faults_of_queue(experiments=4, workers=2, alone=1) == []


def test_odd_surroundings_change_no_byte(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path with spaces and letters of other alphabets, no home, a locale that is not there, a clock far away."""
    odd_values = {"HOME": str(tmp_path / "gone"), "LC_ALL": "tr_TR.ISO8859-9", "TZ": "Asia/Kathmandu"}
    for variable, value in odd_values.items():
        monkeypatch.setenv(variable, value)
    odd = Site(site.folder, tmp_path / "Größe \N{GREEK SMALL LETTER ALPHA} 医学 (1)" / "the site")
    assert odd.right == site.right
    assert odd.locked == site.locked
    # Not in the queue: DVC writes its paths there in ASCII.
    assert odd.strike("train", "dvc repro", "stage", lambda _: odd.has_finished(1)).faults == ()
