"""From a report's figures to its page."""

import importlib.util
from importlib import resources

import jinja2
import keras
import numpy as np

from kmtl.export.reporting import plots
from kmtl.export.reporting.figures import page_style
from kmtl.models.graph import ancestors
from kmtl.version import __version__

EXPLORERS = ("model_explorer", "ai_edge_model_explorer")
MOST_LAYERS = 32  # of a page's histograms


def render(report, plain: keras.Model) -> str:
    """The page.

    Args:
        report: A `Report`.
        plain: The folded model, for its weights.
    """
    text = (
        resources.files("kmtl.export.reporting")
        .joinpath("report.html.j2")
        .read_text(encoding="utf-8")
    )
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    groups, left_out = weight_groups(plain)
    return environment.from_string(text).render(
        style=page_style(),
        report=report,
        model=plain.name,
        files=report.files,
        reference=report.files["float32"],
        colors={name: plots.color(i) for i, name in enumerate(report.files)},
        smallest=min(report.files, key=lambda name: report.files[name].bytes),
        fastest=min(report.files, key=lambda name: report.files[name].latency_ms),
        trade_offs={task: _trade_off(report, task) for task in report.tasks},
        distributions={task: _distribution(report, task) for task in report.tasks},
        quantile=lambda values, q: float(np.quantile(values, q)),
        groups=[
            {
                "title": _title(heads, report.tasks),
                "picture": plots.weight_histograms(weights),
                "layers": {name: _numbers(values) for name, values in weights.items()},
            }
            for heads, weights in groups.items()
        ],
        left_out=left_out,
        explorer=any(importlib.util.find_spec(name) for name in EXPLORERS),
        version=__version__,
    )


def weight_groups(plain: keras.Model) -> tuple[dict[tuple, dict[str, np.ndarray]], int]:
    """Heads -> layers that exactly these heads need -> kernel; how many layers are left out.

    The layers with the most weights are kept. What more heads share comes first.
    """
    users: dict[int, list] = {}
    for task in sorted(plain.output):
        tensors = ancestors([plain.output[task]])
        for operation in {id(o): o for o in (x._keras_history.operation for x in tensors)}.values():
            users.setdefault(id(operation), []).append(task)
    kernels = {}
    for layer in plain.layers:
        large = [w for w in layer.weights if len(w.shape) > 1]
        for weight in large:
            name = layer.name if len(large) == 1 else f"{layer.name}/{weight.name}"
            values = keras.ops.convert_to_numpy(weight).astype("float32")
            kernels[name] = (tuple(users.get(id(layer), ())), values)
    largest = sorted(kernels, key=lambda name: -kernels[name][1].size)[:MOST_LAYERS]
    groups: dict[tuple, dict] = {}
    for name, (heads, values) in kernels.items():
        if name in largest:
            groups.setdefault(heads, {})[name] = values
    ordered = sorted(groups, key=lambda heads: (-len(heads), heads))
    return {heads: groups[heads] for heads in ordered}, len(kernels) - len(largest)


def _title(heads, tasks) -> str:
    if len(heads) == len(tasks) > 1:
        return "Shared by all heads"
    return f"Only for {' and '.join(heads)}"


def _numbers(values) -> dict:
    sd = float(values.std())
    return {
        "shape": " × ".join(map(str, values.shape)),
        "low": float(values.min()),
        "high": float(values.max()),
        "sd": sd,
        "spread": float(np.abs(values).max()) / sd if sd else 0.0,
    }


def _trade_off(report, task) -> str:
    if task in report.metric_names:
        points = [(f.bytes, f.metrics[task]) for f in report.files.values()]
        return plots.trade_off(points, report.metric_names[task].replace("_", " "), False)
    points = [(f.bytes, f.errors[task]["relative_error"]) for f in report.files.values()]
    return plots.trade_off(points, "relative error", True)


def _distribution(report, task) -> str:
    errors = {name: file.deviations[task] for name, file in report.files.items()}
    return plots.error_histograms(errors, report.sizes[task])
