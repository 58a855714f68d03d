"""The house against its plan: `dvc.yaml` lists what stages reach, and packages import one way."""

import ast
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from contract import reached_modules, read_sections
from ruamel.yaml import YAML

from medseg.core import sections
from medseg.core.params import FREE_SECTIONS

PROJECT = Path(__file__).parents[2]
NEVER_TRACKED = {  # one is tracked by its sections; the others hold clocks and machines
    "params.yaml",
    "logs",
    "metrics/environment.json",
}


def load(name: str) -> Any:
    return YAML(typ="safe", pure=True).load((PROJECT / name).read_text(encoding="utf-8"))


ORDER = [
    *("core", "datasets", "data", "previews", "models", "training"),
    *("metrics", "inference", "evaluation", "experiments", "report"),
]
APART = {  # what stands earlier in the order and is not to be imported
    "models": ("previews",),
    "training": ("previews",),
    "metrics": ("previews", "models", "training"),
    "inference": ("training",),
}

STAGES = load("dvc.yaml")["stages"]
SECTIONS = set(load("params.yaml"))


def paths(entries: list[Any]) -> set[str]:
    return {next(iter(entry)) if isinstance(entry, dict) else entry for entry in entries}


def outputs(stage: dict[str, Any]) -> set[str]:
    return set().union(*(paths(stage.get(kind, [])) for kind in ("outs", "metrics", "plots")))


def listed_modules(deps: Iterable[str]) -> set[Path]:
    code = [PROJECT / dep for dep in deps if dep.split("/")[0] in ("src", "stages")]
    return {module for path in code for module in (path.rglob("*.py") if path.is_dir() else [path])}


def lies_in(path: str, folder: str) -> bool:
    return Path(path).is_relative_to(folder)


def imported_packages(path: Path) -> set[str]:
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    modules = [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)]
    return {module.split(".")[1] for module in modules if module.startswith("medseg.")}


@pytest.mark.parametrize("name", STAGES)
def test_every_module_that_a_stage_reaches_is_listed(name: str) -> None:
    reached = reached_modules(PROJECT / "stages" / f"{name}.py", PROJECT / "src")
    assert sorted(map(str, reached - listed_modules(STAGES[name]["deps"]))) == []


def test_packages_import_one_way() -> None:
    """Each package imports those before it alone, and training does without previews, metrics and inference."""
    package = PROJECT / "src/medseg"
    assert {path.name for path in package.iterdir() if (path / "__init__.py").exists()} == set(ORDER)
    wrong = [
        f"{path.relative_to(package)} imports {imported}"
        for position, name in enumerate(ORDER)
        for path in (package / name).rglob("*.py")
        for imported in imported_packages(path)
        if imported in ORDER[position + 1 :] or imported in APART.get(name, ())
    ]
    assert wrong == []


def test_every_section_is_checked_by_whichever_stage_runs_first() -> None:
    assert set(sections.SECTIONS) == SECTIONS
    for name in STAGES:  # by `run_stage`
        assert "run_stage(main)" in (PROJECT / "stages" / f"{name}.py").read_text(encoding="utf-8")
    assert all(sections.section_type(name) for name in SECTIONS)


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_lists_exactly_the_sections_that_it_reads(name: str) -> None:
    read = read_sections(PROJECT / "stages" / f"{name}.py", SECTIONS)
    assert read - FREE_SECTIONS == set(STAGES[name]["params"])


@pytest.mark.parametrize("name", STAGES)
def test_the_command_names_every_output_and_only_tracked_paths(name: str) -> None:
    stage = STAGES[name]
    words = shlex.split(stage["cmd"])
    assert words[:4] == ["PYTHONPATH=src", "python", "-m", f"stages.{name}"]
    known = paths(stage["deps"]) | outputs(stage) | NEVER_TRACKED
    arguments = words[4:]
    unknown = [
        word for word in arguments if word not in known and not any(path.startswith(f"{word}/") for path in known)
    ]
    assert unknown == []
    unwritten = {
        out for out in outputs(stage) if not any(out == word or out.startswith(f"{word}/") for word in arguments)
    }
    assert unwritten == set()


@pytest.mark.parametrize("name", STAGES)
def test_no_parameter_stands_in_a_command_or_names_what_dvc_removes(name: str) -> None:
    """DVC fills `${...}` in before any stage can look at it: the shell would run a `;`, and `../` lead elsewhere."""
    stage = STAGES[name]
    assert "${" not in stage["cmd"]
    assert "${" not in str(stage["deps"])
    filled = [(out, flags) for kind in ("outs", "metrics", "plots") for out, flags in flagged(stage.get(kind, []))]
    assert [out for out, flags in filled if "${" in out and not flags.get("persist")] == []


def flagged(entries: list[Any]) -> list[tuple[str, dict[str, Any]]]:
    return [next(iter(entry.items())) if isinstance(entry, dict) else (entry, {}) for entry in entries]


