"""Runs against one another: from tables made by hand, and through git and DVC in a small repository."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tiny
import yaml
from dvc.api import DVCFileSystem
from dvc.repo import Repo
from typer.testing import CliRunner, Result

from medseg.cli import app
from medseg.core.errors import UserError
from medseg.evaluation.per_image import columns, score_image
from medseg.experiments.compare import (
    Images,
    RunMean,
    Summary,
    compare,
    comparison_text,
    result_json,
    summarise_runs,
    summary_text,
)
from medseg.experiments.runs import WORDS, Run, read_runs
from medseg.inference.settings import Counting, Scoring
from medseg.metrics.counting import CountingParams
from medseg.metrics.intervals import Estimate, estimate
from medseg.metrics.paired import sign_flip_test
from medseg.metrics.surface import Tolerance

NAN = float("nan")
PARAMETERS: dict[str, Any] = {
    "name": "first",
    "seed": 0,
    "data": {"name": "phantom", "seed": 0},
    "split": {"name": "folds", "fold": 0},
    "augment": {"seed": 0, "factor": 7},
    "model": {"name": "unet", "encoder": "resnet18"},
    "machine": {"workers": 1},
}
PIPELINE = """\
stages:
  download:
    cmd: mkdir -p data/raw && cp raw.txt data/raw/raw.txt
    deps: [raw.txt]
    outs: [data/raw]
  manifest:
    cmd: cp known.csv data/manifest.csv
    deps: [known.csv]
    outs: [data/manifest.csv]
  evaluate:
    cmd: mkdir -p data/predictions && cp scores.csv data/predictions/per_image.csv && touch data/predictions/a.png
    deps: [scores.csv]
    outs: [data/predictions]
