"""Every choice under conf/ is valid, and every experiment composes into parameters that their classes accept."""

import json
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from sections import CONF, SECTIONS

from medseg.core.errors import UserError
from medseg.core.params import Seed, Word, read_record, read_section, read_yaml, validate
from medseg.experiments.compose import compose, write_params

KINDS: dict[str, Any] = SECTIONS | {"name": Word, "seed": Seed}
RUNS = sorted((Path(__file__).parents[2] / "metrics" / "runs").glob("*.json"))
EXPERIMENTS = sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))
OLDER = ("busi_unet_bcedice", "busi_encoder_upsampled", "ucsb_", "cryonuseg_patches", "isic2017_improved_unet")
PUBLISHED = ("busi_cmunext",)  # protocols
REPRODUCTIONS = [name for name in EXPERIMENTS if name.startswith((*OLDER, *PUBLISHED))]


@pytest.fixture(scope="module")
def composed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The parameter file of an experiment or of the `default`, composed once."""
    folder = tmp_path_factory.mktemp("composed")

    @cache
    def composed(name: str) -> Path:
        compose(CONF, folder / f"{name}.yaml", [] if name == "default" else [f"experiment={name}"])
        return folder / f"{name}.yaml"

    return composed


def test_every_choice_of_every_group_is_valid(tmp_path: Path) -> None:
    groups = {path.name for path in CONF.iterdir() if path.is_dir() and any(path.glob("*.yaml"))}
    assert groups == {*SECTIONS, "experiment"}
    for group, kind in SECTIONS.items():
        for path in (CONF / group).glob("*.yaml"):
            section = read_yaml(path)
            if "defaults" in section:  # it changes another choice
                compose(CONF, tmp_path / "params.yaml", [f"{group}={path.stem}"])
                section = read_yaml(tmp_path / "params.yaml")[group]
            validate(section, kind, str(path))


@pytest.mark.parametrize("name", ["default", *EXPERIMENTS])
def test_every_experiment_is_valid_and_bears_its_name(name: str, composed: Callable[[str], Path]) -> None:
    path = composed(name)
    assert set(read_yaml(path)) == set(KINDS)
    for section, kind in KINDS.items():
        read_section(path, section, kind)
    assert read_yaml(path)["name"] == name


def test_every_experiment_acts_on_the_whole_and_says_what_it_is() -> None:
    for experiment in EXPERIMENTS:
        first, second, *_ = experiment_file(experiment).splitlines()
        assert first == "# @package _global_", experiment  # Hydra ignores it on any other line
        assert second.startswith("# "), experiment
        assert len(second) > 20, experiment


def test_what_reproduces_a_source_names_it_its_number_and_what_is_different() -> None:
    headings = ["Reproduces", "The source's number", "Departs"]
    for experiment in REPRODUCTIONS:
        comment = [line for line in experiment_file(experiment).splitlines() if line.startswith("#")]
        starts = [line.split(":")[0].removeprefix("# ") for line in comment if ":" in line]
        assert [start for start in starts if start in headings] == headings, experiment


def test_every_older_project_has_an_experiment() -> None:
    for name in (*OLDER, *PUBLISHED):
        assert any(experiment.startswith(name) for experiment in REPRODUCTIONS)


def experiment_file(name: str) -> str:
    return (CONF / "experiment" / f"{name}.yaml").read_text()


def test_an_override_beats_an_experiment(tmp_path: Path) -> None:
    compose(CONF, tmp_path / "params.yaml", ["experiment=sample_busi", "train.epochs=3", "loss=dice"])
    values = read_yaml(tmp_path / "params.yaml")
    assert (values["train"]["epochs"], values["loss"]["name"], values["data"]["name"]) == (3, "dice", "busi")


def test_the_committed_params_are_the_composed_default(project: Path, composed: Callable[[str], Path]) -> None:
    shown = subprocess.run(["git", "show", "HEAD:params.yaml"], cwd=project, capture_output=True, text=True, check=True)
    assert shown.stdout == composed("default").read_text()


@pytest.mark.parametrize("record", RUNS, ids=lambda path: path.stem)
def test_a_recorded_run_was_made_with_what_its_experiment_says_today(
    record: Path, composed: Callable[[str], Path]
) -> None:
    recorded, today = json.loads(record.read_text())["parameters"], read_record(composed(record.stem))
    assert shared(recorded, today) == shared(today, recorded)


def shared(first: Any, second: Any) -> Any:
    """What of `first` has a key in `second`: a parameter that was added since does not touch older records."""
    if not (isinstance(first, dict) and isinstance(second, dict)):
        return first
    return {key: shared(value, second[key]) for key, value in first.items() if key in second}


@pytest.mark.parametrize(
    ("override", "named"), [("data=nowhere", "nowhere"), ("trian.epochs=3", "trian"), ("train.epoch=3", "epoch")]
)
def test_a_wrong_override_is_named_and_nothing_is_written(override: str, named: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=named):
        compose(CONF, tmp_path / "params.yaml", [override])
    assert not (tmp_path / "params.yaml").exists()


def test_invalid_values_are_told_and_the_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    write_params(CONF, path, ["seed=3"])
    with pytest.raises(UserError, match=rf"^{path}: evaluate\.overlap = 2"):
        write_params(CONF, path, ["evaluate.overlap=2"])
    assert read_yaml(path)["seed"] == 3


def test_a_value_that_hydra_can_t_read_is_told_to_be_quoted(tmp_path: Path) -> None:
    pattern = "images/{stem}.png"
    with pytest.raises(UserError, match=r"mismatched input(.|\n)*need quotes twice"):
        compose(CONF, tmp_path / "params.yaml", ["data=folder", f"data.images={pattern}"])
    compose(CONF, tmp_path / "params.yaml", ["data=folder", f'data.images="{pattern}"'])
    assert read_yaml(tmp_path / "params.yaml")["data"]["images"] == pattern
