"""The whole pipeline through the real `dvc`, in a clone of this project, on a few small phantoms."""

import json
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from clone import TINY, Clone, copy_project
from crash import Site
from ruamel.yaml import YAML

pytestmark = pytest.mark.timeout(1500)


def test_one_command_makes_model_metrics_plots_and_report(clone: Clone) -> None:
    for made in (
        "models/segmenter/model.yaml",
        "models/segmenter/weights.safetensors",
        "models/segmenter/README.md",
        "data/predictions/per_image.csv",
        "data/predictions/summary.csv",
        "plots/evaluate/uncertainty.png",
        "plots/prepare/samples.png",
        "plots/augment/variants.png",
        "plots/evaluate/cases.png",
        "metrics/manifest.json",
        "reports/report.html",
        "reports/report.md",
    ):
        assert (clone.folder / made).stat().st_size > 0, made
    assert {"dice", "dice_range_low", "dice_range_high", "iou"} <= set(clone.metrics())


def test_the_second_run_does_nothing_and_leaves_git_clean(clone: Clone) -> None:
    assert "Data and pipelines are up to date" in clone.run("dvc", "repro")
    assert "up to date" in clone.run("dvc", "status")
    assert clone.run("git", "status", "--porcelain") == ""


def test_a_stage_that_was_killed_leaves_nothing_half_done_and_ends_right_when_run_again(site: Site) -> None:
    kill = site.strike("prepare", "dvc repro", "all", lambda _: site.has_worked("prepare", 0.5))
    assert kill.running
    assert kill.faults == ()


def test_training_that_was_killed_goes_on_and_ends_right(site: Site) -> None:
    kill = site.strike("train", "dvc repro", "all", lambda _: site.has_finished(1))
    assert kill.faults == ()
    assert kill.resumed is not None
    assert kill.resumed >= 1
    assert not site.has_finished(1)  # removed on success


@pytest.mark.slow
def test_another_clone_elsewhere_makes_the_same_bytes(clone: Clone, project: Path, tmp_path: Path) -> None:
    """Every out, report included: another folder, number of workers, time zone, locale, umask and order of hashes."""
    surroundings = {"TZ": "Pacific/Kiritimati", "LC_ALL": "C", "LANG": "tr_TR.UTF-8", "PYTHONHASHSEED": "7"}
    other = Clone(copy_project(project, tmp_path / "far" / "away").folder, surroundings)
    other.run("medseg", "params", *TINY, "machine.workers=3", "machine.backend=loky")
    other.run("sh", "-c", "umask 077; dvc repro")
    assert (other.folder / "dvc.lock").read_text() == clone.run("git", "show", "HEAD:dvc.lock")
    assert json.loads((other.folder / "metrics/environment.json").read_text()).keys() == {"train", "evaluate"}


@pytest.mark.slow
def test_provenance_leads_back_from_the_bundle_and_names_what_was_changed(clone: Clone) -> None:
    printed = clone.run("medseg", "provenance", "models/segmenter")
    assert "made by: stage evaluate\n" in printed
    assert "a tiny run (main)" in printed
    assert "not here" not in printed
    with (clone.folder / "src/medseg/training/losses.py").open("a") as stream:
        stream.write("# changed\n")
    done = clone.attempt("medseg", "provenance", "models/segmenter")
    assert done.returncode == 1
    assert "error: src/medseg/training: not what dvc.lock has" in done.stdout
    restore(clone)


@pytest.mark.slow
def test_a_changed_loss_reruns_train_and_what_follows(clone: Clone) -> None:
    clone.run("medseg", "params", *TINY, "loss=dice")
    assert clone.repro() == ["train", "evaluate", "report"]
    restore(clone)


@pytest.mark.slow
def test_a_changed_report_template_reruns_the_report_alone(clone: Clone) -> None:
    with (clone.folder / "src/medseg/report/templates/report.html").open("a") as stream:
        stream.write("<!-- changed -->\n")
    assert clone.repro() == ["report"]
    restore(clone)