"""


def scored(dice: dict[str, float], groups: str = "", **columns: Any) -> pd.DataFrame:
    """A table per image; an image is a group unless `groups` gives a letter for each; NaN means an empty truth."""
    table = pd.DataFrame({"file": list(dice), "label": "tumour", "group": list(groups or dice)})
    table["region_pixels"] = 100
    table["truth_pixels"] = [0 if np.isnan(value) else 10 for value in dice.values()]
    table["dice"] = list(dice.values())
    table = table.assign(sha256="1" * 64, mask_sha256="2" * 64, region="0:0:10:10", split="test")
    return table.assign(**columns).set_index("file")


def across(tables: dict[str, pd.DataFrame], metric: str = "dice") -> Summary:
    """The summary of runs that differ in their tables and seeds alone."""
    runs = {name: Run(table, PARAMETERS | {"seed": seed}, "raw") for seed, (name, table) in enumerate(tables.items())}
    return summarise_runs(runs, metric)


FIRST = {"a": 0.5, "b": 0.6, "c": 0.7, "d": NAN, "e": 0.9}
LATER = {"a": 0.6, "b": 0.6, "c": 0.6, "d": NAN, "e": 1.0}


def test_means_and_differences_by_hand() -> None:
    comparison = compare({"main": scored(FIRST), "tried": scored(LATER)}, "dice")
    assert (comparison.first, comparison.metric, comparison.over) == (
        "main",
        "dice",
        Images(4, 4, empty=1, undefined=0),
    )
    assert comparison.mean == pytest.approx(0.675)
    (tried,) = comparison.differences
    assert tried.mean == pytest.approx(0.7)
    assert tried.difference.mean == pytest.approx(0.025)
    assert (tried.difference.low, tried.difference.high, tried.difference.ends) == (-0.1, 0.1, "range")
    assert np.isnan(tried.p_value)  # of four groups
    assert [(row.file, row.first, row.later, row.difference) for row in tried.fell] == [("c", 0.7, 0.6, -0.1)]
    assert [row.file for row in tried.rose] == ["e", "a"]


def test_images_are_paired_by_file_and_not_by_place() -> None:
    turned = scored(LATER)[::-1]
    assert result_json(compare({"main": scored(FIRST), "tried": turned}, "dice")) == result_json(
        compare({"main": scored(FIRST), "tried": scored(LATER)}, "dice")
    )


def test_interval_and_p_are_those_of_groups_of_the_first_run() -> None:
    files = [f"{number:03}" for number in range(128)]
    changes = np.repeat(np.random.default_rng(0).normal(0.05, 0.1, 32), 4).round(6)
    first, later = dict.fromkeys(files, 0.5), dict(zip(files, 0.5 + changes, strict=True))
    groups = "".join(chr(65 + number) * 4 for number in range(32))
    comparison = compare({"main": scored(first, groups), "tried": scored(later)}, "dice")
    assert comparison.over.groups == 32
    (tried,) = comparison.differences
    expected = estimate(changes, groups, "-1 to 1")
    assert (tried.difference.low, tried.difference.high) == pytest.approx((expected.low, expected.high))
    assert tried.difference.ends == "interval"
    assert tried.p_value == sign_flip_test(changes, groups)


def test_a_difference_of_distances_has_the_median_of_groups() -> None:
    first = scored(dict.fromkeys("abcdefg", 0.5), hd95=10.0)
    later = scored(dict.fromkeys("abcdefg", 0.5), hd95=[11.0, 12, 13, 14, 15, 16, 400])
    (tried,) = compare({"main": first, "tried": later}, "hd95").differences
    assert tried.difference == Estimate(411 / 7, 4, 1, 390, "interval of median")
    text = comparison_text(compare({"main": first, "tried": later}, "hd95"))
    assert "| +58.714 | median +4.000, +1.000 to +390.000 | 0.016 |" in text


def test_several_runs_are_corrected_together() -> None:
    files = [f"{number:02}" for number in range(6)]
    base = dict.fromkeys(files, 0.5)
    up = {file: 0.5 + 0.01 * (place + 1) for place, file in enumerate(files)}
    tables = {"main": scored(base), "up": scored(up), "same": scored(base)}
    up_again, same = compare(tables, "dice").differences
    assert up_again.p_value == pytest.approx(2 / 2**6)
    assert up_again.holm == pytest.approx(2 * 2 / 2**6)
    assert (same.p_value, same.holm) == (1, 1)
    (alone,) = compare({name: tables[name] for name in ("main", "up")}, "dice").differences
    assert alone.holm == alone.p_value


def test_at_most_five_images_each_way_are_told_the_largest_change_first() -> None:
    files = [f"{number:02}" for number in range(20)]
    first = dict.fromkeys(files, 0.5)
    later = {file: 0.5 + (place - 10) / 100 for place, file in enumerate(files)}
    (tried,) = compare({"main": scored(first), "tried": scored(later)}, "dice").differences
    assert [row.file for row in tried.fell] == ["00", "01", "02", "03", "04"]
    assert [row.file for row in tried.rose] == ["19", "18", "17", "16", "15"]


def test_any_score_can_be_compared_over_the_images_with_a_truth() -> None:
    first = scored(FIRST, accuracy=[0.9, 0.9, 0.9, 0.1, 0.9], hd95=[1, 2, NAN, NAN, 4])
    assert compare({"main": first, "tried": first}, "accuracy").mean == pytest.approx(0.9)
    comparison = compare({"main": first, "tried": first}, "hd95")
    assert comparison.over == Images(3, 3, empty=1, undefined=1)
    assert comparison.mean == pytest.approx(7 / 3)


@pytest.mark.parametrize("metric", ["hd95", "label", "truth_pixels"])
def test_a_column_that_is_no_score_is_refused_with_those_there_are(metric: str) -> None:
    with pytest.raises(UserError, match=f"main: .*per_image.csv has no score '{metric}'; it has dice, iou"):
        compare(dict.fromkeys(("main", "tried"), scored(FIRST, iou=0.5)), metric)


def test_other_images_are_named() -> None:
    other = scored({"a": 0.5, "b": 0.6, "c": 0.7, "f": 0.1, "g": 0.1, "h": 0.1, "i": 0.1, "j": 0.1})
    with pytest.raises(UserError) as error:
        compare({"main": scored(FIRST), "tried": other}, "dice")
    assert "only in main: d, e; only in tried: f, g, h and 2 more" in str(error.value)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("truth_pixels", 11),
        ("region_pixels", 99),
        ("mask_sha256", "3"),
        ("sha256", "3"),
        ("region", "1:0:11:10"),
        ("split", "val"),
    ],
)
def test_another_truth_of_the_same_images_is_refused(column: str, value: Any) -> None:
    other = scored(FIRST)
    other.loc["b", column] = value
    with pytest.raises(UserError, match=f"main and tried were scored on different .*: {column} differ in b;"):
        compare({"main": scored(FIRST), "tried": other}, "dice")


def test_without_any_truth_there_is_nothing_to_compare() -> None:
    empty = scored({"a": NAN, "b": NAN})
    for question in (compare, across):
        with pytest.raises(UserError, match="2 of 2 have an empty truth"):
            question({"main": empty, "tried": empty}, "dice")


def test_a_score_that_is_undefined_everywhere_is_told_so() -> None:
    table = scored(FIRST, uncertainty=NAN)
    with pytest.raises(UserError, match="1 of 5 have an empty truth, and the score is undefined in 4"):
        compare({"main": table, "tried": table}, "uncertainty")


def per_image() -> pd.DataFrame:
    """A row of each kind as the evaluation writes them: something found, missed, rightly and wrongly empty."""
    rule = CountingParams(smallest=0, split=False, depth=1.0)
    counting = Counting(truth=rule, prediction=rule)
    scoring = Scoring(tolerance=Tolerance(pixels=1.0, diagonal=0.01), counting=counting, uncertainty="none")
    disc, nothing = tiny.circle(24, 6), np.zeros((24, 24), np.uint8)
    pairs = {"found": (disc, disc), "missed": (nothing, disc), "empty": (nothing, nothing), "false": (disc, nothing)}
    rows = [
        {"file": name, "label": "benign", "group": name, "size": "small", "uncertainty": 0.1}
        | score_image(codes, truth, np.uint8(1), tiny.LESIONS, scoring)
        for name, (codes, truth) in pairs.items()
    ]
    return pd.DataFrame(rows)[list(columns())]


def test_the_columns_of_text_are_those_of_the_evaluation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    table = per_image()
    assert tuple(name for name in columns() if not pd.api.types.is_numeric_dtype(table[name])) == WORDS
    project_with(table.set_index("file"))
    read = read_runs(["workspace"])["workspace"].table
    for name in set(columns()) - set(WORDS):
        assert pd.api.types.is_float_dtype(read[name]) or pd.api.types.is_integer_dtype(read[name]), name
        if not name.endswith("_pixels"):
            assert compare({"main": read, "tried": read}, name).differences[0].mean == pytest.approx(
                read.loc[["found", "missed"], name].mean(), nan_ok=True
            )


def test_a_score_that_is_better_when_smaller_is_told_in_the_same_neutral_words() -> None:
    first, later = (scored(FIRST, hd95=distances) for distances in ([9.0, 8, 7, NAN, 6], [3.0, 8, 7, NAN, 12]))
    comparison = compare({"main": first, "tried": later}, "hd95")
    (tried,) = comparison.differences
    assert ([row.file for row in tried.fell], [row.file for row in tried.rose]) == (["a"], ["e"])
    text = comparison_text(comparison)
    assert "| a | 9.000 | 3.000 | -6.000 |\n| e | 6.000 | 12.000 | +6.000 |" in text
    assert not [
        word for word in ("better", "worse", "best", "worst", "improve", "gain", "loss") if word in text.lower()
    ]


def test_the_text_tells_runs_way_and_changes() -> None:
    tables = {"main": scored(FIRST), "a|b": scored(LATER), "same": scored(FIRST)}
    lines = comparison_text(compare(tables, "dice")).splitlines()
    assert lines[0] == "dice, mean over 4 images of 4 groups (left out: 1 with an empty truth)"
    assert lines[4] == "| main | 0.675 |" + " \N{EN DASH} |" * 4
    assert lines[5] == "| a\\|b | 0.700 | +0.025 | range -0.100 to +0.100 | \N{EN DASH} | \N{EN DASH} |"
    assert lines[6] == "| same | 0.675 | +0.000 | range +0.000 to +0.000 | \N{EN DASH} | \N{EN DASH} |"
    assert "Range: the least and the greatest mean of a group; it is no interval" in lines[8]
    assert "No p: it takes 6 groups" in lines[8]
    assert lines[8].endswith("Holm: corrected for 2 comparisons.")
    assert "| c | 0.700 | 0.600 | -0.100 |" in lines
    assert lines[-1] == "Changed most from main to same: no image changed."


def test_a_single_comparison_is_not_corrected_and_its_null_hypothesis_is_told() -> None:
    changes = np.random.default_rng(0).normal(0, 0.1, 40)
    first = {f"{number:02}": 0.5 for number in range(40)}
    later = {f"{number:02}": 0.5 + change for number, change in enumerate(changes)}
    text = comparison_text(compare({"main": scored(first), "tried": scored(later)}, "dice"))
    assert "Holm" not in text
    assert "95 % interval: the wider of Student's t and bootstrap-t at each end, over groups" in text
    assert "both runs are exchangeable within a group" in text
    assert "16384 random ways, seed 0" in text
    few = {name: first[name] for name in list(first)[:8]}
    assert "all 256 ways" in comparison_text(compare({"main": scored(few), "tried": scored(few)}, "dice"))


def test_json_holds_what_the_comparison_holds_and_null_for_what_is_undefined() -> None:
    tables = {"main": scored(FIRST, "ppppp"), "tried": scored(LATER, "ppppp")}
    content = json.loads(result_json(compare(tables, "dice")))
    assert content["resamples"] == 10_000
    assert content["over"] == {"images": 4, "groups": 1, "empty": 1, "undefined": 0}
    found = content["differences"][0]
    nothing = {"median": None, "low": None, "high": None, "ends": "none"}
    assert found["difference"] == {"mean": pytest.approx(0.025)} | nothing
    assert found["p_value"] is None
    text = comparison_text(compare(tables, "dice"))
    assert "| tried | 0.700 | +0.025 | \N{EN DASH} | \N{EN DASH} |" in text


def test_seeds_are_pooled_as_the_means_of_images() -> None:
    tables = {"one": scored(FIRST, "ppqqr"), "two": scored(LATER, "ppqqr"), "three": scored(FIRST, "ppqqr")}
    summary = across(tables)
    assert summary.kind == "seeds"
    assert summary.runs == [RunMean("one", 4, 0.675), RunMean("two", 4, 0.7), RunMean("three", 4, 0.675)]
    assert summary.mean == pytest.approx(2.05 / 3)
    assert summary.deviation == pytest.approx(0.025 / np.sqrt(3))
    assert summary.over == Images(4, 3, empty=1, undefined=0)
    means = [(2 * FIRST[file] + LATER[file]) / 3 for file in "abce"]
    assert summary.pooled.mean == pytest.approx(np.mean(means))
    assert (summary.pooled.low, summary.pooled.high) == pytest.approx((np.mean(means[:2]), means[3]))
    assert summary.pooled.ends == "range"


def test_folds_are_pooled_as_all_their_images() -> None:
    tables = {"0": scored({"b": 0.2, "a": 0.4}, "pq"), "1": scored({"d": 0.6, "c": NAN, "e": 0.8, "f": 1.0}, "rrqs")}
    summary = across(tables)
    assert summary.kind == "folds"
    assert [(run.run, run.images) for run in summary.runs] == [("0", 2), ("1", 3)]
    assert [run.mean for run in summary.runs] == pytest.approx([0.3, 0.8])
    assert summary.mean == pytest.approx(0.55)
    assert summary.deviation == pytest.approx(0.5 / np.sqrt(2))
    # The image e belongs to the group q of a, which the other fold scored.
    assert summary.over == Images(5, 4, empty=1, undefined=0)
    assert summary.pooled.mean == pytest.approx(0.6)
    assert (summary.pooled.low, summary.pooled.high) == (0.2, 1.0)
    twice = {"0": scored({f"{number:02}": number / 20 for number in range(20)}, "abcdefghijklmnopqrst")}
    twice["1"] = scored({f"{number}": number / 40 for number in range(20, 40)}, "abcdefghijABCDEFGHIJ")
    joined = across(twice)
    values = [*(number / 20 for number in range(20)), *(number / 40 for number in range(20, 40))]
    expected = estimate(values, "abcdefghijklmnopqrstabcdefghijABCDEFGHIJ", "0 to 1")
    assert (joined.over.groups, joined.pooled.ends) == (30, "interval")
    assert (joined.pooled.low, joined.pooled.high) == pytest.approx((expected.low, expected.high))


def changed(key: str, value: Any) -> dict[str, Any]:
    """Parameters with one value changed, by its dotted key."""
    section, _, name = key.rpartition(".")
    return PARAMETERS | ({section: PARAMETERS[section] | {name: value}} if section else {key: value})


FOLDS = {"0": scored({"a": 0.2, "b": 0.4}), "1": scored({"c": 0.6, "d": 0.8})}
SEEDS = {"0": scored(FIRST), "1": scored(LATER)}


@pytest.mark.parametrize("tables", [FOLDS, SEEDS], ids=["folds", "seeds"])
@pytest.mark.parametrize(
    ("key", "value"), [("model.encoder", "resnet50"), ("data.name", "busi"), ("augment.factor", 1), ("loss", "dice")]
)
def test_runs_of_other_parameters_are_neither_folds_nor_seeds(
    tables: dict[str, pd.DataFrame], key: str, value: Any
) -> None:
    runs = {"0": Run(tables["0"], PARAMETERS, "raw"), "1": Run(tables["1"], changed(key, value), "raw")}
    with pytest.raises(UserError, match=rf"^0 and 1 are neither .*: their parameters differ in {key} \(.*, {value}\)"):
        summarise_runs(runs, "dice")


@pytest.mark.parametrize("tables", [FOLDS, SEEDS], ids=["folds", "seeds"])
@pytest.mark.parametrize("key", ["seed", "split.fold", "augment.seed"])
def test_seeds_split_name_and_machine_may_differ(tables: dict[str, pd.DataFrame], key: str) -> None:
    other = changed(key, 3) | {"name": "other", "machine": {"workers": 2}}
    runs = {"0": Run(tables["0"], PARAMETERS, "raw"), "1": Run(tables["1"], other, "raw")}
    assert summarise_runs(runs, "dice").runs


@pytest.mark.parametrize("key", ["name", "machine.workers"])
def test_one_training_twice_is_no_two_seeds(key: str) -> None:
    runs = {"0": Run(SEEDS["0"], PARAMETERS, "raw"), "1": Run(SEEDS["1"], changed(key, 3), "raw")}
    with pytest.raises(UserError, match="0 and 1 have equal parameters, seeds and split too"):
        summarise_runs(runs, "dice")


@pytest.mark.parametrize("tables", [FOLDS, SEEDS], ids=["folds", "seeds"])
def test_folds_and_seeds_are_of_one_data_set(tables: dict[str, pd.DataFrame]) -> None:
    runs = {"0": Run(tables["0"], PARAMETERS, "raw"), "1": Run(tables["1"], changed("seed", 1), "other")}
    with pytest.raises(UserError, match="0 and 1 are not of one data set"):
        summarise_runs(runs, "dice")


def test_runs_that_are_neither_folds_nor_seeds_are_refused() -> None:
    tables = {"one": scored({"a": 0.5, "b": 0.5}), "two": scored({"b": 0.5, "c": 0.5})}
    with pytest.raises(UserError, match=r"more than one run has b, but not every run has a, c"):
        across(tables)


def test_seeds_on_another_truth_are_refused() -> None:
    with pytest.raises(UserError, match="different images, truths or splits"):
        across({"one": scored(FIRST), "two": scored(FIRST, truth_pixels=3)})


def test_the_summary_is_a_table() -> None:
    text = summary_text(across({"one": scored(FIRST), "two": scored(LATER)}))
    assert "| one | 4 | 0.675 |\n| two | 4 | 0.700 |\n| mean of runs |  | 0.688 |\n" in text
    assert "| standard deviation of runs |  | 0.018 |\n" in text
    both = "0.688 (range 0.550\N{EN DASH}0.950); over seeds \N{PLUS-MINUS SIGN} 0.018"
    assert f"| over images, for these networks | 4 | {both} |" in text
    assert "Seeds: all runs have one test set" in text


def test_seeds_that_differ_more_than_images_are_not_hidden_in_the_interval() -> None:
    files = [f"{number:02}" for number in range(40)]
    nothing = scored(dict.fromkeys(files, 0.0))
    last = scored(dict(zip(files, np.random.default_rng(0).normal(0.259, 0.05, 40), strict=True)))
    summary = across({"one": nothing, "two": nothing, "three": last})
    assert summary.pooled.high - summary.pooled.low < 0.02
    assert summary.deviation > 0.14
    text = summary_text(summary)
    assert "); over seeds \N{PLUS-MINUS SIGN} 0.1" in text
    assert "for the networks of these runs alone" in text


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Two commits, `first` and `second`, an experiment `tried`, and a commit `bare` before there was any pipeline.

    The workspace is as the last commit, but for what it holds in data/.
    """
    folder = tmp_path_factory.mktemp("repository")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("DVC_NO_ANALYTICS", "true")
        init_project()
        commit("bare")
        Path("dvc.yaml").write_text(PIPELINE)
        run_pipeline(scored(FIRST))
        commit("first")
        run_pipeline(scored(LATER), seed=1)
        commit("second")
        run_pipeline(scored(dict.fromkeys(FIRST, 0.25) | {"d": NAN}))
        with Repo() as repo:
            repo.experiments.save(name="tried")
        subprocess.run(["git", "checkout", "-q", "."], check=True)
        with Repo() as repo:
            repo.checkout(force=True)
        yield folder


