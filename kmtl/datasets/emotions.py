"""Emotions: which of six moods a piece of music has."""

import os

import numpy as np

from kmtl.datasets.splits import (
    Examples,
    Splits,
    distinct_names,
    held_out,
    read_arrays,
    standardized,
)

FILE = "emotions.npz"
KEYS = ("X_train", "Y_train", "X_test", "Y_test", "labels", "features")
ORIGIN = (
    "made of emotions-train.arff and emotions-test.arff of Mulan "
    "(github.com/tsoumakas/mulan, folder data/multi-label)"
)
VALIDATION = 0.2


def emotions(folder: str | os.PathLike, seed: int = 0) -> Splits:
    """593 songs, 72 features of their sound, six yes-or-no tasks.

    A set that trains in a second, for methods that learn how tasks relate: "sad-lonely" goes with
    "quiet-still" and against "happy-pleased". Six logistic regressions have a Hamming loss of
    .210 and a mean area under the curve of .822 on the test part.

    The data are not part of kmtl. Test songs are the official ones; validation is a fifth of
    the official training songs.

    Args:
        folder: Folder with the file `emotions.npz`, which has the arrays `X_train` and `X_test`,
            `(M, D)`; `Y_train` and `Y_test`, `(M, T)` of 0 and 1; `labels`, T names; and
            `features`, D names.
        seed: Of the choice of validation songs. Defaults to `0`.

    Returns:
        An object with `train`, `validation` and `test`, each with
        `x`, float32 of shape `(N, D)`, standardised by the training songs,
        `y`, a dict of task name to float32 labels 0 or 1 of shape `(N,)`, and
        `rows`, their places in the arrays of the file; and with
        `features`, the names of the columns.

    Raises:
        FileNotFoundError: If the file is not in the folder.
        ValueError: If `folder` is no path, or the file is broken, lacks an array or holds other
            shapes or labels.

    Example:

    >>> import os, tempfile
    >>> import numpy as np
    >>> import kmtl
    >>> arrays = {"X_train": np.eye(10), "Y_train": np.eye(10, 2), "X_test": np.eye(10)}
    >>> arrays |= {"Y_test": np.eye(10, 2), "labels": ["calm", "sad"], "features": np.arange(10)}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.savez(os.path.join(folder, "emotions.npz"), **arrays)
    ...     data = kmtl.datasets.emotions(folder)  # name the folder of the real file instead
    >>> print(data.train.x.shape, sorted(data.test.y))
    (8, 10) ['calm', 'sad']

    Differences from the paper: none in the data; the validation part is ours.

    Reference: K. Trohidis, G. Tsoumakas, G. Kalliris, I. Vlahavas (2008), "Multi-Label
    Classification of Music into Emotions", ISMIR.
    """
    x_train, y_train, x_test, y_test, tasks, features = read_arrays(folder, FILE, KEYS, ORIGIN)
    for name, x, y in (("train", x_train, y_train), ("test", x_test, y_test)):
        if x.shape != (len(y), len(features)) or y.shape != (len(x), len(tasks)):
            raise ValueError(
                f"`X_{name}` must be of shape (M, D) for D `features`, `Y_{name}` (M, T) for T "
                f"`labels`. Received: {x.shape}, {y.shape}, {len(features)}, {len(tasks)}"
            )
        if others := sorted(set(np.unique(y).tolist()) - {0, 1}):
            raise ValueError(f"`Y_{name}` must hold 0 and 1. Received: {others}")
    tasks = distinct_names("labels", tasks)
    train, validation = held_out(len(x_train), VALIDATION, seed)
    columns = standardized(x_train[train], x_train[validation], x_test)
    labels = (y_train[train], y_train[validation], y_test)
    rows = (train, validation, np.arange(len(x_test)))
    return Splits(
        *(
            Examples(
                x=values,
                y={task: y[:, t].astype("float32") for t, task in enumerate(tasks)},
                rows=places,
            )
            for values, y, places in zip(columns, labels, rows, strict=True)
        ),
        features=tuple(str(name) for name in features),
    )
