"""Compare runs on the same images, and summarise runs that are folds or seeds of one another.

As everywhere, means are over the images whose truth is not empty, and what is resampled are groups.
"""

import itertools
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import pandas as pd

from medseg.core.errors import UserError
from medseg.core.markdown import table as table_text
from medseg.core.params import FREE_SECTIONS
from medseg.evaluation.describe import ENDS_BRIEFLY, ends_made
from medseg.evaluation.formatting import ABSENT, ends, score, spread
from medseg.evaluation.per_image import values_of
from medseg.experiments.runs import IDENTITY, PER_IMAGE, SIZES, Run
from medseg.metrics import registry
from medseg.metrics.intervals import RESAMPLES, SEED, Estimate, Values, estimate
from medseg.metrics.paired import FLIPS, LEAST_GROUPS_OF_TEST, holm, sign_flip_test

DECIMALS = 9  # the tables have 6: differences that are equal in them stay equal as binary fractions
SHOWN = 5  # images that changed most, each way
NAMED = 3  # images that an error names
NO_RESULT = {"name", *FREE_SECTIONS}  # parameters that change no score
MAY_DIFFER = {"split", *NO_RESULT}  # between folds or seeds of one another, beside seeds
CONDITIONAL = (
    "It is of images, for the networks of these runs alone, and says nothing of others: how a score varies from one "
    "training to the next is the standard deviation of runs."
)


@dataclass(frozen=True)
class Images:
    """The images that scores are of, and those left out: with an empty truth, or undefined in some run."""

    images: int
    groups: int
    empty: int
    undefined: int


@dataclass(frozen=True)
class Change:
    """The score of one image in the first run and in a later one."""

    file: str
    first: float
    later: float
    difference: float  # later less first


@dataclass(frozen=True)
class Difference:
    """A later run against the first, over the same images.

    `difference` is its mean, later less first. `p_value` is that of `paired.sign_flip_test`, NaN where groups are too
    few for it; `holm` is corrected for all later runs of one comparison. `fell` and `rose` hold the images that changed
    most, the largest change first.
    """

    run: str
    mean: float
    difference: Estimate
    p_value: float
    holm: float
    fell: list[Change]
    rose: list[Change]


@dataclass(frozen=True)
class Comparison:
    """Several runs on one test set, each against the first."""

    metric: str
    first: str
    mean: float  # of the first run
    over: Images
    differences: list[Difference]


@dataclass(frozen=True)
class RunMean:
    """One run: its mean over its own images."""

    run: str
    images: int
    mean: float


@dataclass(frozen=True)
class Summary:
    """Runs that are folds or seeds of one another, as one score.

    `mean` and `deviation` are those of the runs' means (sample standard deviation, n - 1). `pooled` is over images: for
    folds over all of them, each scored by its own run; for seeds over the test set, each image with its mean over the
    runs. It says how the score varies over images (groups) for the networks of these runs; `deviation` says how it
    varies over runs, of which `pooled` knows nothing.
    """

    metric: str
    kind: Literal["folds", "seeds"]
    runs: list[RunMean]
    mean: float
    deviation: float
    over: Images
    pooled: Estimate


def compare(tables: Mapping[str, pd.DataFrame], metric: str) -> Comparison:
    """Every later run of `tables` (by name, `file` as index) against the first, in the column `metric`.

    Groups are those of the first run. Raises `UserError` where the test sets differ, or a table lacks the column.
    """
    first, *later = tables
    _check_columns(tables, metric)
    for name in later:
        _refuse_other_test_set(first, tables[first], name, tables[name])
    scores, over = _paired_scores(tables, metric)
    groups = tables[first].loc[scores.index, "group"].tolist()
    values = values_of(metric)
    differences = [_difference(name, scores[first], scores[name], groups, values) for name in later]
    return Comparison(metric, first, float(scores[first].mean()), over, _corrected(differences))