def init_project() -> None:
    for command in ("init -q -b main", "config user.name tester", "config user.email tester@example.org"):
        subprocess.run(["git", *command.split()], check=True)
    Repo.init().close()
    Path(".gitignore").write_text("/data\n")
    Path("raw.txt").write_text("raw")


def project_with(table: pd.DataFrame) -> None:
    """A project in the working folder whose run wrote this table per image."""
    init_project()
    Path("dvc.yaml").write_text(PIPELINE)
    run_pipeline(table)
    commit("run")


def run_pipeline(table: pd.DataFrame, seed: int = 0) -> None:
    facts = ["sha256", "mask_sha256", "region", "split"]
    table.assign(sha256="1" * 64, mask_sha256="2" * 64, region="0:0:10:10", split="test")[facts].to_csv("known.csv")
    table.drop(columns=facts, errors="ignore").to_csv("scores.csv")
    Path("params.yaml").write_text(yaml.safe_dump(PARAMETERS | {"seed": seed}, sort_keys=False))
    with Repo() as repo:
        repo.reproduce()


def commit(tag: str) -> None:
    for command in ("add -A", f"commit -q -m {tag}", f"tag {tag}"):
        subprocess.run(["git", *command.split()], check=True)


def medseg(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["compare", *arguments])


@pytest.mark.usefixtures("repository")
def test_tables_come_from_revisions_experiments_and_the_workspace() -> None:
    runs = read_runs(["first", "HEAD", "tried", "workspace"])
    assert {name: run.table["dice"].to_dict() for name, run in runs.items()} == {
        "first": pytest.approx(FIRST, nan_ok=True),
        "HEAD": pytest.approx(LATER, nan_ok=True),
        "tried": pytest.approx(dict.fromkeys(FIRST, 0.25) | {"d": NAN}, nan_ok=True),
        "workspace": pytest.approx(LATER, nan_ok=True),
    }
    assert {run.table["mask_sha256"].unique().item() for run in runs.values()} == {"2" * 64}
    assert [run.parameters for run in runs.values()] == [PARAMETERS | {"seed": seed} for seed in (0, 1, 0, 1)]
    assert len({run.raw_data for run in runs.values()}) == 1