@pytest.mark.parametrize(
    ("override", "stages"),
    [
        pytest.param("data.seed=1", ["download", "manifest", "report"], marks=pytest.mark.slow),
        pytest.param("split.seed=1", ["manifest", "report"], marks=pytest.mark.slow),
        pytest.param("prepare.height=64", ["prepare", "report"], marks=pytest.mark.slow),
        pytest.param("augment.seed=1", ["augment", "report"], marks=pytest.mark.slow),
        ("seed=1", ["train", "report"]),
        pytest.param("evaluate.threshold=0.4", ["evaluate", "report"], marks=pytest.mark.slow),
        ("machine.workers=1", []),
    ],
)
def test_a_changed_parameter_touches_the_stages_that_read_it(clone: Clone, override: str, stages: list[str]) -> None:
    """A dry run shows the stages whose own parameters changed; what follows them is run when their outputs differ."""
    clone.run("medseg", "params", *TINY, override)
    assert clone.repro("--dry") == stages
    told = clone.run("medseg", "status")
    assert ("out of date: " in told) == bool(stages)
    assert all(stage in told for stage in stages)
    assert "Dice 0." in told
    assert "(range 0." in told  # of few groups
    restore(clone)


@pytest.mark.parametrize(
    ("file", "stages"),
    [
        ("src/medseg/training/losses.py", ["train", "report"]),
        pytest.param("src/medseg/metrics/overlap.py", ["evaluate", "report"], marks=pytest.mark.slow),
        pytest.param(
            "src/medseg/previews/drawing.py",
            ["manifest", "prepare", "augment", "evaluate", "report"],
            marks=pytest.mark.slow,
        ),
    ],
)
def test_changed_code_touches_the_stages_that_use_it(clone: Clone, file: str, stages: list[str]) -> None:
    with (clone.folder / file).open("a") as stream:
        stream.write("# changed\n")
    assert clone.repro("--dry") == stages
    restore(clone)


@pytest.mark.slow
def test_editors_leftovers_and_bytecode_change_no_hash(clone: Clone) -> None:
    for name in ("__pycache__/a.cpython-311.pyc", "losses.py~", ".losses.py.swp", ".DS_Store"):
        path = clone.folder / "src/medseg/training" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"left over")
    assert "up to date" in clone.run("dvc", "status")
    restore(clone)


def test_freezing_a_stage_and_thawing_it_leaves_dvc_yaml_as_it_was(clone: Clone) -> None:
    before = (clone.folder / "dvc.yaml").read_bytes()
    for stage in ("prepare", "evaluate"):
        clone.run("dvc", "freeze", stage)
        clone.run("dvc", "unfreeze", stage)
    assert (clone.folder / "dvc.yaml").read_bytes() == before


def test_an_experiment_is_shown_in_columns_that_fit_a_screen(clone: Clone) -> None:
    clone.run("dvc", "exp", "run", "-n", "stricter", *settings("evaluate.threshold=0.6"))
    every, changed = (
        clone.run("dvc", "exp", "show", "--csv", *options).splitlines()[0].split(",")
        for options in ((), ("--only-changed", "--drop", "^(src|stages|conf|data|models|plots|metrics)($|/)"))
    )
    params = set(YAML().load(clone.folder / "params.yaml"))
    about = {"Experiment", "rev", "typ", "Created", "parent", "State", "Executor"}
    deps = [name for name in every if "/" in name and not name.startswith("dice/") and name != "val/dice"]
    metrics = [name for name in every if name not in {*about, *deps} and name.split(".")[0] not in params]
    assert {"dice", "val/dice", "epoch"} <= set(metrics)
    assert len(metrics) <= 20, metrics
    assert "evaluate.threshold" in changed
    assert len(changed) <= 15, changed
    restore(clone)


def test_a_misspelt_parameter_stops_with_one_message(clone: Clone) -> None:
    params = clone.folder / "params.yaml"
    yaml = YAML()
    values = yaml.load(params)
    values["loss"]["bce_wieght"] = values["loss"].pop("bce_weight")
    yaml.dump(values, params)
    done = clone.attempt("dvc", "repro")
    assert done.returncode == 255
    assert "params.yaml: loss.bce_weight is missing" in done.stdout
    assert "params.yaml: loss.bce_wieght is no known key" in done.stdout
    assert "Traceback" not in done.stdout
    restore(clone)


