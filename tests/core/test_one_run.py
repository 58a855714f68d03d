"""A stage neither works among results of other parameters nor ends under others than it began with."""

import os
import sys
import time
from pathlib import Path

import pytest

from medseg.core.errors import UserError
from medseg.core.one_run import one_run

PIPELINE = """
stages:
  prepare: {cmd: a, params: [prepare]}
  train: {cmd: b, params: [train, seed]}
  report: {cmd: c, params: [name]}
"""
LOCK = """
schema: '2.0'
stages:
  prepare: {cmd: a, params: {params.yaml: {prepare: {height: 96, channels: 1}}}}
  train: {cmd: b, params: {params.yaml: {train: {epochs: 6, rate: 1e-3}, seed: 0}}}
"""
PARAMS = """
prepare: {height: 96, channels: 1}
train: {epochs: 6, rate: 1.0e-3}
seed: 0
name: first
machine: {workers: 2}
"""


@pytest.fixture
def params(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name, text in (("dvc.yaml", PIPELINE), ("dvc.lock", LOCK), ("params.yaml", PARAMS)):
        Path(name).write_text(text)
    return Path("params.yaml")


def test_a_stage_ends_under_the_parameters_that_it_began_with(params: Path) -> None:
    with pytest.raises(UserError, match=r"train\.epochs changed while the stage train ran"), one_run("train", params):
        params.write_text(PARAMS.replace("epochs: 6", "epochs: 7"))


@pytest.mark.parametrize("change", [("first", "second"), ("workers: 2", "workers: 1"), ("height: 96", "height: 32")])
def test_what_the_stage_does_not_read_may_change(params: Path, change: tuple[str, str]) -> None:
    with one_run("train", params):
        params.write_text(PARAMS.replace(*change))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (("height: 96", "height: 32"), r"prepare\.height changed after the stage prepare"),
        (("seed: 0", ""), "seed changed after the stage train"),
    ],
)
def test_a_stage_does_not_start_among_results_of_other_parameters(
    params: Path, change: tuple[str, str], told: str
) -> None:
    params.write_text(PARAMS.replace(*change))
    with pytest.raises(UserError, match=told), one_run("report", params):
        pytest.fail("the stage ran")
    with one_run("prepare", params):  # runs first, so it may follow the change
        pass


def test_code_that_changed_while_it_ran_is_named(
    params: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("losses", "untouched"):
        Path("src").mkdir(exist_ok=True)
        Path(f"src/{name}.py").write_text("A = 1\n")
    monkeypatch.syspath_prepend(str(Path("src").resolve()))
    import losses  # type: ignore[import-not-found]
    import untouched  # type: ignore[import-not-found]  # noqa: F401

    with one_run("train", params):
        os.utime(losses.__file__, (time.time() + 5, time.time() + 5))
    told = capsys.readouterr().err
    assert "src/losses.py changed while the stage train ran" in told
    assert "untouched" not in told
    for name in ("losses", "untouched"):
        del sys.modules[name]
