"""The scripts in benchmarks/ compile, and the names that they import from the project and from one another exist."""

import ast
import importlib
import json
from pathlib import Path

import pytest

from benchmarks import scale

PROJECT = Path(__file__).parents[1]
SCRIPTS = sorted((PROJECT / "benchmarks").rglob("*.py"))


def imported(tree: ast.Module) -> list[tuple[str, str]]:
    """Module and name of every `from medseg.X import Y` and the like, at any depth."""
    nodes = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module]
    return [
        (node.module, alias.name)
        for node in nodes
        if node.module and node.module.split(".")[0] in ("medseg", "stages", "benchmarks")
        for alias in node.names
    ]


def exists(module: str, name: str) -> bool:
    if module.startswith("benchmarks"):  # never imported: some change the process
        path = PROJECT / Path(*module.split(".")).with_suffix(".py")
        return name in {getattr(node, "name", "") for node in ast.parse(path.read_text()).body} | constants(path)
    try:
        return hasattr(importlib.import_module(module), name) or bool(importlib.import_module(f"{module}.{name}"))
    except ModuleNotFoundError:
        return False


def constants(path: Path) -> set[str]:
    """Names that are assigned at the top of a file."""
    targets: list[ast.expr] = []
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Assign):
            targets += node.targets
        elif isinstance(node, ast.AnnAssign):
            targets.append(node.target)
    return {part.id for target in targets for part in ast.walk(target) if isinstance(part, ast.Name)}


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.relative_to(PROJECT).as_posix())
def test_all_that_a_benchmark_imports_exists(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
    compile(tree, str(path), "exec")
    assert [pair for pair in imported(tree) if not exists(*pair)] == []


def test_the_pages_name_benchmarks_that_exist() -> None:
    pages = [PROJECT / "README.md", PROJECT / "Makefile", *(PROJECT / "docs").rglob("*.md")]
    for page in pages:
        words = page.read_text(encoding="utf-8").replace("`", " ").replace(",", " ").split()
        modules = {word.rstrip(".;:)") for word in words if word.startswith("benchmarks.")}
        paths = {word.rstrip(".;:)").lstrip("(") for word in words if word.lstrip("(").startswith("benchmarks/")}
        named = paths | {f"{module.replace('.', '/')}.py" for module in modules}
        assert [name for name in sorted(named) if not (PROJECT / name).exists()] == []


def test_the_page_on_scale_is_what_its_results_say() -> None:
    assert scale.page(json.loads(scale.RESULT.read_text())) == scale.PAGE.read_text()
