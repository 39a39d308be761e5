"""Networks on Tox21's fingerprints, and how they are trained."""

import dataclasses

import keras
import numpy as np
from keras import layers
from sklearn.metrics import roc_auc_score

import kmtl

BATCH = 256
EPOCHS, PATIENCE = 20, 4
OUTPUT = "assays"


@dataclasses.dataclass(frozen=True)
class Setting:
    """What is chosen on the validation molecules.

    Attributes:
        widths: Units of the hidden layers; of each task's network where tasks share none.
        l2: Penalty of all kernels, beside the mean over tasks of their losses.
        dropout: Rate after each hidden layer.
        rate: Adam's learning rate.
    """

    widths: tuple[int, ...]
    l2: float
    dropout: float = 0.5
    rate: float = 2e-3


def matrix(molecules) -> np.ndarray:
    """The labels, a column for each task."""
    return np.stack(list(molecules.y.values()), axis=1)


def task_aucs(labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """ROC AUC of each task over its present labels."""
    columns = zip(labels.T, scores.T, strict=True)
    return np.array([roc_auc_score(y[~np.isnan(y)], s[~np.isnan(y)]) for y, s in columns])


def shared(setting: Setting, labels: np.ndarray) -> kmtl.MultiTaskModel:
    """One network, whose last layer has a logit for each task."""
    x, h = _trunk(setting, setting.l2)
    logits = layers.Dense(labels.shape[1], kernel_regularizer=keras.regularizers.L2(setting.l2))
    return _compile_matrix(kmtl.MultiTaskModel(x, {OUTPUT: logits(h)}), setting, labels)


def separate(setting: Setting, labels: np.ndarray) -> kmtl.MultiTaskModel:
    """A network for each task; in one model for speed, with nothing in common but the batches."""
    tasks, penalty = labels.shape[1], keras.regularizers.L2(setting.l2)
    x = keras.Input((1024,))
    h = x
    for width in setting.widths:
        stack = kmtl.layers.TaskStackedDense(
            width, tasks, activation="relu", kernel_regularizer=penalty
        )
        h = [layers.Dropout(setting.dropout)(tower) for tower in stack(h)]
    logits = kmtl.layers.TaskStackedDense(1, tasks, kernel_regularizer=penalty)(h)
    model = kmtl.MultiTaskModel(x, {OUTPUT: layers.Concatenate()(logits)})
    return _compile_matrix(model, setting, labels)


def named_heads(setting: Setting, labels: np.ndarray, weighting) -> kmtl.MultiTaskModel:
    """The shared network with an output of its own for each task, for a weighting to tell apart."""
    names = [f"task_{t:02d}" for t in range(labels.shape[1])]
    l2 = setting.l2 * len(names)  # beside the sum over tasks, not the mean
    x, h = _trunk(setting, l2)
    penalty = keras.regularizers.L2(l2)
    heads = {name: layers.Dense(1, kernel_regularizer=penalty)(h) for name in names}
    model = kmtl.MultiTaskModel(x, heads)
    balance = kmtl.losses.class_balance_weights(labels)
    model.compile(
        keras.optimizers.Adam(setting.rate),
        loss={
            name: kmtl.losses.MaskedMultiLabelLoss(balance[t : t + 1])
            for t, name in enumerate(names)
        },
        weighting=weighting,
    )
    return model


def train(build, data, seed: int, by_task: bool = False) -> dict:
    """Fits with early stopping on the validation molecules.

    Args:
        build: `labels -> model`, compiled, such as the functions above make.
        data: What `kmtl.datasets.tox21` returns.
        seed: Of weights, batches and dropout.
        by_task: Whether each task keeps its own best epoch, as separate networks would.

    Returns:
        `validation` and `test`, logits of shape `(N, T)` at the best epochs; `epochs`, these; and
        the number of `parameters`.
    """
    keras.utils.set_random_seed(seed)
    labels = matrix(data.train)
    model = build(labels)
    columns = np.split(labels, len(model.task_names), axis=1)
    y = dict(zip(model.task_names, columns, strict=True))
    best = _BestEpoch(data, by_task)
    model.fit(data.train.x, y, batch_size=BATCH, epochs=EPOCHS, callbacks=[best], verbose=0)
    return {
        "validation": best.validation,
        "test": best.test,
        "epochs": best.epochs.tolist(),
        "parameters": model.count_params(),
    }


class _BestEpoch(keras.callbacks.Callback):
    """Keeps the logits of the epoch with the best validation AUC, and stops some epochs later."""

    def __init__(self, data, by_task):
        super().__init__()
        self.data, self.by_task = data, by_task
        tasks = len(data.train.y)
        self.labels = matrix(data.validation)
        self.scores, self.epochs = np.zeros(tasks), np.zeros(tasks, int)
        self.validation, self.test = (
            np.zeros((len(part.x), tasks), "float32") for part in (data.validation, data.test)
        )

    def on_epoch_end(self, epoch, logs=None):
        logits = self._predict(self.data.validation.x)
        scores = task_aucs(self.labels, logits)
        if not self.by_task:
            scores = np.full_like(scores, scores.mean())
        better = scores > self.scores
        if better.any():
            self.scores[better], self.epochs[better] = scores[better], epoch + 1
            self.validation[:, better] = logits[:, better]
            self.test[:, better] = self._predict(self.data.test.x)[:, better]
        if epoch + 1 >= self.epochs.max() + PATIENCE:
            self.model.stop_training = True

    def _predict(self, x):
        outputs = self.model.predict_on_batch(x)
        return np.concatenate([outputs[name] for name in self.model.task_names], axis=1)


def _trunk(setting, l2):
    x = h = keras.Input((1024,))
    for width in setting.widths:
        dense = layers.Dense(width, activation="relu", kernel_regularizer=keras.regularizers.L2(l2))
        h = layers.Dropout(setting.dropout)(dense(h))
    return x, h


def _compile_matrix(model, setting, labels):
    balance = kmtl.losses.class_balance_weights(labels)
    model.compile(
        keras.optimizers.Adam(setting.rate),
        loss={OUTPUT: kmtl.losses.MaskedMultiLabelLoss(balance)},
    )
    return model