@pytest.mark.usefixtures("repository")
def test_the_command_prints_the_comparison() -> None:
    done = medseg("first", "second", "tried")
    assert done.exit_code == 0, done.output
    tables = {name: run.table for name, run in read_runs(["first", "second", "tried"]).items()}
    assert done.stdout == comparison_text(compare(tables, "dice")) + "\n"
    assert json.loads(medseg("first", "tried", "--json").stdout)["differences"][0]["mean"] == 0.25


@pytest.mark.usefixtures("repository")
def test_the_command_summarises_seeds() -> None:
    done = medseg("--across", "first", "second")
    assert done.exit_code == 0, done.output
    assert "| mean of runs |  | 0.688 |" in done.stdout
    assert json.loads(medseg("--across", "first", "second", "--json").stdout)["kind"] == "seeds"


@pytest.mark.usefixtures("repository")
@pytest.mark.parametrize(
    ("names", "fault"),
    [
        (["first", "secnod"], r"'secnod' is no git revision and no finished experiment; near it: second; see `dvc exp"),
        (["first", "treid"], "near it: tried"),
        (["first", "bare"], r"bare: data/predictions/per_image.csv or .* can't be had: .*`dvc exp show --rev bare`"),
        (["first", "first"], "'first' is named twice"),
    ],
)
def test_a_run_without_a_table_is_named(names: list[str], fault: str) -> None:
    with pytest.raises(UserError, match=fault):
        read_runs(names)


