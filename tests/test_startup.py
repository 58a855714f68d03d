"""What starting a stage or a command imports: nothing heavy for `--help`, and PyTorch only where a network runs."""

import os
import subprocess
import sys
from pathlib import Path

import tiny
import yaml

HEAVY = {
    "albumentations",
    "cv2",
    "distributed",
    "dvc",
    "matplotlib",
    "numpy",
    "onnxruntime",
    "pandas",
    "pandera",
    "pytorch_lightning",
    "scipy",
    "segmentation_models_pytorch",
    "timm",
    "torch",
    "torchvision",
}


def helped(project: Path, script: str, *names: str) -> subprocess.CompletedProcess[str]:
    """All helps, one after the other in one process; the last line holds the heavy packages that were imported."""
    code = f"import runpy, sys\nfor name in sys.argv[1:]:\n{script}\nprint(*sorted({HEAVY!r} & set(sys.modules)))"
    environment = os.environ | {"PYTHONPATH": "src"}
    command = [sys.executable, "-c", code, *names]
    return subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=True)


def test_help_of_the_stages_imports_nothing_heavy_and_shows_an_example(project: Path) -> None:
    stages = sorted(path.stem for path in (project / "stages").glob("[a-z]*.py"))
    script = """
    sys.argv = [name, "--help"]
    try: runpy.run_module(f"stages.{name}", run_name="__main__")
    except SystemExit as end: assert not end.code
"""
    done = helped(project, script, *stages)
    assert done.stdout.splitlines()[-1] == ""
    assert [done.stdout.count(word) for word in ("Usage:", "Example")] == [len(stages)] * 2


def test_help_of_the_commands_imports_nothing_heavy(project: Path) -> None:
    commands = ["params", "table", "series", "compare", "predict", "export", "evaluate", "provenance"]
    script = """
    sys.argv = ["medseg", *name.split(), "--help"]
    try: runpy.run_module("medseg.cli")["main"]()
    except SystemExit as end: assert not end.code
"""
    done = helped(project, script, "", *commands)
    assert done.stdout.splitlines()[-1] == ""
    assert done.stdout.count("Usage:") == 1 + len(commands)


def test_data_stages_never_import_pytorch(project: Path, tmp_path: Path) -> None:
    """Run one after the other on a few phantoms, in one process."""
    sections = yaml.safe_load((project / "params.yaml").read_text())
    sections["data"] |= {"benign": 3, "malignant": 3, "normal": 3, "width": [64, 64]}
    sections["prepare"] = tiny.resize().model_dump()
    sections["machine"] = tiny.CPU.model_dump()
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(sections))
    raw, table, prepared = (str(tmp_path / name) for name in ("raw", "manifest.csv", "prepared"))
    lists, weights, splits, overlap, out = (
        str(tmp_path / name) for name in ("lists", "weights", "splits", "overlap.csv", "out")
    )
    params, sheet = str(tmp_path / "params.yaml"), str(tmp_path / "sheet.png")
    commands = [
        ("download", params, raw),
        ("manifest", params, raw, lists, weights, table, splits, overlap, str(tmp_path / "audit.json")),
        ("prepare", params, raw, table, prepared, sheet),
        ("augment", params, f"{prepared}/train", out, sheet),
    ]
    code = f"""
import runpy, sys
for name, *paths in {commands!r}:
    sys.argv = [name, *paths]
    try: runpy.run_module(f"stages.{{name}}", run_name="__main__")
    except SystemExit as end: assert not end.code
    assert not {{"torch", "torchvision", "pytorch_lightning", "timm"}} & set(sys.modules), name
"""
    environment = os.environ | {"PYTHONPATH": "src"}
    subprocess.run([sys.executable, "-c", code], cwd=project, env=environment, check=True)
    assert (Path(out) / "images.npy").is_file()


def test_the_report_s_modules_never_import_pytorch(project: Path) -> None:
    names = ["report.sections", "report.page", "experiments.compare", "experiments.run_record"]
    code = f"import sys, {', '.join(f'medseg.{name}' for name in names)}; print(*sys.modules)"
    environment = os.environ | {"PYTHONPATH": "src"}
    printed = subprocess.run(
        [sys.executable, "-c", code], cwd=project, env=environment, capture_output=True, text=True, check=True
    ).stdout.split()
    assert {"pandas", "jinja2"} <= set(printed)
    assert "torch" not in printed
