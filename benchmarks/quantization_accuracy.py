"""What integers cost each head, on real digits: `python -m benchmarks.quantization_accuracy`.

Networks and settings of the demo, with less data. Every row is the accuracy of the LiteRT file on
test images. Training for integers goes on for some epochs; the rows "trained on" have the same
epochs in float, so that the rest is what the grid itself gained or lost. Takes some 5 minutes.
"""

import json
import tempfile
from pathlib import Path

import keras
import numpy as np
from absl import app, flags, logging
from tqdm import tqdm

import kmtl
import kmtl.export
from kmtl.demo.networks import NETWORKS, TASKS

_OUTPUT = flags.DEFINE_string("output", "docs/results", "Folder for the results.")
_SEEDS = flags.DEFINE_integer("seeds", 3, "Number of seeds.", lower_bound=1)

SHARING = ("hard_sharing", "cross_stitch")
BATCH, TRAIN, TEST, CALIBRATION = 250, 5000, 2000, 256
EPOCHS, LEARNING_RATE = 5, 3e-3
MORE_EPOCHS, SMALL_RATE = 2, 3e-4
POST_TRAINING = ("float32", "dynamic_int8", "int8", "int8x16", "int4")
SCHEMES = ("int8", "int8x16", "int4")


def main(argv) -> None:
    del argv
    logging.set_verbosity(logging.WARNING)  # TensorFlow reports each model it writes
    data = kmtl.datasets.multi_digits(num_train=TRAIN, num_test=TEST)
    runs = {}
    jobs = [(network, seed) for network in SHARING for seed in range(_SEEDS.value)]
    for network, seed in tqdm(jobs):
        runs.setdefault(network, []).append(run(network, seed, data))
    record = {
        "command": f"python -m benchmarks.quantization_accuracy --seeds={_SEEDS.value}",
        "setting": f"MultiDigits, {TRAIN} training and {TEST} test images, {EPOCHS} epochs of Adam "
        f"{LEARNING_RATE}, then where it says so {MORE_EPOCHS} of {SMALL_RATE}; ranges from "
        f"{CALIBRATION} training images; {_SEEDS.value} seeds",
        "runs": runs,
    }
    output = Path(_OUTPUT.value)
    output.mkdir(parents=True, exist_ok=True)
    (output / "quantization_accuracy.json").write_text(json.dumps(record, indent=2) + "\n")
    (output / "quantization_accuracy.md").write_text(table(record))
    print(table(record))


def run(network: str, seed: int, data) -> dict:
    """Row -> bytes, accuracy by task, and for trained grids how far file and `predict` agree."""
    keras.utils.set_random_seed(seed)
    model, rows = NETWORKS[network](), {}
    train(model, data, LEARNING_RATE, EPOCHS)
    for quantization in POST_TRAINING:
        rows[quantization] = measure(model, quantization, data)
    for scheme in SCHEMES:
        calibration = data.train.x[:CALIBRATION]
        aware = kmtl.export.quantize_aware(model, scheme, representative_data=calibration)
        train(aware, data, SMALL_RATE, MORE_EPOCHS)
        rows[f"{scheme}, trained for"] = measure(aware, scheme, data, compare=True)
    train(model, data, SMALL_RATE, MORE_EPOCHS)
    for quantization in POST_TRAINING:
        rows[f"{quantization}, trained on"] = measure(model, quantization, data)
    return rows


def train(model, data, learning_rate, epochs) -> None:
    model.compile(
        keras.optimizers.Adam(learning_rate),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    model.fit(data.train.x, data.train.y, batch_size=BATCH, epochs=epochs, verbose=0)


def measure(model, quantization, data, compare=False) -> dict:
    """The file's size and accuracy."""
    with tempfile.TemporaryDirectory() as folder:
        result = kmtl.export.export_litert(
            model,
            Path(folder) / "model.tflite",
            quantization=quantization,
            representative_data=data.train.x[:CALIBRATION],
        )
        answers = kmtl.export.load_litert(result.path)(data.test.x)
    row = {
        "bytes": result.bytes,
        "test": {t: float(np.mean(answers[t].argmax(-1) == data.test.y[t])) for t in TASKS},
    }
    if compare:
        expected = model.predict(data.test.x, verbose=0)
        apart = np.concatenate([np.abs(answers[t] - expected[t]).ravel() for t in TASKS])
        row["equal"] = int(np.sum(apart < 1e-5))
        row["outputs"] = apart.size
    return row


def table(record) -> str:
    """A markdown table for each network; differences are in points of the same seed's float32."""
    text = [f"{record['setting']}.\n"]
    for network, runs in record["runs"].items():
        text.append(f"## {network}\n")
        text.append("| file | bytes | left % | right % | to float32, points | equal to `predict` |")
        text.append("|---|---|---|---|---|---|")
        text += [_line(name, runs) for name in runs[0]]
        text.append("")
    return "\n".join(text) + f"\nMade by `{record['command']}`.\n"


def _line(name, runs) -> str:
    base = "float32, trained on" if "trained" in name else "float32"
    cells = [f"{runs[0][name]['bytes']:,}"]
    for task in TASKS:
        cells.append(_mean_and_sd([100 * run[name]["test"][task] for run in runs]))
    drops = [
        100 * np.mean([run[name]["test"][t] - run[base]["test"][t] for t in TASKS]) for run in runs
    ]
    cells.append(_mean_and_sd(drops, sign="+"))
    equal = sum(run[name].get("equal", 0) for run in runs)
    outputs = sum(run[name].get("outputs", 0) for run in runs)
    cells.append(f"{100 * equal / outputs:.2f}%" if outputs else "")
    return f"| {name} | {' | '.join(cells)} |"


def _mean_and_sd(values, sign="") -> str:
    sd = np.std(values, ddof=1) if len(values) > 1 else 0.0
    return f"{np.mean(values):{sign}.2f} ± {sd:.2f}"


if __name__ == "__main__":
    app.run(main)