@pytest.mark.slow
def test_experiments_run_and_a_queued_one_runs_the_code_it_was_queued_with(clone: Clone) -> None:
    """One experiment at once; another queued, then the code broken before the queue starts."""
    clone.run("dvc", "exp", "run", "-n", "bolder", *settings("evaluate.threshold=0.2"))
    bolder = clone.metrics()
    clone.run("dvc", "exp", "run", "--queue", "-n", "queued", *settings("evaluate.threshold=0.8"))
    module = clone.folder / "src" / "medseg" / "evaluation" / "evaluate.py"
    code = module.read_text()
    module.write_text("raise RuntimeError('this code was written after the experiment was queued')\n" + code)
    clone.run("dvc", "queue", "start", "-j", "1")
    wait_for(clone, "queued")
    module.write_text(code)
    clone.run("dvc", "exp", "apply", "queued")
    assert clone.metrics() != bolder
    assert json.loads(clone.run("dvc", "params", "diff", "--json"))["params.yaml"]["evaluate.threshold"]["new"] == 0.8
    assert json.loads(clone.run("dvc", "metrics", "diff", "--json"))
    drawn = json.loads(clone.run("dvc", "plots", "diff", "bolder", "queued", "--json", "--split"))["data"]
    declared = [
        next(iter(entry)) for entry in YAML().load(clone.folder / "dvc.yaml")["plots"] if isinstance(entry, dict)
    ]
    assert {name: {revision for part in drawn[name] for revision in part["revisions"]} for name in declared} == {
        name: {"bolder", "queued"} for name in declared
    }
    printed = clone.run("medseg", "compare", "bolder", "queued")
    assert "| queued |" in printed


@pytest.mark.slow
def test_the_model_can_be_had_as_an_artifact(clone: Clone, tmp_path: Path) -> None:
    clone.run("git", "tag", "-a", "segmenter@v1.0.0", "-m", "the first")
    clone.run("dvc", "artifacts", "get", ".", "segmenter", "-o", str(tmp_path / "got"))
    assert sorted(path.name for path in (tmp_path / "got").iterdir()) == [
        "README.md",
        "model.yaml",
        "training_images.csv",
        "weights.safetensors",
    ]
    image = next((clone.folder / "data/raw").rglob("*.png"))
    clone.run("medseg", "predict", str(image), "--model", str(tmp_path / "got"), "--out", str(tmp_path / "out"))
    assert (tmp_path / "out/predictions.csv").read_text().count("\n") == 2


@pytest.mark.slow
def test_a_row_of_named_experiments_runs_beside_another_and_hands_its_network_on(clone: Clone) -> None:
    """Three of the project's own experiments on small phantoms; the last goes on with the network of the one before."""
    row = ["isic2017_improved_unet", "isic2017_improved_unet_continued"]
    small = settings("data=phantom", "split=fraction", "train.epochs=1", "model.init_features=4", augment=False)
    other = "busi_unet_bcedice"
    clone.run("dvc", "exp", "run", "--queue", "-n", other, "-S", f"experiment={other}", *small)
    printed = clone.run("medseg", "series", row[0], "-j", "2", *small)
    assert f"| {row[0]} | improved_unet 4 | dice | test | 0." in printed
    assert f"| {row[1]} | improved_unet 4 | dice | test | 0." in printed
    assert (clone.folder / "dvc_plots" / row[0] / "index.html").stat().st_size > 0
    wait_for(clone, other)
    assert {*row, other} <= set(clone.run("dvc", "exp", "list", "--name-only").split())
    clone.run("dvc", "exp", "apply", row[1])
    initial_network = YAML().load(clone.folder / "models" / "network" / "model.yaml")["training"]["initial_network"]
    assert (initial_network["name"], initial_network["continued"]) == (row[0], True)
    clone.run("git", "reset", "-q", "--hard")
    clone.run("git", "clean", "-qfdx", "weights", "metrics/runs")
    restore(clone)


def restore(clone: Clone) -> None:
    """Back to the committed run, outputs and all."""
    clone.run("git", "checkout", "-q", ".")
    clone.run("dvc", "checkout", "--force")
    assert "up to date" in clone.run("dvc", "status")


def settings(*overrides: str, augment: bool = True) -> list[str]:
    """Options of `dvc exp run` for a tiny run; `augment=False` where the experiment draws no variants."""
    tiny = [override for override in TINY if augment or not override.startswith("augment.")]
    return [word for override in (*tiny, *overrides) for word in ("-S", override)]


def wait_for(clone: Clone, name: str, seconds: Sequence[int] = range(300)) -> None:
    """Wait until the queue has done with an experiment; it must have succeeded."""
    for _ in seconds:
        line = next(line for line in clone.run("dvc", "queue", "status").splitlines() if f" {name} " in line)
        if "Success" in line:
            return
        assert "Failed" not in line, clone.run("dvc", "queue", "logs", name)
        time.sleep(1)
    pytest.fail(f"the experiment '{name}' did not end")
