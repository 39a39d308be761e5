"""The page of `benchmarks.deployment`: tables, verdicts and the picture."""

import numpy as np

from benchmarks.digit_networks import TASKS
from benchmarks.plots import by_type

FLOAT = "float32"
THREADS = (1, 2)
SCHEMES = ("int8", "int4")
NOISE = 0.3  # points that a head may lose before training for integers has something to win back
RECOVERED = 0.5  # the share of these that it must win back
MARKS = {
    "left": {"color": "#f59e0b", "fmt": "o", "ms": 4.5, "lw": 1.2},
    "right": {"color": "#10b981", "fmt": "s", "ms": 4.5, "lw": 1.2},
}


def trained(scheme: str) -> str:
    """The row of a model from `quantize_aware`."""
    return f"{scheme}, trained for"


def page(record) -> str:
    """A table for each network, and what they say about the targets."""
    parts = [
        "# Types of numbers on a device",
        f"Written by `{record['command']}`. {record['setting']}.",
        "![bytes, latency and points lost by type](deployment.png)",
    ]
    for name, found in record["networks"].items():
        parts += [f"## {name}", describe(found), table(found), targets(found)]
    listed = ", ".join(f"{k} {v}" for k, v in record["versions"].items())
    return "\n\n".join([*parts, f"With {listed}."]) + "\n"


def describe(found) -> str:
    shape = "x".join(map(str, found["shape"]))
    more = ", ".join(f"{n} {epochs} from {rate:g}" for n, (epochs, rate) in found["more"].items())
    text = (
        f"{found['parameters']:,} parameters, images of {shape}; {found['epochs']} epochs of Adam "
        f"from {found['rate']:g}. Epochs more of what is trained on, or for a type: {more}; "
        "chosen on other images than the test's."
    )
    if found["trainings"] > 1:
        text += (
            f" The table is of the first of {found['trainings']} trainings, each from a seed of "
            "its own; below it are means over all, ± the standard error of paired differences."
        )
    return text


def table(found) -> str:
    """The rows in Markdown."""
    header = ["file", "bytes", "of float32's"]
    header += [f"ms, {n} thread{'s' * (n > 1)}" for n in THREADS]
    header += [f"of float32's, {n}" for n in THREADS]
    header += [f"{task} %" for task in TASKS] + [f"{task} loses" for task in TASKS]
    lines = [header, ["---"] * len(header)]
    rows = found["rows"]
    for label, row in rows.items():
        times = [row["latency"][str(n)] for n in THREADS]
        cells = [label, f"{row['bytes']:,}", f"{row['bytes'] / rows[FLOAT]['bytes']:.3f}"]
        cells += [f"{t['ms'][1]:.3g}" for t in times] + [f"{t['ratio'][1]:.2f}" for t in times]
        cells += [f"{100 * row['accuracy'][task]:.2f}" for task in TASKS]
        cells += [f"{points:+.2f} ± {error:.2f}" for points, error in row["drop"].values()]
        lines.append(cells)
    text = [f"| {' | '.join(line)} |" for line in lines]
    text += [f"\nNo file of {label}: {reason}" for label, reason in found["refused"].items()]
    return "\n".join(text)


def targets(found) -> str:
    """What was asked for and whether it is so, in Markdown."""
    rows = found["rows"]
    lines = []
    if found["bytes_target"]:
        size, target = rows["int8"]["bytes"] / rows[FLOAT]["bytes"], found["bytes_target"]
        said = f"int8's bytes are {size:.3f} of float32's"
        floor = found["int8_floor"] / rows[FLOAT]["bytes"]
        lines.append(
            f"{said}, at most {target}: {'met' if size <= target else 'missed'}; "
            f"of these, weights, biases and scales alone take {floor:.4f}"
        )
    for scheme in SCHEMES:
        for task in TASKS:
            before, after = (np.mean(found["lost"][x][task]) for x in (scheme, trained(scheme)))
            said = f"{scheme}, {task}: {before:+.2f} points lost, {after:+.2f} when trained for it"
            if before > NOISE:
                share = (before - after) / before
                verdict = "met" if share >= RECOVERED else "missed"
                said += f"; {share:.0%} won back, at least {RECOVERED:.0%}: {verdict}"
            lines.append(f"{said}; {not_worse(*found['change'][scheme][task], found['trainings'])}")
    return "\n".join(f"- {line}" for line in lines)


def not_worse(points, error, trainings) -> str:
    """Whether training for a type ended no worse, as far as the noise lets it be told."""
    if points <= 0:
        return f"better by {-points:.2f} ± {error:.2f}: met"
    noise = f"{trainings} trainings" if trainings > 1 else "the test images"
    verdict = "missed" if points > 2 * error else f"within the noise of {noise}"
    return f"worse by {points:.2f} ± {error:.2f}: {verdict}"


def plot(record, path) -> None:
    panels = {}
    for name, found in record["networks"].items():
        base = found["rows"][FLOAT]["bytes"]
        panels[name] = [
            {
                "file": label,
                "bytes": row["bytes"] / base,
                "latency": row["latency"][str(THREADS[0])]["ratio"][1],
                "drop": row["drop"],
            }
            for label, row in found["rows"].items()
            if label != FLOAT
        ]
    by_type(panels, MARKS, path)
