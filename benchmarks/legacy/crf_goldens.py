"""Freezes what tensorflow-addons makes of CRFs: `make legacy-goldens` writes it for the tests.

Runs in .venv-legacy. The library is archived and works with TensorFlow 2.15 at most. It computes
in float32; numbers stand in the file as they are in that type, in the fewest digits.
"""

import json
import platform
import re
import sys
from importlib import metadata
from pathlib import Path

import numpy as np
import tensorflow as tf
import tensorflow_addons as tfa

DIGITS = 5  # of the inputs

# Name -> (steps, tags, lengths, scale of the scores)
CASES = {
    "up to seven steps": (7, 4, [7, 6, 5, 4, 3, 2, 1], 1.0),
    "two tags": (3, 2, [3, 3, 2, 1], 1.0),
    "large scores": (6, 3, [6, 6, 4, 1], 30.0),
    "one step": (1, 3, [1, 1], 1.0),
    "an empty sequence": (4, 3, [0, 4], 1.0),
}


def inputs() -> dict[str, dict]:
    rng = np.random.default_rng(20170)
    return {
        name: {
            "emissions": _rounded(scale * rng.normal(size=(len(lengths), steps, tags)), DIGITS),
            "transitions": _rounded(scale * rng.normal(size=(tags, tags)), DIGITS),
            "start": _rounded(scale * rng.normal(size=tags), DIGITS),
            "end": _rounded(scale * rng.normal(size=tags), DIGITS),
            "lengths": np.array(lengths),
            "tags": rng.integers(0, tags, size=(len(lengths), steps)),
        }
        for name, (steps, tags, lengths, scale) in CASES.items()
    }


def outputs(case: dict) -> dict:
    """Scores, normaliser, likelihood, its gradients and the best tags, by tensorflow-addons."""
    lengths, tags = case["lengths"], case["tags"]
    emissions = tf.Variable(case["emissions"], dtype=tf.float32)
    # The layer's way to score the first and the last tag. Called as a whole it refuses an empty
    # sequence, which its functions take.
    crf = tfa.layers.CRF(len(case["start"]), use_kernel=False)
    crf.build(emissions.shape)
    crf.chain_kernel.assign(case["transitions"])
    crf.left_boundary.assign(case["start"])
    crf.right_boundary.assign(case["end"])
    with tf.GradientTape() as tape:
        mask = tf.sequence_mask(lengths, tags.shape[1])
        ends = crf.left_boundary, crf.right_boundary
        potentials = crf.add_boundary_energy(emissions, mask, *ends)
        chain = tf.convert_to_tensor(crf.chain_kernel)
        likelihood, _ = tfa.text.crf_log_likelihood(potentials, tags, lengths, chain)
        total = tf.reduce_sum(likelihood)
    by = {
        "emissions": emissions,
        "transitions": crf.chain_kernel,
        "start": crf.left_boundary,
        "end": crf.right_boundary,
    }
    gradients = tape.gradient(total, by, unconnected_gradients=tf.UnconnectedGradients.ZERO)
    best, score = crf.get_viterbi_decoding(potentials, tf.cast(lengths, tf.int32))
    return {
        "sequence_score": tfa.text.crf_sequence_score(potentials, tags, lengths, chain),
        "log_normalizer": tfa.text.crf_log_norm(potentials, lengths, chain),
        "log_likelihood": likelihood,
        "gradients": gradients,
        "viterbi_tags": [row[:n].tolist() for row, n in zip(best.numpy(), lengths, strict=True)],
        "viterbi_score": score,
    }


def main(path: str) -> None:
    packages = ("tensorflow-addons", _tensorflow(), "numpy")
    record = {
        "about": "Linear-chain CRFs by tensorflow-addons. Made by `make legacy-goldens`.",
        "versions": {
            "python": platform.python_version(),
            **{package: metadata.version(package) for package in packages},
        },
        "cases": {
            name: {"inputs": _plain(case), "outputs": _plain(outputs(case))}
            for name, case in inputs().items()
        },
    }
    text = json.dumps(record, indent=1)
    Path(path).write_text(re.sub(r"\[\s+([^\[\]{}]*?)\s+\]", _one_line, text) + "\n")


def _tensorflow() -> str:
    names = metadata.packages_distributions()["tensorflow"]
    return next(name for name in names if name in ("tensorflow", "tensorflow-cpu"))


def _plain(value):
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return value
    array = np.asarray(value)
    if array.dtype.kind == "i":
        return array.tolist()
    return np.vectorize(lambda x: float(str(x)), otypes=[float])(array.astype("float32")).tolist()


def _one_line(match: re.Match) -> str:
    return "[" + re.sub(r"\s+", " ", match[1]) + "]"


def _rounded(values, digits: int) -> np.ndarray:
    return np.vectorize(lambda x: float(f"{x:.{digits}g}"))(values)


if __name__ == "__main__":
    main(*sys.argv[1:])
