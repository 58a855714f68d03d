"""The tables that other stages wrote, read for the report: a file or label named NA stays text."""

import io
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from medseg.core.errors import UserError
from medseg.core.files import read_bytes
from medseg.evaluation import estimates
from medseg.metrics.intervals import Estimate

TEXT = ("file", "label", "group", "size", "predicted_label", "by", "stratum", "metric", "actual", "predicted", "ends")


@dataclass(frozen=True)
class Mean(Estimate):
    """A mean over images and how sure it is, as a row of summary.csv."""

    images: int
    undefined: int
    missed: int
    groups: int


@dataclass(frozen=True)
class Stratum:
    """The means of one kind of image, by the key of their metric."""

    by: str  # all, label, size or empty
    name: str
    means: dict[str, Mean]

    @property
    def images(self) -> int:
        """All images of the stratum, whatever is defined for them."""
        return max((mean.images + mean.undefined for mean in self.means.values()), default=0)

    @property
    def missed(self) -> int:
        """Of these, those in which nothing of what is annotated was found."""
        return self.means["dice"].missed


def read_table(path: Path, separator: str = ",") -> pd.DataFrame:
    """Read a table; empty cells of columns that are not text are NaN. Raises `UserError` that names the file."""
    content = io.BytesIO(read_bytes(path))
    try:
        table = pd.read_csv(content, sep=separator, dtype=str, keep_default_na=False)
        numbers = [column for column in table.columns if column not in TEXT]
        return table.assign(**{column: [float(text or "nan") for text in table[column]] for column in numbers})
    except ValueError as error:
        raise UserError(f"{path}: not readable as a table: {error}") from error


def read_curve(path: Path) -> list[tuple[float, float]]:
    """Steps and values of a curve that DVCLive logged. Raises `UserError` that names the file."""
    table = read_table(path, separator="\t")
    return list(zip(table["step"], table[path.stem], strict=True))


def read_strata(path: Path) -> list[Stratum]:
    """Read summary.csv, in its order. Raises `UserError` that names the file."""
    strata = []
    for (by, name), rows in read_table(path).groupby(["by", "stratum"], sort=False):
        means = {str(row["metric"]): _mean(row) for row in rows.to_dict("records")}
        strata.append(Stratum(str(by), str(name), means))
    return strata


def defined(value: Any) -> float | None:
    """A number of a table; None for NaN."""
    return None if math.isnan(value) else float(value)


def _mean(row: dict[Any, Any]) -> Mean:
    counts = (int(row[key]) for key in ("images", "undefined", "missed", "groups"))
    return Mean(*vars(estimates.of_row(row)).values(), *counts)
