"""The page and the picture of `benchmarks.tox21`."""

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from kmtl.export.reporting.figures import STYLE

LOGISTIC, SINGLE = "logistic regression", "single task (a network each)"
MULTI, PYRAMID = "multi-task", "multi-task, pyramid"
MARKS = {
    LOGISTIC: {"color": "#858c96", "marker": "o"},
    SINGLE: {"color": "#f59e0b", "marker": "s"},
    MULTI: {"color": "#3b82f6", "marker": "D"},
    PYRAMID: {"color": "#10b981", "marker": "^"},
}
# Validation AUC as published: DeepChem's README of 2017 at commit 4df9fe232.
PUBLISHED = {
    "random": "0.715 (logistic regression), 0.795 (multi-task network)",
    "scaffold": "0.650 (logistic regression), 0.703 (multi-task network)",
}


def page(record) -> str:
    """A table for each split, and whether the multi-task network beats logistic regression."""
    parts = [
        "# Tox21: twelve assays, together and apart",
        f"{record['setting']}. Mean over the tasks of ROC AUC in percent, ± standard deviation "
        "over seeds; splits are fixed. Settings were chosen on validation molecules, which also "
        "stop the training (single-task networks one by one, which flatters that column most): "
        "test is the number to trust.",
        "![AUC of each task by logistic regression and three kinds of networks](tox21.png)",
    ]
    for split, rows in record["splits"].items():
        parts += [f"## {split.capitalize()} split", table(rows), verdict(split, rows)]
    listed = ", ".join(f"{k} {v}" for k, v in record["versions"].items())
    settings = "; ".join(
        f"{split}, {kind}: {_words(setting)}"
        for split, chosen in record["settings"].items()
        for kind, setting in chosen.items()
    )
    parts.append(
        f"Settings: {settings}. Named heads have those of the shared network. What was compared to "
        "choose them, by one seed: [`tox21_search.json`](tox21_search.json)."
    )
    parts.append(
        f"Made by `{record['command']}` in {record['minutes']:.0f} minutes, perhaps on a busy "
        f"machine. With {listed}."
    )
    return "\n\n".join(parts) + "\n"


def table(rows) -> str:
    lines = ["| method | validation | test | parameters | epochs |", "|---|---|---|---|---|"]
    for name, row in rows.items():
        cells = [_mean_and_sd(row[part]) for part in ("validation", "test")]
        epochs = f"{np.mean(row['epochs']):.0f}" if row["epochs"] else ""
        lines.append(f"| {name} | {' | '.join(cells)} | {row['parameters']:,} | {epochs} |")
    return "\n".join(lines)


def verdict(split, rows) -> str:
    """What multi-task networks gain, on both parts and task by task."""
    found = []
    for name in (MULTI, PYRAMID):
        for other in (LOGISTIC, SINGLE):
            gains = {
                part: 100 * (np.mean(rows[name][part], axis=0) - np.mean(rows[other][part], axis=0))
                for part in ("validation", "test")
            }
            found.append(
                f"- {name} less {other}: {gains['validation'].mean():+.2f} points on validation, "
                f"{gains['test'].mean():+.2f} on test, where {np.sum(gains['test'] > 0)} of "
                f"{len(gains['test'])} tasks gain"
            )
    return "\n".join(found) + (
        f"\n\nPublished, on validation, with splits and fingerprints that differ in details: "
        f"{PUBLISHED[split]}."
    )


def picture(record, path) -> None:
    """Test AUC of each task, tasks in the order of the multi-task network's, and their mean."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10, 5.4), layout="constrained")
        panels = figure.subplots(1, 2, sharex=True)
        for axes, (split, rows) in zip(panels, record["splits"].items(), strict=True):
            _panel(axes, rows, record["tasks"])
            axes.set_title(f"{split} split", loc="left", fontweight="bold")
        handles, names = panels[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside upper center", ncols=len(names), frameon=False)
        figure.supxlabel(
            "test ROC AUC; networks: mean ± standard deviation over seeds", fontsize=10
        )
        figure.savefig(path, dpi=110, transparent=True)


def _panel(axes, rows, tasks):
    order = np.argsort(np.mean(rows[MULTI]["test"], axis=0))
    places = np.append(np.arange(len(tasks)), len(tasks) + 0.6)
    shown = {}
    for k, (name, marks) in enumerate(MARKS.items()):
        by_seed = np.array(rows[name]["test"])[:, order]
        by_seed = np.column_stack([by_seed, by_seed.mean(axis=1)])
        shown[name] = by_seed.mean(axis=0)
        axes.errorbar(
            shown[name],
            places + 0.15 * (1.5 - k),
            xerr=by_seed.std(axis=0, ddof=1) if len(by_seed) > 1 else None,
            label=name,
            ls="",
            ms=5,
            lw=1.2,
            zorder=3,
            **marks,
        )
    spans = np.array(list(shown.values()))
    axes.hlines(places, spans.min(axis=0), spans.max(axis=0), color="#858c96", alpha=0.25, lw=5)
    axes.axhline(len(tasks) - 0.2, color="#858c96", lw=0.8)
    axes.set_yticks(places, [*(tasks[t] for t in order), "mean"])
    axes.get_yticklabels()[-1].set_fontweight("bold")
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)


def _mean_and_sd(by_seed) -> str:
    means = 100 * np.mean(by_seed, axis=1)
    spread = f" ± {np.std(means, ddof=1):.2f}" if len(means) > 1 else ""
    return f"{np.mean(means):.2f}{spread}"


def _words(setting) -> str:
    widths = "-".join(map(str, setting["widths"]))
    return (
        f"{widths} hidden, L2 {setting['l2']:g}, dropout {setting['dropout']:g}, "
        f"rate {setting['rate']:g}"
    )