def summarise_runs(runs: Mapping[str, Run], metric: str) -> Summary:
    """One score for runs that share their test set (seeds) or have test sets without a common image (folds).

    Groups keep their names over folds, so that a group in two folds is still one. Raises `UserError` where runs differ
    in data or in parameters other than `MAY_DIFFER` and seeds, where test sets overlap in part, or where a table lacks
    the column `metric`.
    """
    _refuse_other_settings(runs)
    tables = {name: run.table for name, run in runs.items()}
    _check_columns(tables, metric)
    kind = _kind(tables)
    scores, over = _paired_scores(tables, metric) if kind == "seeds" else _joined_scores(tables, metric)
    groups = pd.concat([table["group"] for table in tables.values()])
    groups = groups[~groups.index.duplicated()].loc[scores.index]
    of_runs = [RunMean(name, int(scores[name].count()), float(scores[name].mean())) for name in tables]
    means = pd.Series([run.mean for run in of_runs])
    pooled = estimate(scores.mean(axis=1).to_numpy(), groups.tolist(), values_of(metric))
    return Summary(metric, kind, of_runs, float(means.mean()), float(means.std()), over, pooled)


def comparison_text(comparison: Comparison) -> str:
    """A comparison as Markdown: the table of runs, how it was made, and the images that changed most."""
    several = len(comparison.differences) > 1
    columns = ["run", "mean", "difference", ENDS_BRIEFLY, "p"] + (["p, Holm"] if several else [])
    first = [comparison.first, score(comparison.mean), *[ABSENT] * (len(columns) - 2)]
    later = [_difference_cells(difference)[: len(columns)] for difference in comparison.differences]
    note = f"Differences are to {comparison.first}, over the same images. "
    note += " ".join(dict.fromkeys(ends_made(difference.difference.ends) for difference in comparison.differences))
    note += f" {_test_made(comparison.over.groups)}"
    if several:
        note += f" Holm: corrected for {len(comparison.differences)} comparisons."
    heading = _heading(comparison.metric, comparison.over)
    changes = [_changes_text(comparison.first, difference) for difference in comparison.differences]
    return "\n\n".join([heading, table_text(columns, [first, *later]), note, *changes])


def summary_text(summary: Summary) -> str:
    """A summary as Markdown: a row per run, their mean and spread, and the pooled mean with both spreads."""
    rows = [[run.run, str(run.images), score(run.mean)] for run in summary.runs]
    rows.append(["mean of runs", "", score(summary.mean)])
    rows.append(["standard deviation of runs", "", score(summary.deviation)])
    pooled = f"{spread(summary.pooled)}; over {summary.kind} \N{PLUS-MINUS SIGN} {score(summary.deviation)}"
    rows.append(["over images, for these networks", str(summary.over.images), pooled])
    how = {
        "folds": "Folds: no two runs share a test image; pooled are all images, each scored by its own run.",
        "seeds": "Seeds: all runs have one test set; pooled are its images, each with its mean over the runs.",
    }
    note = f"{how[summary.kind]} {ends_made(summary.pooled.ends)} {CONDITIONAL}"
    return "\n\n".join(
        [_heading(summary.metric, summary.over), table_text(["run", "images", summary.metric], rows), note]
    )


def result_json(result: Comparison | Summary) -> str:
    """A comparison or summary as JSON: the fields of its class, what is undefined as null, and how it was resampled."""
    content = _defined(asdict(result)) | {"resamples": RESAMPLES, "seed": SEED}
    return json.dumps(content, indent=2, ensure_ascii=False)


def _check_columns(tables: Mapping[str, pd.DataFrame], metric: str) -> None:
    for name, table in tables.items():
        numbers = table.select_dtypes("number").columns
        known = [column for column in numbers if not column.endswith("_pixels")]
        if metric not in known:
            raise UserError(f"{name}: {PER_IMAGE} has no score '{metric}'; it has {', '.join(known)}")


