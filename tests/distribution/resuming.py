"""A run with everything that has a state, to be killed and started again.

`python resuming.py FOLDER INDEX PORT PORT` runs it as one of two workers; without ports
`killed_often` forks it, as often as it takes.
"""

import json
import os
import random
import signal
import sys
import time
import traceback
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"

if __name__ == "__main__":
    FOLDER, INDEX, PORTS = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
    if len(PORTS) > 1:
        workers = [f"127.0.0.1:{port}" for port in PORTS]
        task = {"type": "worker", "index": INDEX}
        os.environ["TF_CONFIG"] = json.dumps({"cluster": {"worker": workers}, "task": task})
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import keras  # noqa: E402
import numpy as np  # noqa: E402
from keras import layers  # noqa: E402

import kmtl  # noqa: E402

EPOCHS = 3


class Killer(keras.callbacks.Callback):
    """Has the system end this process a while after some batch, wherever it then is.

    Notes where it started.
    """

    def __init__(self, batches, seconds, notes):
        super().__init__()
        self.batches, self.seconds, self.notes, self.first = batches, seconds, notes, True

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_begin(self, batch, logs=None):
        if self.first:
            with open(self.notes, "a") as file:
                print(self.params["steps"] * self.epoch + batch, file=file)
        self.first = False

    def on_train_batch_end(self, batch, logs=None):
        if self.batches is None:
            return
        self.batches -= 1
        if self.batches == 0:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.setitimer(signal.ITIMER_REAL, self.seconds)


class Slow(keras.callbacks.Callback):
    """Leaves time to be killed in."""

    def on_train_batch_end(self, batch, logs=None):
        time.sleep(0.02)


def data():
    rng = np.random.default_rng(0)
    left = rng.normal(size=(60, 6)).astype("float32")
    right = rng.normal(size=(36, 6)).astype("float32")
    noise = rng.random(36) < 0.4
    sources = {
        "left": (left, {"sign": (left[:, 0] > 0).astype("int32")}),
        "right": (right, {"sum": np.where(noise, np.nan, right.sum(1)).astype("float32")}),
    }
    missing = {"sum": float("nan")}
    return kmtl.data.TaskMixture(sources, batch_size=8, seed=5, missing=missing)


def build(mixture):
    keras.utils.set_random_seed(1)
    x = keras.Input((6,))
    h = layers.Dense(8, activation="relu")(x)
    h = layers.BatchNormalization()(layers.Dropout(0.3)(h))
    heads = {
        "sign": layers.Dense(2, activation="softmax")(layers.GaussianNoise(0.1)(h)),
        "sum": layers.Dense(1)(h),
    }
    model = kmtl.MultiTaskModel(x, heads)
    model.compile(
        keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(0.02, 60)),
        loss={"sign": "sparse_categorical_crossentropy", "sum": "mse"},
        metrics={"sign": "accuracy"},
        weighting=kmtl.weighting.PCGrad(seed=2),
        missing=mixture.missing,
    )
    return model


def train(folder: Path, kill_at=None, seconds=0.001) -> dict[str, np.ndarray]:
    """Variables and logs at the end, by name."""
    folder.mkdir(exist_ok=True)
    mixture = data()
    model = build(mixture)
    backup = kmtl.callbacks.BackupAndResume(folder / "backups", every=4)
    history = model.fit(
        mixture,
        epochs=EPOCHS,
        verbose=0,
        callbacks=[backup, Slow(), Killer(kill_at, seconds, folder / "starts.txt")],
    ).history
    variables = [*model.variables, *model.optimizer.variables]
    found = {f"variable {i:03d}": np.array(v.numpy()) for i, v in enumerate(variables)}
    return found | {f"history {name}": np.array(values) for name, values in history.items()}


def in_child(folder: Path, result: Path, **kill) -> bool:
    """Runs `train` in a fork of this process, which must not have used TensorFlow yet.

    Returns:
        Whether it came to its end.
    """
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            np.savez(result, **train(folder, **kill))
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    status = os.waitpid(pid, 0)[1]
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGALRM:
        return False
    if status:
        raise RuntimeError(f"The child failed with status {status}")
    return True


def killed_often(folder: Path, seed: int, most: int) -> int:
    """Trains undisturbed, and once more killed at random times; returns how often it was."""
    in_child(folder / "undisturbed", folder / "undisturbed.npz")
    rng = random.Random(seed)
    for kills in range(most):
        kill = {"kill_at": rng.randint(3, 12), "seconds": rng.uniform(0.001, 0.06)}
        if in_child(folder / "killed", folder / "killed.npz", **kill):
            return kills
    in_child(folder / "killed", folder / "killed.npz")
    return most


if __name__ == "__main__":
    if len(PORTS) > 1:
        import tensorflow as tf

        with tf.distribute.MultiWorkerMirroredStrategy().scope():
            found = train(FOLDER, kill_at=json.loads(os.environ.get("KILL_AT", "null")))
        np.savez(FOLDER / f"worker{INDEX}.npz", **found)
    else:
        print(killed_often(FOLDER, seed=INDEX, most=8))
