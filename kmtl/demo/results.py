"""From runs to the numbers of the report."""

import statistics
from collections.abc import Mapping, Sequence

from kmtl.demo.networks import NETWORKS, SINGLE_TASK, TASKS
from kmtl.demo.train import Plan, Run
from kmtl.metrics import delta_m
from kmtl.version import __version__


def choose(runs: Sequence[Run]) -> Run:
    """The run to deploy: of the network that is best on validation on average, the best seed."""
    means = {
        name: statistics.mean(run.validation for run in runs if run.network == name)
        for name in NETWORKS
    }
    best = max(means, key=means.get)
    return max((run for run in runs if run.network == best), key=lambda run: run.validation)


def summarize(
    plan: Plan, runs: Sequence[Run], best: Run, files: Mapping, seconds: Mapping, replicas: int
) -> dict:
    """The contents of report.json."""
    networks = {name: _of_network(name, runs) for name in (SINGLE_TASK, *NETWORKS)}
    baseline = networks[SINGLE_TASK]["test"]
    for numbers in networks.values():
        score = delta_m(numbers["test"], baseline)
        numbers["delta_m"] = list(score.per_seed)
        numbers["delta_m_mean"], numbers["delta_m_std"] = score.mean, score.std
    kept = ("path", "bytes", "latency_ms", "test", "max_abs_error")
    return {
        "kmtl_version": __version__,
        "tasks": list(TASKS),
        "metric": "accuracy",
        "plan": {
            "seeds": plan.seeds,
            "epochs": plan.epochs,
            "batch_size": plan.batch_size,
            "learning_rate": plan.learning_rate,
            "train": plan.num_train,
            "validation": plan.num_validation,
            "test": plan.num_test,
        },
        "replicas": replicas,
        "seconds": {name: round(value, 1) for name, value in seconds.items()},
        "networks": networks,
        "deployed": {
            "network": best.network,
            "seed": best.seed,
            "files": {q: {key: file[key] for key in kept} for q, file in files.items()},
        },
    }


def _of_network(name, runs) -> dict:
    own = [run for run in runs if run.network == name]
    by_task = {task: [run for run in own if task in run.history] for task in TASKS}
    first = {id(run.model): run.model for run in own if run.seed == 0}
    return {
        "parameters": sum(model.count_params() for model in first.values()),
        "validation": {task: [run.history[task][-1] for run in by_task[task]] for task in TASKS},
        "test": {task: [run.test[task] for run in by_task[task]] for task in TASKS},
    }


def mean_and_sd(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and sample standard deviation, which one value does not have."""
    return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else None


def percent(values: Sequence[float], sign: str = "") -> str:
    """`93.1 ± 0.4`, of fractions."""
    mean, sd = mean_and_sd(values)
    return f"{100 * mean:{sign}.1f}" + ("" if sd is None else f" ± {100 * sd:.1f}")


def as_text(summary: Mapping) -> str:
    """The tables for the terminal."""
    rows = [["network", "parameters", *(f"{task} %" for task in TASKS), "delta_m %"]]
    for name, numbers in summary["networks"].items():
        accuracies = [percent(numbers["test"][task]) for task in TASKS]
        row = [name, f"{numbers['parameters']:,}", *accuracies, percent(numbers["delta_m"], "+")]
        rows.append(row)
    deployed = summary["deployed"]
    files = [["file", "bytes", "latency ms", *(f"{task} %" for task in TASKS), "max error"]]
    for file in deployed["files"].values():
        accuracies = [f"{100 * file['test'][task]:.1f}" for task in TASKS]
        error = max(file["max_abs_error"].values())
        timing = f"{file['latency_ms']:.3f}"
        files.append([file["path"], f"{file['bytes']:,}", timing, *accuracies, f"{error:.2g}"])
    title = f"deployed: {deployed['network']}, seed {deployed['seed']}"
    return f"\n{_aligned(rows)}\n\n{title}\n{_aligned(files)}"


def _aligned(rows) -> str:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join([row[0].ljust(widths[0]), *cells]))
    return "\n".join(lines)
