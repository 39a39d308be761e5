"""Twelve assays of toxicity together and apart: `python -m benchmarks.tox21`.

Settings were chosen by `benchmarks.tox21_search` on validation molecules, and training stops by
them; test molecules are looked at here only. Writes `tox21.json`, `tox21.md` and `tox21.png`.
Took 24 minutes on two cores that were shared with other work.
"""

import dataclasses
import json
import time
from functools import partial
from pathlib import Path

import numpy as np
from absl import app, flags
from sklearn.linear_model import LogisticRegression
from tqdm import tqdm

import kmtl
from benchmarks import tox21_networks as networks
from benchmarks.tox21_page import LOGISTIC, MULTI, PYRAMID, SINGLE, page, picture
from benchmarks.tox21_settings import SETTINGS
from benchmarks.versions import versions

_DATA = flags.DEFINE_string("data", None, "Folder of Tox21's file.", required=True)
_OUTPUT = flags.DEFINE_string("output", "docs/results", "Folder for the results.")
_SEEDS = flags.DEFINE_integer("seeds", 5, "Number of seeds.", lower_bound=1)

PARTS = ("validation", "test")
ENSEMBLE = "multi-task, mean of the seeds' logits"


def main(argv) -> None:
    del argv
    start, splits = time.perf_counter(), {}
    for split, settings in SETTINGS.items():
        data = kmtl.datasets.tox21(_DATA.value, split)
        rows = {LOGISTIC: summarise([logistic_regression(data)], data)}
        for name, (build, by_task) in methods(settings).items():
            runs = [
                networks.train(build, data, seed, by_task)
                for seed in tqdm(range(_SEEDS.value), desc=f"{split} split, {name}")
            ]
            rows[name] = summarise(runs, data)
            if name == MULTI:
                mean = {
                    p: np.mean([run[p] for run in runs], axis=0) for p in ("validation", "test")
                }
                parameters = sum(run["parameters"] for run in runs)
                rows[ENSEMBLE] = summarise([{**mean, "parameters": parameters}], data)
        splits[split] = rows
    record = {
        "command": f"python -m benchmarks.tox21 --data=FOLDER --seeds={_SEEDS.value}",
        "setting": f"ECFP4 fingerprints of 1024 bits, {_SEEDS.value} seeds; batches of "
        f"{networks.BATCH}, Adam, at most {networks.EPOCHS} epochs, stopped {networks.PATIENCE} "
        "after the best validation AUC; all losses balance the classes",
        "tasks": list(data.train.y),
        "settings": {
            split: {name: dataclasses.asdict(setting) for name, setting in chosen.items()}
            for split, chosen in SETTINGS.items()
        },
        "splits": splits,
        "minutes": (time.perf_counter() - start) / 60,
        "versions": versions(),
    }
    output = Path(_OUTPUT.value)
    output.mkdir(parents=True, exist_ok=True)
    (output / "tox21.json").write_text(json.dumps(record, indent=2) + "\n")
    (output / "tox21.md").write_text(page(record))
    picture(record, output / "tox21.png")
    print(page(record))


def methods(settings) -> dict:
    """Name -> function that makes the network, and whether tasks are stopped one by one."""
    multi = settings["shared"]
    return {
        SINGLE: (partial(networks.separate, settings["separate"]), True),
        MULTI: (partial(networks.shared, multi), False),
        PYRAMID: (partial(networks.shared, settings["pyramid"]), False),
        "12 named heads, uncertainty weighting": (
            lambda labels: networks.named_heads(
                multi, labels, kmtl.weighting.UncertaintyWeighting(kinds="classification")
            ),
            False,
        ),
        "12 named heads, PCGrad": (
            lambda labels: networks.named_heads(multi, labels, kmtl.weighting.PCGrad(seed=0)),
            False,
        ),
    }


def logistic_regression(data) -> dict:
    """A balanced logistic regression for each task."""
    parts = (data.validation, data.test)
    scores = []
    for task, y in data.train.y.items():
        there = ~np.isnan(y)
        model = LogisticRegression(C=0.02, class_weight="balanced", solver="liblinear")
        model.fit(data.train.x[there], data.train.y[task][there])
        scores.append([model.decision_function(part.x) for part in parts])
    validation, test = (np.stack(columns, axis=1) for columns in zip(*scores, strict=True))
    parameters = len(scores) * (data.train.x.shape[1] + 1)
    return {"validation": validation, "test": test, "parameters": parameters}


def summarise(runs, data) -> dict:
    """AUC by seed and task, and how long and how large."""
    labels = {part: networks.matrix(getattr(data, part)) for part in PARTS}
    return {
        **{
            part: [networks.task_aucs(labels[part], run[part]).tolist() for run in runs]
            for part in labels
        },
        "parameters": runs[0]["parameters"],
        "epochs": [run["epochs"] for run in runs if "epochs" in run],
    }


if __name__ == "__main__":
    app.run(main)
