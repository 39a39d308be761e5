"""What each number type costs and gains on a device: `python -m benchmarks.deployment`.

Two networks of two heads are trained on real digits and exported in every type. A row has the
file's size, the runtime's latency and each head's accuracy on test images, all against the float32
file of the same network. Latencies of a network's files are taken in turns. A drop's standard
error is that of the paired differences, image by image. The small network is trained from several
seeds for the verdict on training for integers, whose error is that over them. Takes some 25
minutes.
"""

import json
import tempfile
from pathlib import Path

import keras
import numpy as np
from absl import app, flags, logging
from tqdm import tqdm

import kmtl
from benchmarks.deployment_page import FLOAT, SCHEMES, THREADS, page, plot, trained
from benchmarks.digit_networks import NETWORKS, TASKS, images_for, train
from benchmarks.file_floor import floor_bytes
from benchmarks.latency import time_files
from benchmarks.timing import compare
from benchmarks.versions import versions
from kmtl.export import VerificationError, export_litert, fold, load_litert, quantize_aware
from kmtl.export.quantization.recipes import QUANTIZATIONS

_OUTPUT = flags.DEFINE_string("output", "docs/results", "Folder for the results.")
_ROUNDS = flags.DEFINE_integer("rounds", 200, "Turns of each file's latency.", lower_bound=1)

TRAIN, TEST, CALIBRATION = 5000, 4000, 256
FLOAT_ON = "float32, trained on"
# The rows that tell whether training for a type helped, one training after another.
COMPARED = (FLOAT, *SCHEMES, *map(trained, SCHEMES))
EDGE_TPU = "int8_io for Edge TPU"
# These types have no kernel for depthwise convolutions, which get 8 bits instead.
NO_DEPTHWISE = {"dynamic_int4": "dynamic_int8", "dynamic_int4_block32": "dynamic_int8"}


def main(argv) -> None:
    del argv
    logging.set_verbosity(logging.WARNING)  # TensorFlow reports each model it writes
    digits = kmtl.datasets.multi_digits(num_train=TRAIN, num_test=TEST)
    record = {
        "command": "python -m benchmarks.deployment",
        "setting": f"MultiDigits enlarged to the network's input, {TRAIN} training and {TEST} test "
        f"images; ranges from {CALIBRATION} training images. Depthwise convolutions, for which the "
        "dynamic types of 4 bits have no kernel, have 8 in their files. Latency: LiteRT's "
        f"`Interpreter`, a row at a time, median of {_ROUNDS.value} rounds in which all files of a "
        "network took turns",
        "versions": versions(),
        "networks": {name: run(network, digits) for name, network in NETWORKS.items()},
    }
    output = Path(_OUTPUT.value)
    output.mkdir(parents=True, exist_ok=True)
    (output / "deployment.json").write_text(json.dumps(record, indent=2) + "\n")
    (output / "deployment.md").write_text(page(record))
    plot(record, output / "deployment.png")
    print(page(record))


def run(network, digits) -> dict:
    """The network's size, settings, and for each file what was measured."""
    data, test = (images_for(network, x) for x in (digits.train, digits.test))
    with tempfile.TemporaryDirectory() as folder:
        model, files, refused = write_files(network, data, Path(folder), seed=0)
        right = {label: correct(path, test) for label, path in tqdm(files.items())}
        row = data[0][:1]
        seconds = {n: time_files(files, row, _ROUNDS.value, n) for n in THREADS}
        sizes = {label: path.stat().st_size for label, path in files.items()}
        floor = floor_bytes(files["int8"].read_bytes())
    trainings = [right]
    for seed in range(1, network.seeds):
        with tempfile.TemporaryDirectory() as folder:
            _, files, _ = write_files(network, data, Path(folder), seed, COMPARED)
            trainings.append({label: correct(path, test) for label, path in files.items()})
    return {
        "parameters": model.count_params(),
        "shape": network.shape,
        "epochs": network.epochs,
        "rate": network.rate,
        "more": network.more,
        "bytes_target": network.bytes_target,
        "int8_floor": floor,
        "refused": refused,
        "rows": {
            label: {
                "bytes": sizes[label],
                "latency": {str(n): timing(s, label) for n, s in seconds.items()},
                "accuracy": {t: float(np.mean(right[label][t])) for t in TASKS},
                "drop": {t: drop(right[FLOAT][t], right[label][t]) for t in TASKS},
            }
            for label in right
        },
        "trainings": len(trainings),
        # Points lost against float32, of each training.
        "lost": {
            label: {t: [drop(r[FLOAT][t], r[label][t])[0] for r in trainings] for t in TASKS}
            for label in COMPARED
        },
        # Points lost by training for a type, against the same type after training.
        "change": {
            scheme: {t: paired(trainings, scheme, trained(scheme), t) for t in TASKS}
            for scheme in SCHEMES
        },
    }


