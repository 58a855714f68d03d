"""Every choice under conf/ composes into parameters that their classes accept."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from sections import CONF, SECTIONS

from medseg.composition import compose
from medseg.errors import UserError
from medseg.params import Seed, read_record, read_section, read_yaml

KINDS: dict[str, Any] = SECTIONS | {"name": str, "seed": Seed}
CHOICES = sorted(
    f"{path.parent.name}={path.stem}" for path in CONF.glob("*/*.yaml") if path.parent.name != "experiment"
)
RUNS = sorted((Path(__file__).parents[1] / "metrics" / "runs").glob("*.json"))
EXPERIMENTS = sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))
OLDER = ("busi_unet_bcedice", "busi_encoder_upsampled", "ucsb_", "cryonuseg_patches", "isic2017_improved_unet")
PUBLISHED = ("busi_cmunext",)  # protocols
REPRODUCTIONS = [name for name in EXPERIMENTS if name.startswith((*OLDER, *PUBLISHED))]


def check(path: Path) -> None:
    assert set(read_yaml(path)) == set(KINDS)
    for name, kind in KINDS.items():
        read_section(path, name, kind)


@pytest.mark.parametrize("choice", CHOICES)
def test_every_choice_is_valid(choice: str, tmp_path: Path) -> None:
    compose(CONF, tmp_path / "params.yaml", [choice])
    check(tmp_path / "params.yaml")


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_is_valid_and_bears_its_name(experiment: str, tmp_path: Path) -> None:
    compose(CONF, tmp_path / "params.yaml", [f"experiment={experiment}"])
    check(tmp_path / "params.yaml")
    assert read_yaml(tmp_path / "params.yaml")["name"] == experiment


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_acts_on_the_whole_and_says_what_it_is(experiment: str) -> None:
    first, second, *_ = experiment_file(experiment).splitlines()
    assert first == "# @package _global_"  # Hydra ignores it on any other line
    assert second.startswith("# ")
    assert len(second) > 20


@pytest.mark.parametrize("experiment", REPRODUCTIONS)
def test_what_reproduces_a_source_names_it_its_number_and_what_is_different(experiment: str) -> None:
    comment = [line for line in experiment_file(experiment).splitlines() if line.startswith("#")]
    starts = [line.split(":")[0].removeprefix("# ") for line in comment if ":" in line]
    headings = ["Reproduces", "The source's number", "Departs"]
    assert [start for start in starts if start in headings] == headings


def test_every_older_project_has_an_experiment() -> None:
    for name in (*OLDER, *PUBLISHED):
        assert any(experiment.startswith(name) for experiment in REPRODUCTIONS)


def experiment_file(name: str) -> str:
    return (CONF / "experiment" / f"{name}.yaml").read_text()


def test_an_override_beats_an_experiment(tmp_path: Path) -> None:
    compose(CONF, tmp_path / "params.yaml", ["experiment=sample_busi", "train.epochs=3", "loss=dice"])
    values = read_yaml(tmp_path / "params.yaml")
    assert (values["train"]["epochs"], values["loss"]["name"], values["data"]["name"]) == (3, "dice", "busi")


def test_the_committed_params_are_the_composed_default(project: Path, tmp_path: Path) -> None:
    compose(CONF, tmp_path / "params.yaml", [])
    shown = subprocess.run(["git", "show", "HEAD:params.yaml"], cwd=project, capture_output=True, text=True, check=True)
    assert shown.stdout == (tmp_path / "params.yaml").read_text()


@pytest.mark.parametrize("record", RUNS, ids=lambda path: path.stem)
def test_a_recorded_run_was_made_with_what_its_experiment_says_today(record: Path, tmp_path: Path) -> None:
    experiment = [] if record.stem == "default" else [f"experiment={record.stem}"]
    compose(CONF, tmp_path / "params.yaml", experiment)
    assert json.loads(record.read_text())["parameters"] == read_record(tmp_path / "params.yaml")


@pytest.mark.parametrize(
    ("override", "named"), [("data=nowhere", "nowhere"), ("trian.epochs=3", "trian"), ("train.epoch=3", "epoch")]
)
def test_a_wrong_override_is_named_and_nothing_is_written(override: str, named: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=named):
        compose(CONF, tmp_path / "params.yaml", [override])
    assert not (tmp_path / "params.yaml").exists()
