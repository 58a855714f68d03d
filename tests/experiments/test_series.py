"""A series of experiments, through the real DVC queue, on a pipeline that takes no time."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import medseg
from medseg.core.errors import UserError
from medseg.experiments.series import Variant, find_series, read_variants

SOURCES = Path(medseg.__file__).parents[1]  # not those of an installed version
CONFIG = """\
defaults:
  - _self_
  - experiment: null
name: default
model: {name: segnet, init_features: 32}
loss: {name: dice}
train: {fails: false, init_from: null, continue_from: null}
"""
STAGE = """\
import json, pathlib
from ruamel.yaml import YAML
values = YAML(typ="safe").load(pathlib.Path("params.yaml"))
if values["train"]["fails"]:
    raise SystemExit("no such luck")
initial = values["train"]["init_from"]
network = (pathlib.Path("weights", initial, "network").read_text() if initial else "") + values["name"] + ";"
metrics = {"split": "test", "dice": len(network) / 100, "iou": None}
for folder in ("models/network", "metrics/runs"):
    pathlib.Path(folder).mkdir(parents=True, exist_ok=True)
pathlib.Path("models/network/network").write_text(network)
pathlib.Path("loss.csv").write_text("step,loss\\n0,1\\n1,0.5\\n")
record = {"name": values["name"], "parameters": values, "network": network, "metrics": metrics}
pathlib.Path("metrics/runs", values["name"] + ".json").write_text(json.dumps(record))
"""
PIPELINE = """\
stages:
  train:
    cmd: python stage.py
    deps: [weights, stage.py]
    params: [name, model, loss, train]
    outs:
      - models/network
      - metrics/runs/${name}.json: {cache: false}
    plots:
      - loss.csv: {cache: false, x: step, y: loss}
"""
EXPERIMENTS = {
    "toy_after": "init_from: toy_first",  # by name before the one that it starts from
    "toy_first": "fails: false",
    "toy_never": "init_from: toy_wrong",
    "toy_wrong": "fails: true",
    "ring_a": "init_from: ring_b",
    "ring_b": "continue_from: ring_a",
    "rootless": "init_from: nowhere",
}


class Toy:
    """A repository with a pipeline of one stage and a series of four experiments."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, name: str, text: str) -> None:
        """Write a file of the repository."""
        (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (self.folder / name).write_text(text)

    def attempt(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command in the repository, whatever becomes of it."""
        names = {f"GIT_{role}_{what}": "tester" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "DVC", "PYTEST"))}
        return subprocess.run(command, cwd=self.folder, env=kept | names, capture_output=True, text=True, check=False)

    def run(self, *command: str) -> str:
        """Run a command in the repository and return what it printed; fail if it fails."""
        done = self.attempt(*command)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def series(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run `medseg series` in the repository."""
        code = f"import sys; sys.path.insert(0, {str(SOURCES)!r}); from medseg.cli import main; main()"
        return self.attempt(sys.executable, "-c", code, "series", *arguments)


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    toy = Toy(tmp_path_factory.mktemp("toy"))
    toy.run("git", "init", "-q", "-b", "main")
    toy.run(sys.executable, "-m", "dvc", "init", "-q")
    toy.write(".dvc/config", "[core]\n    analytics = false\n    check_update = false\n[hydra]\n    enabled = true\n")
    toy.write(".gitignore", "/models\n/dvc_plots\n")
    toy.write("weights/.gitkeep", "")
    toy.write("dvc.yaml", PIPELINE)
    toy.write("stage.py", STAGE)
    toy.write("conf/config.yaml", CONFIG)
    toy.write("params.yaml", CONFIG.partition("null\n")[2])
    for name, choice in EXPERIMENTS.items():
        toy.write(f"conf/experiment/{name}.yaml", f"# @package _global_\nname: {name}\ntrain: {{{choice}}}\n")
    toy.run("git", "add", "-A")
    toy.run("git", "commit", "-qm", "a toy")
    return toy


@pytest.fixture(scope="module")
def first_run(toy: Toy) -> subprocess.CompletedProcess[str]:
    """The series of four: one good, one after it, one that fails, one after that."""
    return toy.series("toy", "--jobs", "2")


def recorded(toy: Toy, name: str) -> str:
    revision = toy.run("git", "for-each-ref", "--format=%(objectname)", f"refs/exps/*/*/{name}").strip()
    network: str = json.loads(toy.run("git", "show", f"{revision}:metrics/runs/{name}.json"))["network"]
    return network


@pytest.mark.slow
def test_a_variant_that_waits_in_the_queue_is_not_queued_twice(toy: Toy) -> None:
    # First of these tests: no worker of another run is there to take it.
    name = "waiting"
    toy.write(f"conf/experiment/{name}.yaml", f"# @package _global_\nname: {name}\n")
    toy.run(sys.executable, "-m", "dvc", "exp", "run", "--queue", "-n", name, "-S", f"experiment={name}")
    done = toy.series(name)
    assert done.returncode == 1
    assert f"in the queue already: {name};" in done.stderr
    toy.run(sys.executable, "-m", "dvc", "queue", "remove", name)


@pytest.mark.slow
def test_a_variant_runs_after_the_one_that_it_starts_from_with_its_network(
    toy: Toy, first_run: subprocess.CompletedProcess[str]
) -> None:
    lines = first_run.stdout.splitlines()
    assert lines.index("toy_first: finished") < lines.index("toy_after: finished")
    assert recorded(toy, "toy_first") == "toy_first;"
    assert recorded(toy, "toy_after") == "toy_first;toy_after;"


@pytest.mark.slow
def test_the_commands_that_bring_a_network_are_shown(first_run: subprocess.CompletedProcess[str]) -> None:
    shown = [line for line in first_run.stdout.splitlines() if "weights/" in line]
    assert shown == [
        "$ dvc get . models/network --rev toy_first -o weights/toy_first",
        "$ dvc add weights/toy_first",
        "$ git add weights/toy_first.dvc weights/.gitignore",
    ]


@pytest.mark.slow
def test_the_table_tells_the_finished_variants_and_the_page_draws_them(
    toy: Toy, first_run: subprocess.CompletedProcess[str]
) -> None:
    table = (
        "| variant | model | loss | scored on | Dice | IoU |\n"
        "| --- | --- | --- | --- | ---: | ---: |\n"
        "| toy_after | segnet 32 | dice | test | 0.200 | \N{EN DASH} |\n"
        "| toy_first | segnet 32 | dice | test | 0.100 | \N{EN DASH} |\n"
    )
    assert table in first_run.stdout
    assert toy.series("toy", "--table").stdout == table
    page = (toy.folder / "dvc_plots" / "toy" / "index.html").read_text()
    assert "toy_first" in page
    assert "toy_after" in page


@pytest.mark.slow
def test_a_failure_shows_the_end_of_its_log_and_stops_only_what_builds_on_it(
    first_run: subprocess.CompletedProcess[str],
) -> None:
    assert first_run.returncode == 1
    assert "toy_wrong: failed" in first_run.stdout.splitlines()
    assert "toy_wrong: failed:\n" in first_run.stderr
    assert "no such luck" in first_run.stderr
    assert "toy_never: not run: the network that it starts from was not trained" in first_run.stderr
    assert "Traceback" not in first_run.stderr


@pytest.mark.slow
@pytest.mark.usefixtures("first_run")
def test_a_finished_variant_is_kept(toy: Toy) -> None:
    done = toy.series("toy_first")
    assert done.returncode == 0, done.stderr
    assert "toy_first: finished earlier, kept" in done.stdout
    assert "dvc exp run" not in done.stdout


@pytest.mark.slow
@pytest.mark.usefixtures("first_run")
def test_a_variant_finished_with_other_parameters_is_not_taken_for_this_one(toy: Toy) -> None:
    done = toy.series("toy_first", "-S", "loss.name=bce")
    assert done.returncode == 1
    assert "dvc exp remove toy_first" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (("rootless",), "rootless starts from the network 'nowhere'"),
        (("ring",), "they start from one another: ring_"),
        (("ring", "--table"), "none of these experiments is finished: ring_a, ring_b"),
        (("ring", "-S", "trian.fails=true"), "trian"),
    ],
)
def test_what_cannot_run_is_said_before_anything_is_queued(toy: Toy, arguments: tuple[str, ...], fault: str) -> None:
    done = toy.series(*arguments)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert fault in done.stderr
    assert "$ dvc" not in done.stdout