def write_files(network, data, folder, seed, labels=None) -> tuple:
    """The trained model, the files of these rows of the table (all), and why others are not."""
    keras.utils.set_random_seed(seed)
    model = network.make(TASKS, network.shape)
    train(model, data, network.epochs, network.rate)
    rows, files, refused = exports(model, network, data, seed), {}, {}
    for label in tqdm(labels or rows):
        path = folder / f"{len(files)}.tflite"
        try:
            rows[label](path)
            files[label] = path
        except VerificationError as error:
            refused[label] = str(error)
    return model, files, refused


def exports(model, network, data, seed) -> dict:
    """The table's rows: label -> a function that writes the file."""
    samples = data[0][:CALIBRATION]

    def post_training(model, quantization, **kwargs):
        return lambda path: export_litert(
            model, path, quantization, representative_data=samples, **kwargs
        )

    def trained_for(scheme):
        def export(path):
            keras.utils.set_random_seed(seed)
            aware = quantize_aware(model, scheme, representative_data=samples)
            train(aware, data, *network.more[scheme])
            export_litert(aware, path, representative_data=samples)

        return export

    def trained_on(path):
        keras.utils.set_random_seed(seed)
        copy = keras.models.clone_model(model)
        copy.set_weights(model.get_weights())
        train(copy, data, *network.more[FLOAT])
        export_litert(copy, path, representative_data=samples)

    depthwise = [x.name for x in fold(model).layers if isinstance(x, keras.layers.DepthwiseConv2D)]
    rows = {}
    for name in QUANTIZATIONS:
        overrides = dict.fromkeys(depthwise, NO_DEPTHWISE[name]) if name in NO_DEPTHWISE else {}
        rows[name] = post_training(model, name, overrides=overrides)
    rows[EDGE_TPU] = post_training(model, None, target="edgetpu")
    rows[FLOAT_ON] = trained_on
    return rows | {trained(scheme): trained_for(scheme) for scheme in SCHEMES}


def correct(path, test) -> dict[str, np.ndarray]:
    """Task -> whether the file gave the right digit, image by image."""
    x, y = test
    answers = load_litert(path)(x)
    return {task: answers[task].argmax(-1) == y[task] for task in TASKS}


def drop(before, after) -> tuple[float, float]:
    """Points that accuracy fell, and the standard error of this paired difference."""
    lost = 100 * (before.astype("float64") - after)
    return float(lost.mean()), float(lost.std(ddof=1) / len(lost) ** 0.5)


def paired(trainings, before, after, task) -> tuple[float, float]:
    """Points lost from one row to another and their standard error, over trainings if several."""
    found = [drop(right[before][task], right[after][task]) for right in trainings]
    if len(found) == 1:
        return found[0]
    points = [lost for lost, _ in found]
    return float(np.mean(points)), float(np.std(points, ddof=1) / len(points) ** 0.5)


def timing(seconds, label) -> dict:
    found = compare(label, seconds, label, FLOAT, None)
    return {"ms": found.candidate_values, "ratio": found.ratio}


if __name__ == "__main__":
    app.run(main)
