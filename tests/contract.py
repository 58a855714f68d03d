"""What the code says it reaches, read from its syntax: modules through imports, sections through `read_section`."""

import ast
from collections.abc import Iterator
from pathlib import Path

from medseg.core.params import FREE_SECTIONS

ENTRY = "medseg"


def reached_modules(stage: Path, source: Path) -> set[Path]:
    """The stage's file and every module under `source` that it imports, directly or not, wherever the import stands.

    Packages' `__init__.py` count where they hold more than a docstring.
    """
    found: set[Path] = set()
    waiting = [stage]
    while waiting:
        path = waiting.pop()
        if path in found:
            continue
        found.add(path)
        waiting += [module for name in _imported_names(path) for module in _files_of(name, source)]
    return {path for path in found if path.name != "__init__.py" or _has_code(path)}


def read_sections(stage: Path, all_sections: set[str]) -> set[str]:
    """The sections of params.yaml that a stage reads; `read_record` reads all but `FREE_SECTIONS`."""
    sections: set[str] = set()
    for call in (node for node in ast.walk(_parsed(stage)) if isinstance(node, ast.Call)):
        function = call.func.id if isinstance(call.func, ast.Name) else ""
        if function == "read_section":
            assert isinstance(call.args[1], ast.Constant), f"{stage}: read_section needs the section's name in letters"
            sections.add(str(call.args[1].value))
        if function == "read_record":
            sections |= all_sections - FREE_SECTIONS
    return sections


def _imported_names(path: Path) -> Iterator[str]:
    for node in _run_nodes(_parsed(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports are not followed"
            yield str(node.module)
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _run_nodes(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those that type checkers alone see."""
    for child in ast.iter_child_nodes(node):
        if not (isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"):
            yield child
            yield from _run_nodes(child)


def _files_of(name: str, source: Path) -> Iterator[Path]:
    """The files that importing `name` runs: its packages' `__init__.py` and the module itself."""
    parts = name.split(".")
    if parts[0] != ENTRY:
        return
    for depth in range(1, len(parts) + 1):
        base = source.joinpath(*parts[:depth])
        for candidate in (base / "__init__.py", base.with_suffix(".py")):
            if candidate.is_file():
                yield candidate


def _has_code(path: Path) -> bool:
    return any(not isinstance(node, ast.Expr) for node in _parsed(path).body)


def _parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))
