"""A small configuration with two sources, and what writes its data."""

import copy

import numpy as np
import pandas as pd
import yaml


def write_data(folder):
    """Arrays with two tasks, a table with one of them, and test data."""
    rng = np.random.default_rng(0)
    for name, rows in (("train", 40), ("test", 12)):
        x = rng.normal(3.0, [1, 10, 0.1, 2], size=(rows, 4)).astype("float32")
        np.savez(
            folder / f"{name}.npz",
            x=x,
            sign=(x[:, 1] > 3).astype("int32"),
            sum=np.where(np.arange(rows) % 3, x[:, 0] + x[:, 3], -99.0).astype("float32"),
        )
    table = pd.DataFrame(rng.normal(3.0, 2.0, size=(24, 4)), columns=list("abcd"))
    table["sum"] = table.a + table.d
    table.to_csv(folder / "more.csv", index=False)


def arrays(path):
    tasks = {"sign": {}, "sum": {"missing": -99.0}}
    return {"format": "npz", "path": path, "inputs": {"features": "x"}, "tasks": tasks}


CONFIG = {
    "data": {
        "train": {
            "both": arrays("train.npz"),
            "more": {
                "format": "csv",
                "path": "more.csv",
                "inputs": ["a", "b", "c", "d"],
                "tasks": ["sum"],
            },
        },
        "validation": {"both": arrays("test.npz")},
        "test": {"both": arrays("test.npz")},
        "batch_size": 8,
        "standardize": ["features"],
    },
    "network": {
        "kind": "hard_sharing",
        "trunk": [{"class": "Dense", "units": 8, "activation": "tanh"}],
        "heads": {"sign": {"units": 2, "activation": "softmax"}, "sum": {"units": 1}},
    },
    "training": {
        "losses": {"sign": "sparse_categorical_crossentropy", "sum": "mse"},
        "metrics": {"sign": "accuracy", "sum": "mae"},
        "weighting": {"class": "UncertaintyWeighting"},
        "optimizer": {"class": "SGD", "learning_rate": 0.05, "momentum": 0.9},
        "epochs": 2,
        "steps_per_epoch": 8,
    },
    "model": "out/model.keras",
    "results": "out/results.json",
}


def write_config(folder, **changes):
    """Writes data and configuration; returns the latter's path."""
    write_data(folder)
    config = {**copy.deepcopy(CONFIG), **changes}
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    return path
