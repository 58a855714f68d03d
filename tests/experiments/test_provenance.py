"""From a model back to what made it, through git and DVC in a small repository whose stages copy files."""

import hashlib
import os
import shutil
import subprocess
import sys
from contextlib import chdir
from pathlib import Path
from typing import Any

import pytest
import tiny
import yaml
from dvc.repo import Repo
from typer.testing import CliRunner

from medseg.cli import app
from medseg.core.errors import UserError
from medseg.experiments.provenance import Provenance, folder_md5, provenance_text, trace
from medseg.models.model_yaml import InitialNetwork, Training

PIPELINE = """\
stages:
  download:
    cmd: mkdir -p data && cp -r source data/raw
    deps: [source]
    outs: [data/raw]
  train:
    cmd: mkdir -p models && cp -r given models/network
    deps: [src/train.py, src/parts, data/raw, given, weights]
    params: [train]
    outs: [models/network]
  evaluate:
    cmd: cp -r models/network models/segmenter && cp params.yaml models/segmenter/README.md
    deps: [models/network]
    params: [evaluate]
    outs: [models/segmenter]
  report:
    cmd: cp params.yaml report.md
    deps: [models/segmenter]
    params: [name]
    outs: [report.md]
"""
SEGMENTER = Path("models/segmenter")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository whose pipeline ran and was committed."""
    folder = tmp_path_factory.mktemp("made")
    texts = {
        "source/a b.png": "image",
        "source/ä/b.png": "image",
        "src/train.py": "train",
        "src/parts/a.py": "a",
        "weights/.gitkeep": "",
        "given/weights.safetensors": "weights",
        "dvc.yaml": PIPELINE,
        ".gitignore": "/given/\n__pycache__/\n",
        ".dvcignore": "__pycache__/\n",
    }
    for name, text in texts.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    describe(folder / "given")
    write_params(folder)
    git(folder, "init", "-q", "-b", "main")
    Repo.init(str(folder)).close()
    repro(folder)
    commit(folder, "first run")
    return folder


@pytest.fixture
def root(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, which this process stands in."""
    shutil.copytree(made, tmp_path / "root", symlinks=True)
    monkeypatch.chdir(tmp_path / "root")
    return tmp_path / "root"