def test_every_stage_says_what_it_is_for_and_none_imports_another() -> None:
    for name, stage in STAGES.items():
        assert stage["desc"]
        others = {PROJECT / "stages" / f"{other}.py" for other in STAGES if other != name}
        assert not others & reached_modules(PROJECT / "stages" / f"{name}.py", PROJECT / "src")


def test_the_walk_notices_an_import_inside_a_function(tmp_path: Path) -> None:
    (tmp_path / "medseg").mkdir()
    (tmp_path / "medseg" / "__init__.py").write_text('"""Only words."""\n')
    (tmp_path / "medseg" / "deep.py").write_text("x = 1\n")
    (tmp_path / "medseg" / "near.py").write_text("def f():\n    from medseg import deep\n")
    (tmp_path / "stage.py").write_text(
        "from medseg.near import f\n"
        "def main(params):\n"
        "    from medseg.params import read_section\n"
        '    read_section(params, "loss", int)\n'
    )
    reached = reached_modules(tmp_path / "stage.py", tmp_path)
    assert {path.name for path in reached} == {"stage.py", "near.py", "deep.py"}
    assert read_sections(tmp_path / "stage.py", {"loss", "machine"}) == {"loss"}


def test_no_stage_depends_on_a_part_of_an_output() -> None:
    """DVC 3.67 fails on it where it restores the output from its run cache and has not the one that dvc.lock names."""
    made = set().union(*(outputs(stage) for stage in STAGES.values()))
    parts = [(dep, out) for stage in STAGES.values() for dep in stage["deps"] for out in made if dep != out]
    assert [pair for pair in parts if lies_in(*pair)] == []


READERS = {  # of image files, by module: each opens more formats than are to be opened, some by starting a program
    "PIL.Image": {"open"},
    "cv2": {"imread", "imreadmulti", "imdecode", "imdecodemulti", "VideoCapture"},
    "matplotlib": {"image"},
    "matplotlib.pyplot": {"imread"},
    "skimage": {"io"},
    "torchvision": {"io", "datasets"},
}
READING_PACKAGES = {"imageio", "tifffile", "skimage.io", "torchvision.io", "torchvision.datasets", "matplotlib.image"}
THE_READER = "src/medseg/data/image_io.py"
AS_OTHERS_DO = {  # benchmarks of what a script of one's own does, on files that they wrote themselves
    *("benchmarks/data_stages.py", "benchmarks/peers/smp_script.py", "benchmarks/peers/older.py"),
    "benchmarks/studies/duplicates.py",
}


def opened_images(source: str) -> list[str]:
    """Where a module reads image files by a library: the names, as written or imported."""
    aliases: dict[str, str] = {}  # names here to what they stand for
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for name in node.names:
                known_as = name.asname or name.name.partition(".")[0]
                aliases[known_as] = name.name if name.asname else known_as
                found += [name.name] if name.name in READING_PACKAGES else []
        elif isinstance(node, ast.ImportFrom):
            for name in node.names:
                whole = f"{node.module}.{name.name}"
                aliases[name.asname or name.name] = whole
                is_reader = name.name in READERS.get(node.module or "", ())
                found += [whole] if is_reader or {whole, node.module} & READING_PACKAGES else []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute):
            first, *others = ast.unparse(node.value).split(".")
            module = ".".join([aliases.get(first, first), *others])
            found += [f"{module}.{node.attr}"] if node.attr in READERS.get(module, ()) else []
    return found


def test_images_are_opened_in_one_module_alone() -> None:
    """Elsewhere a file named .tif could be PostScript, for which Pillow starts Ghostscript."""
    parts = ("src", "stages", "benchmarks", "docs", ".ci")
    modules = {path.relative_to(PROJECT).as_posix(): path for part in parts for path in (PROJECT / part).rglob("*.py")}
    opening = {name for name, path in modules.items() if opened_images(path.read_text(encoding="utf-8"))}
    assert opening == {THE_READER} | AS_OTHERS_DO


@pytest.mark.parametrize(
    "source",
    [
        "from PIL import Image\nImage.open(path)",
        "from PIL import Image as PilImage\nread = PilImage.open",
        "import PIL.Image\nPIL.Image.open(path)",
        "from PIL.Image import open as read",
        "import cv2\ncv2.imread(path)",
        "import cv2 as cv\ncv.imdecode(buffer, 1)",
        "def f():\n    from cv2 import imread",
        "import tifffile",
        "from skimage import io",
        "import imageio as iio",
        "import matplotlib.pyplot as plt\nplt.imread(path)",
    ],
)
def test_the_look_for_readers_of_images_finds_each_way_to_write_one(source: str) -> None:
    assert opened_images(source) != []
    assert opened_images("from pathlib import Path\nfrom PIL import Image\nPath(x).open()\nImage.fromarray(a)") == []
