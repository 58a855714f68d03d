"""The pages of the reference that are made from the project: configuration, metrics, commands.

MkDocs runs `on_files` (see `hooks` in mkdocs.yml). Nothing is written to disk.
"""

import re
import subprocess
from pathlib import Path
from typing import Any

import click
import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages."""
    pages = {"configuration": configuration(), "metrics": metrics(), "commands": commands()}
    for name, text in pages.items():
        files.append(File.generated(config, f"reference/{name}.md", content=text))
    return files


def configuration() -> str:
    """Every group of conf/ with every choice, as its commented file says it."""
    parts = [
        "# Configuration",
        "Each group is a folder of `conf/`, each choice a file in it: `-S GROUP=CHOICE` takes a file, "
        "`-S GROUP.KEY=VALUE` changes a value. A misspelt key or a value out of range, in any section, stops the first "
        "stage before any work.",
        _yaml("conf/config.yaml"),
    ]
    tracked = _tracked_files()
    for group in sorted(path for path in (ROOT / "conf").iterdir() if path.is_dir() and path.name != "lists"):
        parts.append(f"## {group.name}")
        for choice in sorted(path for path in group.glob("*.yaml") if path.relative_to(ROOT).as_posix() in tracked):
            parts += [f"### {group.name}={choice.stem}", _yaml(choice.relative_to(ROOT).as_posix())]
    return "\n\n".join(parts)


def _tracked_files() -> set[str]:
    """The files of conf/ that git knows: those of `medseg new` name folders of their owner."""
    listed = subprocess.run(["git", "ls-files", "conf"], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(listed.stdout.splitlines())


def metrics() -> str:
    """The registry as a table."""
    from medseg.metrics.registry import METRICS

    rows = []
    for metric in METRICS:
        label = metric.label.format(pixels="N", percent="N")
        cells = (f"`{metric.key}`", label, metric.unit, metric.better, _cell(metric.sentence))
        rows.append(f"| {' | '.join(cells)} |")
    head = "# Metrics\n\nColumns of `data/predictions/per_image.csv`, one row an image, inside its annotated region."
    return "\n".join([head, "", "| key | label | unit | better is | what |", "|---|---|---|---|---|", *rows])


def commands() -> str:
    """Every command with its help."""
    from medseg.cli import app

    group: Any = typer.main.get_command(app)
    context = click.Context(group, info_name="medseg")
    parts = ["# Commands", "`medseg COMMAND --help` prints the same."]
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        parts += [f"## medseg {name}", _plain(command.help or ""), _parameters(command)]
    return "\n\n".join(parts)


def _parameters(command: Any) -> str:
    rows = []
    for parameter in command.params:
        options = [word for word in parameter.opts if word.startswith("-")]
        shown = ", ".join(f"`{word}`" for word in options) or f"`{parameter.metavar or parameter.name.upper()}`"
        has_default = parameter.default not in (None, False, ()) and not callable(parameter.default)
        default = f"`{parameter.default}`" if has_default else ""
        rows.append(f"| {shown} | {_cell(getattr(parameter, 'help', None) or '')} | {default} |")
    return "\n".join(["| argument or option | what | default |", "|---|---|---|", *rows]) if rows else ""


def _yaml(path: str) -> str:
    return f'```yaml title="{path}"\n{(ROOT / path).read_text(encoding="utf-8").rstrip()}\n```'


def _plain(text: str) -> str:
    return re.sub(r"\n(?!\n)[ \t]*", " ", text.strip()).replace("\n ", "\n\n")


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ").replace("{", "&#123;")