def _refuse_other_test_set(first: str, base: pd.DataFrame, name: str, table: pd.DataFrame) -> None:
    alone = {first: base.index.difference(table.index), name: table.index.difference(base.index)}
    if words := [f"only in {owner}: {_some(files)}" for owner, files in alone.items() if len(files)]:
        raise UserError(
            f"{first} and {name} were scored on different images ({'; '.join(words)}): compare runs with equal data "
            "and split, or summarise folds with --across"
        )
    facts = [*IDENTITY, *SIZES]
    differs = base[facts] != table.loc[base.index, facts]
    if differs.any(axis=None):
        columns, files = differs.columns[differs.any()], base.index[differs.any(axis=1)]
        raise UserError(
            f"{first} and {name} were scored on different images, truths or splits: {', '.join(columns)} differ in "
            f"{_some(files)}; compare runs on the same data"
        )


def _refuse_other_settings(runs: Mapping[str, Run]) -> None:
    """Raise `UserError` where runs differ in data, in more than `MAY_DIFFER` and seeds, or in none of these."""
    (first, base), *later = runs.items()
    for (one, its), (another, theirs) in itertools.combinations(runs.items(), 2):
        keys = {*its.parameters, *theirs.parameters} - NO_RESULT
        if all(its.parameters.get(key) == theirs.parameters.get(key) for key in keys):
            raise UserError(
                f"{one} and {another} have equal parameters, seeds and split too: one training twice, which has no "
                "spread"
            )
    for name, run in later:
        if run.raw_data != base.raw_data:
            raise UserError(
                f"{first} and {name} are not of one data set: their data/raw differ; folds and seeds share it"
            )
        shared, found = _settings(base.parameters), _settings(run.parameters)
        if differing := [key for key in {**shared, **found} if shared.get(key, ABSENT) != found.get(key, ABSENT)]:
            words = [f"{key} ({shared.get(key, ABSENT)}, {found.get(key, ABSENT)})" for key in differing[:NAMED]]
            raise UserError(
                f"{first} and {name} are neither folds nor seeds of one another: their parameters differ in "
                f"{', '.join(words)}; leave out --across to compare them"
            )


