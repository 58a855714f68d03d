"""The record of a run, and the README's table of recorded runs."""

import hashlib
import importlib.metadata
import json
from pathlib import Path
from typing import Any

import pytest
from finished_run import DESCRIPTION, PARAMETERS, Run, write_run

from medseg.core.environment import code_sha256
from medseg.core.errors import UserError
from medseg.core.params import read_record
from medseg.experiments.run_record import (
    BEGIN,
    COLUMNS,
    END,
    run_record,
    runs_table,
    update_page,
    write_record,
)


def record_of(run: Run) -> dict[str, Any]:
    summary, code = run.predictions / "summary.json", [run.code, run.stages]
    return run_record(read_record(run.params), run.manifest, run.audit, run.segmenter, summary, code)


def small_record(name: str, **changes: Any) -> dict[str, Any]:
    return {
        "name": name,
        "parameters": {
            "data": {"name": "busi"},
            "prepare": {"name": "resize", "channels": 1, "height": 96, "width": 128},
            "model": {"name": "unet", "encoder": "resnet18"},
            "loss": {"name": "bce_dice"},
        },
        "data": {"splits": {"train": 7, "val": 2, "test": 1}},
        "training": {"epochs": 8},
        "metrics": {"split": "test", "images": 1, "dice": 0.94094, "dice_low": 0.9, "dice_high": 0.97, "iou": 0.8},
    } | changes


def test_a_record_holds_what_was_asked_and_what_came_out(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    record = record_of(run)
    assert record["name"] == "first"
    assert record["parameters"] == {key: value for key, value in PARAMETERS.items() if key != "machine"}
    assert record["data"] == {
        "manifest_sha256": hashlib.sha256(run.manifest.read_bytes()).hexdigest(),
        "images": 4,
        "splits": {"train": 1, "test": 3},
    }
    trained = {"best_epoch": 2, "epochs": 3, "samples": 28, "initial_weights": "random"}
    assert trained.items() <= record["training"].items()
    assert record["metrics"] == json.loads((run.predictions / "summary.json").read_text(encoding="utf-8"))


def test_a_record_holds_what_val_chose_and_the_hash_of_the_code(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    record = record_of(run)
    assert record["chosen"] == DESCRIPTION["chosen"]
    assert record["code_sha256"] == code_sha256([run.code, run.stages])
    (run.code / "main.py").write_text("x = 1\n", encoding="utf-8")
    changed = record_of(run)
    assert changed.pop("code_sha256") != record.pop("code_sha256")
    assert changed == record


def test_a_record_names_the_versions_of_direct_dependencies_alone(tmp_path: Path) -> None:
    packages = record_of(write_run(tmp_path))["packages"]
    assert packages["torch"] == importlib.metadata.version("torch")
    assert "jinja2" in packages
    assert "pytest" not in packages
    assert list(packages) == sorted(packages, key=str.lower)


def test_a_written_record_reads_back_and_repeats_to_the_byte(tmp_path: Path) -> None:
    record = record_of(write_run(tmp_path))
    write_record(record, tmp_path / "one.json")
    write_record(record_of(write_run(tmp_path / "again")), tmp_path / "two.json")
    assert json.loads((tmp_path / "one.json").read_text(encoding="utf-8")) == record
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "two.json").read_bytes()


@pytest.mark.parametrize(("content", "fault"), [("{", "not readable as JSON"), ("[]", "must hold a JSON object")])
def test_a_summary_that_is_no_object_is_named(tmp_path: Path, content: str, fault: str) -> None:
    run = write_run(tmp_path)
    (run.predictions / "summary.json").write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=f"summary.json: {fault}"):
        record_of(run)


def test_the_table_has_a_row_per_run_by_name(tmp_path: Path) -> None:
    undefined = {"split": "val", "images": 0, "dice": None, "dice_low": None, "dice_high": None, "iou": None}
    write_record(small_record("b", metrics=undefined, data={"splits": {"train": 7, "val": 3}}), tmp_path / "1.json")
    write_record(small_record("a|c"), tmp_path / "2.json")
    few = {"split": "test", "images": 9, "dice": 0.94, "dice_range_low": 0.5, "dice_range_high": 0.97, "iou": 0.8}
    write_record(small_record("few", metrics=few), tmp_path / "3.json")
    absent, setting = " | ".join(["\N{EN DASH}"] * 3), "unet resnet18 | bce_dice | 128x96 grey | 8"
    assert runs_table(tmp_path).splitlines() == [
        f"| {' | '.join(COLUMNS)} |",
        "| --- | --- | --- | --- | --- | --- | ---: | --- | ---: | ---: | ---: | ---: |",
        f"| a\\|c | busi | 7/2/1 | {setting} | test | 1 | 0.941 | 0.900\N{EN DASH}0.970 | 0.800 |",
        f"| b | busi | 7/3/0 | {setting} | val | 0 | {absent} |",
        f"| few | busi | 7/2/1 | {setting} | test | 9 | 0.940 | range 0.500\N{EN DASH}0.970 | 0.800 |",
    ]


def test_a_file_that_is_no_record_is_named(tmp_path: Path) -> None:
    write_record({"name": "x"}, tmp_path / "x.json")
    with pytest.raises(UserError, match=r"x\.json: not a record of a run: 'parameters'"):
        runs_table(tmp_path)


def test_the_readme_takes_the_table_between_its_markers_and_keeps_the_rest(tmp_path: Path) -> None:
    folder, readme = tmp_path / "runs", tmp_path / "README.md"
    write_record(small_record("a"), folder / "a.json")
    readme.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n", encoding="utf-8")
    update_page(readme, folder)
    once = readme.read_text(encoding="utf-8")
    assert once == f"before\n{BEGIN}\n{runs_table(folder)}{END}\nafter\n"
    update_page(readme, folder)
    assert readme.read_text(encoding="utf-8") == once


@pytest.mark.parametrize("text", ["", f"{BEGIN}\n", f"{END}\n{BEGIN}\n"])
def test_a_readme_without_both_markers_is_left_alone(tmp_path: Path, text: str) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match="add them"):
        update_page(readme, tmp_path)
    assert readme.read_text(encoding="utf-8") == text


def test_the_page_of_results_holds_the_table_of_its_runs(project: Path, tmp_path: Path) -> None:
    text = (project / "docs/explanation/results.md").read_text(encoding="utf-8")
    assert text.index(BEGIN) < text.index(END)
    folder = project / "metrics" / "runs"
    if any(folder.glob("*.json")):
        (tmp_path / "README.md").write_text(text, encoding="utf-8")
        update_page(tmp_path / "README.md", folder)
        assert (tmp_path / "README.md").read_text(encoding="utf-8") == text, "say `make table` and commit the page"
