"""`python -m benchmarks`: measures, prints a table each, writes docs/results."""

import dataclasses
import importlib
import json
from collections.abc import Sequence
from pathlib import Path

from absl import app, flags, logging

from benchmarks.timing import UNITS, Comparison
from benchmarks.versions import versions

# In this order, so that importing in fresh processes is timed while this one is still idle.
BENCHMARKS = (
    "import_time", "stacked_heads", "task_penalties", "latency", "many_heads", "weighting_step",
    "task_count", "scaling", "input_speed",
)  # fmt: skip
COLUMNS = (
    "case", "measured", "median", "against", "median", "ratio", "quartiles", "target", "verdict",
)  # fmt: skip

_OUTPUT = flags.DEFINE_string("output", "docs/results", "Folder for the results.")
_ONLY = flags.DEFINE_multi_enum("only", None, BENCHMARKS, "Run this benchmark; may be repeated.")


def main(argv) -> None:
    del argv
    logging.set_verbosity(logging.WARNING)  # TensorFlow reports each model it writes
    output = Path(_OUTPUT.value)
    output.mkdir(parents=True, exist_ok=True)
    for name in _ONLY.value or BENCHMARKS:
        benchmark = importlib.import_module(f"benchmarks.{name}")
        results = to_json(name, benchmark.__doc__, benchmark.run())
        results["versions"] |= getattr(benchmark, "other_versions", dict)()
        (output / f"{name}.json").write_text(json.dumps(results, indent=2) + "\n")
        if hasattr(benchmark, "plot"):
            benchmark.plot(results["rows"], output / f"{name}.png")
        print(f"\n{results['title']}\n{aligned([COLUMNS, *cells(results)])}", flush=True)
    (output / "bench.md").write_text(summary(output))


def to_json(name: str, title: str, rows: Sequence[Comparison]) -> dict:
    """The record of one benchmark: figures, what made them, and with what."""
    return {
        "benchmark": name,
        "title": title,
        "command": f"python -m benchmarks --only={name}",
        "versions": versions(),
        "rows": [_record(row) for row in rows],
    }


def _record(row: Comparison) -> dict:
    """As in `Comparison`, with the unit in the names: `candidate_ms` or `candidate_mib`."""
    fields = {**dataclasses.asdict(row), "verdict": row.verdict}
    unit = fields.pop("unit").lower()
    return {key.replace("_values", f"_{unit}"): value for key, value in fields.items()}


def cells(results: dict) -> list[tuple[str, ...]]:
    """The table's rows below `COLUMNS`."""
    return [
        (
            row["case"],
            row["candidate"],
            _median(row, "candidate"),
            row["reference"],
            _median(row, "reference"),
            f"{row['ratio'][1]:.3f}",
            f"{row['ratio'][0]:.3f} - {row['ratio'][2]:.3f}",
            "-" if row["target"] is None else f"<= {row['target']:.4g}",
            row["verdict"],
        )
        for row in results["rows"]
    ]


def _median(row: dict, side: str) -> str:
    unit = next(unit for unit in UNITS if f"{side}_{unit.lower()}" in row)
    return f"{row[f'{side}_{unit.lower()}'][1]:.4g} {unit}"


def aligned(table: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = ("  ".join(map(str.ljust, row, widths)).rstrip() for row in table)
    return "\n".join(lines)


def summary(output: Path) -> str:
    """The Markdown page of all results that are there."""
    parts = [
        "# Benchmarks",
        "Written by `make bench`. Times are medians on whatever machine ran it, often a busy "
        "one; each ratio is the median over rounds in which both sides took turns.",
    ]
    for name in BENCHMARKS:
        path = output / f"{name}.json"
        if path.exists():
            results = json.loads(path.read_text())
            versions = ", ".join(f"{k} {v}" for k, v in results["versions"].items())
            table = [COLUMNS, ["---"] * len(COLUMNS), *cells(results)]
            rows = "\n".join(f"| {' | '.join(row)} |" for row in table)
            if (output / f"{name}.png").exists():
                rows = f"![{name}]({name}.png)\n\n{rows}"
            parts += [f"## {results['title']}", rows, f"`{results['command']}` with {versions}"]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    app.run(main)
