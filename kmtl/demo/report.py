"""Writes report.html, report.json and test.npz."""

import json
import platform
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path

import jinja2
import keras
import numpy as np
import tensorflow as tf

from kmtl.datasets.overlay import Split
from kmtl.demo import figures
from kmtl.demo.networks import NETWORKS, PLAIN_SUM, SINGLE_TASK, TASKS
from kmtl.demo.results import mean_and_sd, percent
from kmtl.demo.train import Run
from kmtl.export.reporting.figures import page_style

TITLES = {
    SINGLE_TASK: ("Single-task", "a network for each task; the baseline"),
    PLAIN_SUM: ("Plain sum", "hard sharing trained on the unweighted sum of the losses"),
    "hard_sharing": ("Hard sharing", "one trunk, a head for each task"),
    "cross_stitch": ("Cross-stitch", "a tower for each task, mixed channel by channel"),
    "sluice": ("Sluice", "towers that share subspaces and choose their depth"),
    "factorized": ("Factorised", "kernels of all tasks from common factors (LAF)"),
}

SAMPLES, MISTAKES = 8, 4


def write_test_data(path: Path, test: Split) -> None:
    """The test images and labels, so that anyone can check the files without kmtl."""
    np.savez_compressed(path, image=test.x, **test.y)


def write(folder: Path, summary: Mapping, runs: Sequence[Run], files: Mapping, test: Split) -> None:
    """Writes both reports.

    Args:
        folder: Where to.
        summary: What `summarize` returned.
        runs: All trainings, for the pictures.
        files: What `deploy` returned, with answers.
        test: The test images.
    """
    text = resources.files("kmtl.demo").joinpath("report.html.j2").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.globals["percent"] = percent
    alphas = next((run.alphas for run in runs if run.alphas), {})
    page = environment.from_string(text).render(
        style=page_style(),
        summary=summary,
        titles=TITLES,
        colors=figures.COLORS,
        tasks=TASKS,
        networks=_table(summary),
        files=_file_table(summary["deployed"]["files"]),
        story=_story(summary),
        learning_curves=figures.learning_curves(runs),
        variances=figures.variances(runs),
        stitches={
            **figures.stitch_map(alphas),
            "kept of one's own, by epoch": figures.stitch_curves(alphas, own=True),
            "borrowed from the other, by epoch": figures.stitch_curves(alphas, own=False),
        },
        samples=_samples(files["int8"]["answers"], test),
        versions={
            "Python": platform.python_version(),
            "TensorFlow": tf.__version__,
            "Keras": keras.__version__,
        },
    )
    (folder / "report.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    (folder / "report.html").write_text(page, encoding="utf-8")


def _table(summary) -> list[dict]:
    best = {
        task: max(NETWORKS, key=lambda name, task=task: _mean(summary, name, task))
        for task in TASKS
    }
    scale = max(abs(n["delta_m_mean"]) for n in summary["networks"].values()) or 1.0
    return [
        {
            "name": name,
            "numbers": numbers,
            "best": [task for task in TASKS if best[task] == name],
            "bar": numbers["delta_m_mean"] / scale,  # -1 to 1
            "chosen": name == summary["deployed"]["network"],
        }
        for name, numbers in summary["networks"].items()
    ]


def _mean(summary, name, task) -> float:
    return mean_and_sd(summary["networks"][name]["test"][task])[0]


def _file_table(files) -> list[dict]:
    reference = files["float32"]
    return [
        {
            "quantization": quantization,
            **file,
            "smaller": reference["bytes"] / file["bytes"],
            "faster": reference["latency_ms"] / file["latency_ms"],
            "change": {
                task: 100 * (file["test"][task] - reference["test"][task]) for task in TASKS
            },
        }
        for quantization, file in files.items()
    ]


def _story(summary) -> dict:
    """The few numbers of the page's first paragraph."""
    files = summary["deployed"]["files"]
    changes = [files["int8"]["test"][t] - files["float32"]["test"][t] for t in TASKS]
    chosen = summary["networks"][summary["deployed"]["network"]]
    single = summary["networks"][SINGLE_TASK]
    return {
        "worst_change": 100 * min(changes),
        "smaller": files["float32"]["bytes"] / files["int8"]["bytes"],
        "trainings": summary["plan"]["seeds"] * (len(TASKS) + len(NETWORKS)),
        "parameters_against_single": chosen["parameters"] / single["parameters"],
        "minutes": sum(summary["seconds"].values()) / 60,
    }


def _samples(answers, test) -> list[dict]:
    """The first test images, then the first that the file misreads."""
    wrong = np.any([answers[task] != test.y[task] for task in TASKS], axis=0)
    chosen = [*range(SAMPLES), *(i for i in np.flatnonzero(wrong) if i >= SAMPLES)][
        : SAMPLES + MISTAKES
    ]
    return [
        {
            "image": figures.picture(test.x[i]),
            "index": int(i),
            "heads": {
                task: {"truth": int(test.y[task][i]), "answer": int(answers[task][i])}
                for task in TASKS
            },
        }
        for i in chosen
    ]
