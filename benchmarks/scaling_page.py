"""Writes the tables of docs/scaling.md: `python -m benchmarks.scaling_page` after `make bench`.

The page's text is written by hand, its figures never: what stands between the marks
`<!-- begin NAME -->` and `<!-- end NAME -->` is made anew, from what is in docs/results.
"""

import json
from collections.abc import Mapping
from pathlib import Path

from absl import app, flags

from benchmarks.scaling_tables import TABLES

BENCHMARKS = ("task_count", "scaling", "weighting_step")

_RESULTS = flags.DEFINE_string("results", "docs/results", "Folder of the benchmarks' JSON files.")
_PAGE = flags.DEFINE_string("page", "docs/scaling.md", "The page to fill.")


def main(argv) -> None:
    del argv
    page = Path(_PAGE.value)
    page.write_text(fill(page.read_text(), load(Path(_RESULTS.value))))


def load(folder: Path) -> dict:
    """(case, candidate, reference) -> row, of the benchmarks that have run."""
    paths = [folder / f"{name}.json" for name in BENCHMARKS]
    rows = [row for path in paths if path.exists() for row in json.loads(path.read_text())["rows"]]
    return {(row["case"], row["candidate"], row["reference"]): row for row in rows}


def fill(page: str, rows: Mapping) -> str:
    """The page with all its tables made anew.

    Raises:
        ValueError: if it lacks the marks of one.
    """
    for name, make in TABLES.items():
        begin, end = f"<!-- begin {name} -->\n", f"<!-- end {name} -->"
        if [page.count(begin), page.count(end)] != [1, 1]:
            raise ValueError(
                "The page must have the marks of every table once. "
                f"Received: {page.count(begin)} and {page.count(end)} of {name!r}"
            )
        before, rest = page.split(begin)
        table = "\n".join(f"| {' | '.join(line)} |" for line in make(rows))
        page = f"{before}{begin}{table}\n{end}{rest.split(end)[1]}"
    return page


if __name__ == "__main__":
    app.run(main)