def test_a_table_that_the_cache_lost_is_asked_for(repository: Path) -> None:
    cache = repository / ".dvc" / "cache"
    cache.rename(repository / "away")
    try:
        with pytest.raises(UserError, match=r"second: .* not in the cache here: `dvc push`"):
            read_runs(["workspace", "second"])
    finally:
        (repository / "away").rename(cache)


def test_a_clone_without_a_cache_is_told_what_to_fetch(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Not even the list of the folder's files is there, which DVC tells otherwise than a file that is not.
    subprocess.run(["git", "clone", "-q", str(repository), str(tmp_path / "clone")], check=True)
    monkeypatch.chdir(tmp_path / "clone")
    with pytest.raises(UserError, match=r"HEAD: .* not in the cache here: `dvc push`"):
        read_runs(["HEAD"])


@pytest.mark.parametrize("file", ["data/predictions/per_image.csv", "data/manifest.csv", "data/predictions"])
def test_what_the_cache_holds_is_held_against_its_hash(
    file: str, repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subprocess.run(["git", "clone", "-q", str(repository), str(tmp_path / "clone")], check=True)  # DVC knows none of it
    shutil.copytree(repository / ".dvc" / "cache", tmp_path / "clone" / ".dvc" / "cache")
    monkeypatch.chdir(repository)
    files = DVCFileSystem(rev="HEAD")
    names = (file, "data/predictions/per_image.csv", "data/manifest.csv")
    stated, table, other = (files.info(name)["dvc_info"]["md5"] for name in names)
    cached = tmp_path / "clone" / ".dvc" / "cache" / "files" / "md5" / stated[:2] / stated[2:]
    # Of the folder the list of its files is altered: it names another file as the table, and that one has its hash.
    text = cached.read_text()
    altered = text.replace(table, other) if file == "data/predictions" else text + "\n"
    cached.chmod(0o644)
    cached.write_text(altered)
    monkeypatch.chdir(tmp_path / "clone")
    with pytest.raises(UserError, match=rf"^HEAD: {file} in DVC's cache is not what its dvc.lock states"):
        read_runs(["HEAD"])


@pytest.mark.parametrize("file", ["data/predictions/per_image.csv", "data/manifest.csv"])
def test_what_the_workspace_holds_is_held_against_its_hash(
    file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    project_with(scored(FIRST))
    altered = Path(file).read_text().replace("0.5", "0.9") + "\n"
    Path(file).unlink()
    Path(file).write_text(altered)
    with pytest.raises(UserError, match=f"^workspace: {file} is not what dvc.lock states: .*`dvc checkout`"):
        read_runs(["workspace"])
    assert read_runs(["HEAD"])["HEAD"].table["dice"]["a"] == 0.5


def test_outside_a_project_and_before_any_run_the_user_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"workspace: there is no data/predictions/per_image\.csv: run `dvc repro`"):
        read_runs(["workspace"])
    with pytest.raises(UserError, match="is this the project's root"):
        read_runs(["main"])


def test_a_table_of_another_kind_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    project_with(scored(FIRST).drop(columns="group"))
    with pytest.raises(UserError, match=r"workspace: .*per_image.csv has no column group"):
        read_runs(["workspace"])


def test_names_that_look_like_numbers_stay_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    project_with(scored({"001": 0.5, "1": 0.6}, "12"))
    assert read_runs(["workspace"])["workspace"].table.index.tolist() == ["001", "1"]


def test_false_positives_are_compared_over_the_images_in_which_nothing_is_annotated() -> None:
    first = scored({"a": 0.5, "b": NAN, "c": NAN}, false_positive_area=[0.5, 0.1, 0.2])
    tried = first.assign(false_positive_area=[0.0, 0.2, 0.4])
    comparison = compare({"main": first, "tried": tried}, "false_positive_area")
    assert comparison.over.images == 2
    assert comparison.mean == pytest.approx(0.15)
    assert comparison.differences[0].difference.mean == pytest.approx(0.15)