def git(folder: Path, *words: str) -> str:
    names = {f"GIT_{role}_{what}": "tester" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    command = ["git", *words]
    return subprocess.run(
        command, cwd=folder, env=os.environ | names, check=True, capture_output=True, text=True
    ).stdout


def commit(folder: Path, subject: str) -> str:
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", subject)
    return git(folder, "rev-parse", "HEAD").strip()


def repro(folder: Path) -> None:
    with chdir(folder), Repo() as repo:
        repo.reproduce()


def describe(folder: Path, initial_network: InitialNetwork | None = None) -> None:
    description = tiny.description().model_dump()
    first = "initial_network" if initial_network else "random"
    training = Training.model_validate(
        description["training"] | {"initial_weights": first, "initial_network": initial_network}
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.yaml").write_text(yaml.safe_dump(description | {"training": training.model_dump()}))


def write_params(folder: Path, **changes: Any) -> None:
    sections = {"name": "tiny", "train": {"epochs": 2, "rate": 1e-3}, "evaluate": {"threshold": 0.5}, "machine": {}}
    (folder / "params.yaml").write_text(yaml.safe_dump(sections | changes))


def replace_file(path: Path, text: str) -> None:
    """Other bytes of the same length at the same date, as when a disk fails; the cache keeps its own."""
    before = path.stat()
    assert len(text) == before.st_size
    path.unlink()
    path.write_text(text)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def locked(root: Path, path: str) -> str:
    stages = yaml.safe_load((root / "dvc.lock").read_text())["stages"]
    return next(str(out["md5"]) for stage in stages.values() for out in stage["outs"] if out["path"] == path)


def test_a_committed_model_leads_back_to_all_that_made_it(root: Path) -> None:
    found = trace(SEGMENTER)
    assert found.made is not None
    assert (found.faults, found.absent, found.parent) == ([], [], None)
    assert found.md5 == locked(root, "models/segmenter")
    assert (found.made.stage, found.made.here) == ("evaluate", True)
    assert found.made.commits == [git(root, "rev-parse", "HEAD").strip()]
    assert found.made.parameters == {"train": {"epochs": 2, "rate": 1e-3}, "evaluate": {"threshold": 0.5}}
    assert found.made.files["data/raw"] == locked(root, "data/raw")
    assert set(found.made.files) == {
        *("source", "data/raw", "src/train.py", "src/parts", "given", "weights"),
        *("models/network", "models/segmenter"),
    }


def test_the_text_names_revision_data_and_parameters_and_the_command_ends_well(root: Path) -> None:
    git(root, "tag", "v1")
    done = CliRunner().invoke(app, ["provenance", "models/segmenter"])
    assert done.exit_code == 0, done.output
    head = git(root, "log", "-1", "--format=%h %cs").strip()
    assert f"revision: {head} first run (tags/v1)\n" in done.output
    assert f"  data/raw: {locked(root, 'data/raw')}\n" in done.output
    assert "    epochs: 2\n" in done.output
    assert "src/train.py" not in done.output
    assert "initial weights: random weights\n" in done.output


def test_a_network_is_followed_as_well_as_a_segmenter_and_wherever_it_was_copied(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root / "models/network", tmp_path / "elsewhere")
    for folder in (Path("models/network"), tmp_path / "elsewhere"):
        found = trace(folder)
        assert found.made is not None
        assert found.made.stage == "train"
        assert "evaluate" not in found.made.parameters
        assert found.faults == []


def test_a_run_that_is_not_committed_is_said_to_be_so(root: Path) -> None:
    write_params(root, train={"epochs": 3})
    (root / "given/weights.safetensors").write_text("others!")
    repro(root)
    found = trace(SEGMENTER)
    assert found.made is not None
    assert (found.made.commits, found.made.here, found.faults) == ([], True, [])
    assert found.made.parameters["train"] == {"epochs": 3}
    assert "revision: not committed, the working tree's dvc.lock alone has it" in provenance_text(found)


def test_a_model_of_an_older_commit_is_found_whatever_the_tree_holds_now(root: Path, tmp_path: Path) -> None:
    first = git(root, "rev-parse", "HEAD").strip()
    shutil.copytree(root / SEGMENTER, tmp_path / "older")
    write_params(root, train={"epochs": 3})
    (root / "src/train.py").write_text("trains")
    (root / "given/weights.safetensors").write_text("others!")
    repro(root)
    commit(root, "second run")
    found = trace(tmp_path / "older")
    assert found.made is not None
    assert (found.made.commits, found.made.here, found.faults) == ([first], False, [])
    assert found.made.parameters["train"] == {"epochs": 2, "rate": 1e-3}


def test_a_model_of_an_experiment_is_found(root: Path, tmp_path: Path) -> None:
    (root / "given/weights.safetensors").write_text("others!")
    repro(root)
    shutil.copytree(root / SEGMENTER, tmp_path / "tried")
    experiment = commit(root, "dvc: commit experiment")
    git(root, "update-ref", "refs/exps/ab/cdef/tried", experiment)
    git(root, "reset", "-q", "--hard", "HEAD~1")
    found = trace(tmp_path / "tried")
    assert found.made is not None
    assert (found.made.commits, found.faults) == ([experiment], [])
    assert "(exps/ab/cdef/tried)" in provenance_text(found)


def test_a_changed_byte_of_the_model_is_named_and_the_command_ends_with_1(root: Path) -> None:
    replace_file(root / SEGMENTER / "weights.safetensors", "weightZ")
    assert trace(SEGMENTER).faults == ["models/segmenter/weights.safetensors: not what dvc.lock has"]
    done = subprocess.run(
        [sys.executable, "-c", "from medseg.cli import main; main()", "provenance"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr == "error: models/segmenter/weights.safetensors: not what dvc.lock has\n"
    assert "made by: unknown" in done.stdout


def test_files_missing_and_added_are_named(root: Path) -> None:
    (root / SEGMENTER / "weights.safetensors").unlink()
    (root / SEGMENTER / "added").touch()
    assert trace(SEGMENTER).faults == [
        "models/segmenter/added: not what dvc.lock has",
        "models/segmenter/weights.safetensors: not what dvc.lock has",
    ]


def test_without_the_cache_a_changed_folder_is_named_by_its_hashes(root: Path) -> None:
    shutil.rmtree(root / ".dvc/cache")
    (root / SEGMENTER / "added").touch()
    found = trace(SEGMENTER)
    assert found.faults == [f"models/segmenter: {found.md5}, not {locked(root, 'models/segmenter')}"]


@pytest.mark.parametrize(
    ("path", "text", "named"),
    [
        ("data/raw/a b.png", "imago", "data/raw"),
        ("models/network/weights.safetensors", "weightZ", "models/network"),
        ("src/train.py", "brain", "src/train.py"),
        ("src/parts/a.py", "b", "src/parts"),
    ],
)
def test_whatever_made_it_and_was_changed_since_is_named_at_any_date(
    root: Path, path: str, text: str, named: str
) -> None:
    replace_file(root / path, text)
    assert trace(SEGMENTER).faults == [f"{named}: not what dvc.lock has"]


def test_a_changed_parameter_is_named_and_those_of_the_machine_and_of_later_stages_are_not_looked_at(
    root: Path,
) -> None:
    write_params(root, train={"epochs": 3, "rate": 1e-3}, name="other", machine={"workers": 3})
    assert trace(SEGMENTER).faults == ["params.yaml: train: not what dvc.lock has"]


def test_what_is_ignored_by_dvc_changes_nothing(root: Path) -> None:
    (root / "src/parts/__pycache__").mkdir()
    (root / "src/parts/__pycache__/a.pyc").touch()
    assert trace(SEGMENTER).faults == []


def test_what_is_absent_is_told_and_is_no_fault(root: Path) -> None:
    shutil.rmtree(root / "data")
    found = trace(SEGMENTER)
    assert (found.absent, found.faults) == (["data/raw"], [])
    assert "not here, so not checked: data/raw" in provenance_text(found)


def test_a_commit_that_holds_other_code_than_made_the_model_is_told(root: Path) -> None:
    """As when code was changed, run, and put back before the commit."""
    (root / "given/weights.safetensors").write_text("others!")
    (root / "src/train.py").write_text("brain")
    (root / "src/parts/a.py").write_text("b")
    repro(root)
    git(root, "checkout", "-q", "src")
    head = commit(root, "run with code that nobody has")
    faults = trace(SEGMENTER).faults
    for path in ("src/train.py", "src/parts"):
        assert f"{path}: not in commit {head[:7]} what it was when the model was made" in faults
        assert f"{path}: not what dvc.lock has" in faults
    assert len(faults) == 4


def test_many_commits_are_counted(root: Path) -> None:
    for number in range(4):
        write_params(root, name=f"run {number}")  # a new dvc.lock, the same model
        repro(root)
        commit(root, f"run {number}")
    found = trace(SEGMENTER)
    assert found.made is not None
    assert len(found.made.commits) == 5
    text = provenance_text(found)
    assert text.index("first run") < text.index("run 0") < text.index("run 1")
    assert "run 2" not in text
    assert "revision: and 2 later ones\n" in text


def continued(root: Path) -> Provenance:
    """A run that went on with the network of the first one, which lies in weights/first."""
    shutil.copytree(root / "models/network", root / "weights/first")
    digest = hashlib.sha256((root / "weights/first/weights.safetensors").read_bytes()).hexdigest()
    describe(root / "given", InitialNetwork(name="first", weights_sha256=digest, continued=True, epochs_before=1))
    repro(root)
    commit(root, "continued")
    return trace(SEGMENTER)


def test_the_initial_network_is_followed_to_its_own_run(root: Path) -> None:
    found = continued(root)
    assert found.faults == []
    assert found.parent is not None
    assert found.parent.made is not None
    assert found.parent.folder == Path("weights/first")
    assert (found.parent.made.stage, found.parent.md5) == ("train", locked_at(root, "HEAD~1", "models/network"))
    text = provenance_text(found)
    assert "weights of the initial network first, continued after 1 epoch" in text
    assert "\n  made by: stage train\n" in text[text.index("started from:") :]


def locked_at(root: Path, revision: str, path: str) -> str:
    stages = yaml.safe_load(git(root, "show", f"{revision}:dvc.lock"))["stages"]
    return next(str(out["md5"]) for stage in stages.values() for out in stage["outs"] if out["path"] == path)


def test_an_initial_network_that_is_another_now_is_named(root: Path) -> None:
    continued(root)
    replace_file(root / "weights/first/weights.safetensors", "weightZ")
    assert trace(SEGMENTER).faults == [
        "weights: not what dvc.lock has",
        "weights/first/weights.safetensors: not the weights that training started from",
    ]


def test_an_initial_network_that_is_gone_is_told(root: Path) -> None:
    continued(root)
    shutil.rmtree(root / "weights/first")
    found = trace(SEGMENTER)
    assert found.parent is None
    assert "weights/first, the initial network" in found.absent


def test_a_model_that_nothing_here_made_is_told(root: Path, tmp_path: Path) -> None:
    describe(tmp_path / "strange")
    (fault,) = trace(tmp_path / "strange").faults
    assert fault.startswith(f"{tmp_path}/strange: no dvc.lock of this repository has a folder with this content")
    assert root.is_dir()


def test_what_is_no_model_is_refused(root: Path) -> None:
    (root / "other").mkdir()
    with pytest.raises(UserError, match=r"other/model\.yaml: no such file"):
        trace(Path("other"))


def test_outside_of_a_repository_the_message_is_git_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    describe(tmp_path / "model")
    with pytest.raises(UserError, match="not a git repository"):
        trace(Path("model"))


def test_the_order_of_files_does_not_change_a_folder_s_hash() -> None:
    assert (
        folder_md5({"b": "1", "a/c": "2"}) == folder_md5({"a/c": "2", "b": "1"}) != folder_md5({"a/c": "1", "b": "2"})
    )