def test_a_series_is_what_begins_with_whole_words(project: Path) -> None:
    conf = project / "conf"
    assert find_series(conf, "isic2017_improved_unet") == ["isic2017_improved_unet", "isic2017_improved_unet_continued"]
    assert len(find_series(conf, "busi_encoder_upsampled")) == 6
    with pytest.raises(UserError, match=r"no name begins with 'ucs'; near it: ucsb.*; there are: busi_cmunext, "):
        find_series(conf, "ucs")


def test_a_variant_knows_the_network_that_it_starts_from_or_goes_on_with(project: Path) -> None:
    names = ["busi_encoder_upsampled_retrained", "isic2017_improved_unet_continued", "ucsb_unet"]
    variants = read_variants(project / "conf", names, ["train.epochs=3"])
    assert [variant.initial_network for variant in variants] == [
        "busi_encoder_upsampled_resnet18",
        "isic2017_improved_unet",
        None,
    ]
    assert [variant.parameters["train"]["epochs"] for variant in variants] == [3, 3, 3]


def test_a_variant_holds_nothing_that_changes_no_result(project: Path) -> None:
    variant: Variant = read_variants(project / "conf", ["ucsb_unet"], [])[0]
    assert "machine" not in variant.parameters


@pytest.mark.parametrize("name", ["-n", "a b", "a;touch x"])
def test_names_that_are_no_words_are_refused(tmp_path: Path, name: str) -> None:
    """They become parts of commands, and names of commits and folders."""
    (tmp_path / "experiment").mkdir()
    (tmp_path / "config.yaml").write_text(CONFIG)
    (tmp_path / "experiment/x.yaml").write_text("# @package _global_\nname: x\n")
    with pytest.raises(UserError, match=r"its name = .*one word"):
        read_variants(tmp_path, [name], [])
    with pytest.raises(UserError, match=r"train\.init_from or continue_from = .*one word"):
        read_variants(tmp_path, ["x"], [f'train.init_from="{name}"'])
