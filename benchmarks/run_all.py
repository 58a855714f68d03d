"""All benchmarks that compare the pipeline with something else, one after the other, and one table of what they found.

Run in the project's root: `make bench`, a quarter of an hour on two cores, on a machine that does nothing else. The
table is printed and written into docs/explanation/speed.md; it holds what the last run of each benchmark found.
`--table` writes it from those results, and the profile of benchmarks/profile_training.py beside it, and runs nothing.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.measuring import RESULTS
from medseg.core.markdown import table

BENCHMARKS = ("data_stages", "data_memory", "imports", "training", "prediction")
PAGE = Path(__file__).parents[1] / "docs" / "explanation" / "speed.md"
COLUMNS = ["what", "ours", "baseline", "ratio", "limit", "kept"]


def main() -> None:
    """Run them, print and write the table; end with 1 where one of them failed."""
    failed = [] if "--table" in sys.argv else [name for name in BENCHMARKS if not ran(name)]
    found = [json.loads(path.read_text()) for path in map(result, BENCHMARKS) if path.exists()]
    text = "\n\n".join([table(COLUMNS, [cells(row) for one in found for row in one["rows"]]), *map(machine, found[:1])])
    print(text)
    write_between("table", text)
    write_between("profile", profile())
    if failed:
        sys.exit(f"error: failed: {', '.join(failed)}")


def ran(name: str) -> bool:
    """Run a benchmark; whether it came to its end."""
    print(f"== {name}", flush=True)
    return subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], check=False).returncode == 0


def result(name: str) -> Path:
    """Where a benchmark writes."""
    return RESULTS / f"{name}.json"


def cells(row: dict[str, Any]) -> list[str]:
    """A row of the table."""
    ours, baseline = (f"{short(row[side])} {row['unit']}" for side in ("ours", "baseline"))
    kept = "yes" if row["ratio"] >= row["limit"] else "no"
    return [row["what"], ours, baseline, f"{row['ratio']:.2f}", f">= {row['limit']:.2f}", kept]


def short(number: float) -> str:
    """Three digits, or all that stand before the point."""
    return f"{number:.0f}" if number >= 100 else f"{number:.3g}"


def profile() -> str:
    """The profile of training as a table."""
    found: dict[str, dict[str, float]] = json.loads((RESULTS / "profile_training.json").read_text())["milliseconds"]
    return table(
        ["ms a step", *found], [[kind, *(f"{side[kind]:.0f}" for side in found.values())] for kind in found["now"]]
    )


def write_between(name: str, text: str) -> None:
    """Replace what stands between two comments of the page."""
    before, rest = PAGE.read_text().split(f"<!-- {name} -->")
    _, after = rest.split(f"<!-- end of the {name} -->")
    PAGE.write_text(f"{before}<!-- {name} -->\n{text}\n<!-- end of the {name} -->{after}")


def machine(found: dict[str, Any]) -> str:
    """The machine in words."""
    described = found["machine"]
    return f"{described['processor']}, {described['cores']} cores, {described['memory_gib']} GiB of memory, no GPU."


if __name__ == "__main__":
    main()
