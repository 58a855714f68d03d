"""The site builds without a warning, and a README's links lead somewhere."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from medseg.experiments.compose import compose


@pytest.mark.slow
def test_the_site_builds_without_a_warning(project: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    page = (tmp_path / "site/reference/metrics.html").read_text(encoding="utf-8")
    assert "hd95" in page
    assert "medseg predict" in (tmp_path / "site/reference/commands.html").read_text(encoding="utf-8")
    pages = {path: path.read_text(encoding="utf-8") for path in (tmp_path / "site").rglob("*.html")}
    assert [path for path, text in pages.items() if re.search(r"<(script|img|link rel=.stylesheet)[^>]+//", text)] == []


@pytest.mark.slow
def test_overrides_that_documents_quote_compose(project: Path, tmp_path: Path) -> None:
    pages = [project / "README.md", *(project / "docs").rglob("*.md")]
    lines = [line for page in pages for line in page.read_text(encoding="utf-8").replace("\\\n", " ").splitlines()]
    quoted = {tuple(re.findall(r"-S ['\"]?([^\s`'\";,)]+)", line)) for line in lines} - {()}
    real = [words for words in quoted if not re.search("NAME|HOST|=study", " ".join(words))]
    for words in real:
        compose(project / "conf", tmp_path / "params.yaml", words)
    assert len(real) >= 20


def test_links_lead_somewhere(project: Path) -> None:
    pages = [project / "README.md", project / "CONTRIBUTING.md", *(project / "docs").rglob("*.md")]
    for page in pages:
        links = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8"))
        assert [link for link in links if not (page.parent / link).exists()] == [], page


def test_the_readme_is_a_front_door(project: Path) -> None:
    assert len((project / "README.md").read_text(encoding="utf-8").splitlines()) <= 180


def test_files_that_contributing_names_are_there(project: Path) -> None:
    named = re.findall(r"`([a-z_]+/[a-z_]+\.py)`", (project / "CONTRIBUTING.md").read_text(encoding="utf-8"))
    missing = [name for name in named if not (project / "src/medseg" / name).is_file()]
    assert missing == []
    assert len(named) >= 10
