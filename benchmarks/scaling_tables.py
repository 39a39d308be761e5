"""The tables of docs/scaling.md, from formulas and from the benchmarks' rows.

Each function gets rows by `(case, candidate, reference)`; for one that is not there the table says
so.
"""

from collections.abc import Callable, Mapping

from benchmarks import task_count
from benchmarks.scaling import (
    DEVICES,
    FORMULA,
    MANY,
    ONE,
    PROCESSES,
    SOLVER,
    beside_case,
    sent_case,
    step_case,
)
from benchmarks.scaling_methods import (
    BYTES_TASKS,
    METHODS,
    NUMBER,
    PARAMETERS,
    PLAIN,
    REPRESENTATION,
    UNCERTAINTY,
    gradient_bytes,
    other_bytes,
)
from benchmarks.scaling_methods import TASKS as FEW
from benchmarks.stacked_heads import FEATURES, TRUNK

BATCH = 64  # rows for each replica
# Parameters of the trunk, and features that every head reads.
NETWORKS = {
    "the benchmark's": (
        sum((a + 1) * b for a, b in zip((FEATURES, *TRUNK[:-1]), TRUNK, strict=True)),
        TRUNK[-1],
    ),
    "25 million parameters": (25_000_000, 2048),
}
# Replicas, and bytes per second that each of them sends at once: assumed, not measured.
PLACES = {"8 in one host": (8, 200e9), "64 in 8 hosts": (64, 12.5e9)}
MISSING = "not measured yet"
FORMULAS = {
    PLAIN: "P + T + 1",
    UNCERTAINTY: "P + 2T + 1",
    REPRESENTATION: "P + T² + 2T + 1",
    PARAMETERS: "P + T S + 2T + 1",
}


def sent_table(rows) -> list[list[str]]:
    """Formulas beside what the traced steps hand to the all-reduce."""
    header = ["method", "numbers that a replica sends"]
    header += [f"MiB, {n} tasks" for n in BYTES_TASKS]
    header += [f"beside the gradients, of the formula's: {place}" for place in (DEVICES, PROCESSES)]
    lines = [header, ["---"] * len(header)]
    for method in METHODS:
        # The plain sum is in the rows of the others, which are compared with it.
        side, other = ("reference", UNCERTAINTY) if method == PLAIN else ("candidate", method)
        sent = [rows.get((sent_case(n, DEVICES), other, PLAIN)) for n in BYTES_TASKS]
        line = [method, FORMULAS[method], *(_value(row, f"{side}_mib") for row in sent)]
        for place in (DEVICES, PROCESSES):
            found = [rows.get((beside_case(n, place), method, FORMULA)) for n in BYTES_TASKS]
            line.append(", ".join(_value(row, "ratio") for row in found))
        lines.append(line)
    return lines


def paper_table(rows) -> list[list[str]]:
    """What many tasks cost, by the formulas: bytes, a ring's time, and what a rule looks at."""
    del rows
    header = ["trunk", "method", "sent by a replica", *PLACES, "tasks' rows", "their products"]
    lines = [header, ["---"] * len(header)]
    for network, (shared, features) in NETWORKS.items():
        for method in METHODS:
            parameters = shared + MANY * (features + 1)
            sent = gradient_bytes(parameters) + other_bytes(method, MANY, shared)
            line = [network, method, _bytes(sent)]
            line += [f"{_digits(1e3 * ring_seconds(sent, *place))} ms" for place in PLACES.values()]
            row = {REPRESENTATION: BATCH * features, PARAMETERS: shared}.get(method)
            if row is None:
                lines.append([*line, "-", "-"])
            else:
                products = f"{_digits(2 * MANY**2 * row / 1e9)} GFLOP"
                lines.append([*line, _bytes(NUMBER * MANY * row), products])
    return lines


def ring_seconds(size: float, replicas: int, bandwidth: float) -> float:
    """A ring all-reduce: each replica sends all but its own part, twice."""
    return 2 * (replicas - 1) / replicas * size / bandwidth


def computed_table(rows) -> list[list[str]]:
    """Passes through the trunk, with the ratios that were measured on one replica."""
    numbers = (2, 10, 40)
    header = ["method", "backward passes", f"trunk, of a plain step's, {MANY} tasks"]
    header += [f"measured, {n} tasks" for n in numbers]
    lines = [header, ["---"] * len(header)]
    for method, passes in ((REPRESENTATION, 1), (PARAMETERS, MANY)):
        found = [rows.get((f"MLP, {n} tasks", method, "plain sum")) for n in numbers]
        bound = f"(1 + 2 x {passes}) / 3 = {(1 + 2 * passes) / 3:.0f}"
        words = "1" if passes == 1 else "T, one for each task"
        lines.append([method, words, bound, *(_value(row, "ratio") for row in found)])
    solver = rows.get((SOLVER, f"{MANY} tasks", f"{FEW} tasks"))
    times = [_value(solver, key, " ms") for key in ("reference_ms", "candidate_ms")]
    said = f"{FEW} tasks: {times[0]}; {MANY} tasks: {times[1]}"
    return [*lines, ["PCGrad's solver alone", "0", said, *("" for _ in numbers)]]


def replicas_table(rows) -> list[list[str]]:
    """Two replicas against one."""
    header = ["method", f"{ONE}, ms", DEVICES, PROCESSES]
    lines = [header, ["---"] * len(header)]
    for method in METHODS:
        found = [rows.get((step_case(method), place, ONE)) for place in (DEVICES, PROCESSES)]
        ratios = [_value(row, "ratio", "x") for row in found]
        lines.append([method, _value(found[0], "reference_ms"), *ratios])
    return lines


def tasks_table(rows) -> list[list[str]]:
    """A step and a process by the number of tasks."""
    few, names = task_count.name(task_count.FEW), map(task_count.name, task_count.TASKS)
    names = [name for name in names if name != few]
    header = ["form", f"step, {few}", *names, f"memory, {task_count.MANY} tasks", "verdict"]
    lines = [header, ["---"] * len(header)]
    for form in (task_count.NAMED, task_count.MATRIX):
        found = [rows.get((task_count.step_case(form), name, few)) for name in names]
        held = rows.get(("memory", *task_count.memory_cases(form)))
        line = [form, _value(found[0], "reference_ms", " ms")]
        line += [_value(row, "ratio", "x") for row in (*found, held)]
        lines.append([*line, found[-1]["verdict"] if found[-1] else MISSING])
    return lines


TABLES: Mapping[str, Callable[[Mapping], list[list[str]]]] = {
    "sent": sent_table,
    "paper": paper_table,
    "computed": computed_table,
    "replicas": replicas_table,
    "tasks": tasks_table,
}


def _value(row: Mapping | None, field: str, unit: str = "") -> str:
    """The median of a row's field."""
    return MISSING if row is None else f"{row[field][1]:.4g}{unit}"


def _bytes(size: float) -> str:
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{_digits(size)} {unit}"
        size /= 1000
    return f"{_digits(size)} GB"


def _digits(x: float) -> str:
    """Three digits that count, never with an exponent."""
    return f"{float(f'{x:.3g}'):,.10g}"