def _settings(parameters: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """What folds and seeds share, by dotted keys."""
    found: dict[str, Any] = {}
    for key, value in parameters.items():
        if key == "seed" or (not prefix and key in MAY_DIFFER):
            continue
        found |= _settings(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


def _kind(tables: Mapping[str, pd.DataFrame]) -> Literal["folds", "seeds"]:
    first, *later = tables
    files = pd.concat([table.index.to_series() for table in tables.values()])
    if not files.duplicated().any():
        return "folds"
    if all(set(tables[name].index) == set(tables[first].index) for name in later):
        for name in later:
            _refuse_other_test_set(first, tables[first], name, tables[name])
        return "seeds"
    counts = files.value_counts(sort=False)
    shared, unshared = counts.index[counts > 1], counts.index[counts < len(tables)]
    raise UserError(
        "these runs are neither seeds (one test set) nor folds (test sets without a common image): "
        f"more than one run has {_some(shared)}, but not every run has {_some(unshared)}"
    )


def _paired_scores(tables: Mapping[str, pd.DataFrame], metric: str) -> tuple[pd.DataFrame, Images]:
    """The column `metric` of runs on one test set: a row per image that is defined in all, a column per run."""
    base = next(iter(tables.values()))
    scores = pd.DataFrame({name: table[metric] for name, table in tables.items()}).loc[base.index]
    full = scores[_counts(base, metric)]
    return _kept(full, full.dropna(), base, metric)


def _joined_scores(tables: Mapping[str, pd.DataFrame], metric: str) -> tuple[pd.DataFrame, Images]:
    """The column `metric` of runs on disjoint test sets: a row per image, a column per run, one of them not NaN."""
    joined = pd.concat(list(tables.values()))
    scores = pd.DataFrame({name: table[metric] for name, table in tables.items()}).loc[joined.index]
    full = scores[_counts(joined, metric)]
    return _kept(full, full.dropna(how="all"), joined, metric)


def _counts(table: pd.DataFrame, metric: str) -> "pd.Series[bool]":
    """Which images a mean of `metric` is over: those in which something is annotated, or, of false positives, not."""
    annotated = table["truth_pixels"] > 0
    return ~annotated if _is_of_empty(metric) else annotated


def _is_of_empty(metric: str) -> bool:
    return metric in registry.BY_KEY and registry.BY_KEY[metric].over == "empty"


def _kept(full: pd.DataFrame, defined: pd.DataFrame, table: pd.DataFrame, metric: str) -> tuple[pd.DataFrame, Images]:
    if defined.empty:
        undefined = f", and the score is undefined in {len(full)}" if len(full) else ""
        truth = "a truth that is not empty" if _is_of_empty(metric) else "an empty truth"
        raise UserError(
            f"no image is left to compare: {len(table) - len(full)} of {len(table)} have {truth}{undefined}"
        )
    groups = table.loc[defined.index, "group"].nunique()
    return defined, Images(len(defined), groups, len(table) - len(full), len(full) - len(defined))


def _difference(name: str, first: pd.Series, later: pd.Series, groups: Sequence[str], values: Values) -> Difference:
    """The run `name`, whose scores are `later`, against the first one, as if it were the only one."""
    changes = (later - first).round(DECIMALS)
    kind: Values = "unbounded" if values == "unbounded" else "-1 to 1"
    p_value = sign_flip_test(changes.to_numpy(), groups)
    ranked = [
        Change(file, float(first[file]), float(later[file]), float(changes[file]))
        for file in changes.sort_values(kind="stable").index.astype(str)
    ]
    fell = [change for change in ranked if change.difference < 0][:SHOWN]
    rose = [change for change in reversed(ranked) if change.difference > 0][:SHOWN]
    found = estimate(changes.to_numpy(), groups, kind)
    return Difference(name, float(later.mean()), found, p_value, p_value, fell, rose)


def _corrected(differences: Sequence[Difference]) -> list[Difference]:
    corrected = holm([difference.p_value for difference in differences])
    return [replace(difference, holm=p_value) for difference, p_value in zip(differences, corrected, strict=True)]


def _heading(metric: str, over: Images) -> str:
    why = "something annotated" if _is_of_empty(metric) else "an empty truth"
    left_out = [f"{over.empty} with {why}"] if over.empty else []
    left_out += [f"{over.undefined} undefined in some run"] if over.undefined else []
    ending = f" (left out: {', '.join(left_out)})" if left_out else ""
    return f"{metric}, mean over {over.images} images of {over.groups} groups{ending}"


def _difference_cells(difference: Difference) -> list[str]:
    found = difference.difference
    return [
        difference.run,
        score(difference.mean),
        score(found.mean, "+.3f"),
        ends(found, form="+.3f"),
        _p_value(difference.p_value),
        _p_value(difference.holm),
    ]


def _test_made(groups: int) -> str:
    if groups < LEAST_GROUPS_OF_TEST:
        return f"No p: it takes {LEAST_GROUPS_OF_TEST} groups to tell anything from chance."
    ways = f"all {2**groups} ways" if 2**groups <= FLIPS else f"{FLIPS} random ways, seed {SEED},"
    return (
        "p: two-sided, by a test whose null hypothesis is that both runs are exchangeable within a group: the sum of "
        f"differences against those of {ways} to give the groups' differences signs."
    )


def _changes_text(first: str, difference: Difference) -> str:
    heading = f"Changed most from {first} to {difference.run}"
    changes = [*difference.fell, *difference.rose]
    if not changes:
        return f"{heading}: no image changed."
    cells = [[row.file, score(row.first), score(row.later), score(row.difference, "+.3f")] for row in changes]
    return f"{heading}:\n\n{table_text(['image', first, difference.run, 'difference'], cells)}"


def _p_value(value: float) -> str:
    return "< 0.001" if value < 0.001 else score(value)


def _some(files: Iterable[str]) -> str:
    """The first few names, and how many more there are."""
    names = sorted(files)
    rest = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"{', '.join(names[:NAMED])}{rest}"


def _defined(content: Any) -> Any:
    """`content` with None in place of NaN, which JSON does not have."""
    if isinstance(content, dict):
        return {key: _defined(value) for key, value in content.items()}
    if isinstance(content, list):
        return [_defined(value) for value in content]
    return None if isinstance(content, float) and math.isnan(content) else content
