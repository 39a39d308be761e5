"""USPS: handwritten digits of another origin than MNIST's."""

import os

import numpy as np

from kmtl.datasets.splits import Examples, Splits, held_out, read_arrays

FILE = "usps.npz"
KEYS = ("x_train", "y_train", "x_test", "y_test")
ORIGIN = (
    "with the arrays of the files zip.train and zip.test of The Elements of Statistical "
    "Learning, brightness from 0 to 1"
)
SHAPE = (16, 16)


def usps(folder: str | os.PathLike, seed: int = 0) -> Splits:
    """9298 digits from envelopes, 16 by 16 pixels, task "digit".

    Use it as the other domain of MNIST, for `kmtl.auxiliary.AdversarialTask`: a network that was
    trained on one of the two does badly on the other. Crop MNIST's images to 24 by 24 and resize
    them to 16 by 16 first.

    The data are not part of kmtl. Test images are those of the official test file; validation
    is a tenth of the official training images.

    Args:
        folder: Folder with the file `usps.npz`, which has the arrays `x_train` and `x_test`, of
            shape `(M, 16, 16)` and between 0 and 1, and `y_train` and `y_test`, `(M,)`.
        seed: Of the choice of validation images. Defaults to `0`.

    Returns:
        An object with `train`, `validation` and `test`, each with
        `x`, float32 in [0, 1] of shape `(N, 16, 16, 1)`,
        `y`, a dict `{"digit": ...}` of int32 digits 0 to 9 of shape `(N,)`, and
        `rows`, their places in the arrays of the file.

    Raises:
        FileNotFoundError: If the file is not in the folder.
        ValueError: If `folder` is no path, or the file is broken, lacks an array or holds other
            values.

    Example:

    >>> import os, tempfile
    >>> import numpy as np
    >>> import kmtl
    >>> arrays = {"x_train": np.zeros((20, 16, 16)), "y_train": np.arange(20) % 10}
    >>> arrays |= {"x_test": np.zeros((10, 16, 16)), "y_test": np.arange(10)}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.savez(os.path.join(folder, "usps.npz"), **arrays)
    ...     data = kmtl.datasets.usps(folder)  # name the folder of the real file instead
    >>> print(data.train.x.shape, data.validation.y["digit"])
    (18, 16, 16, 1) [1 8]

    Differences from the paper: none; the validation part is ours.

    Reference: J. J. Hull (1994), "A Database for Handwritten Text Recognition Research", IEEE
    Transactions on Pattern Analysis and Machine Intelligence 16(5).
    """
    x_train, y_train, x_test, y_test = read_arrays(folder, FILE, KEYS, ORIGIN)
    for name, x, y in (("train", x_train, y_train), ("test", x_test, y_test)):
        _check(name, x, y)
    train, validation = held_out(len(x_train), 0.1, seed)
    return Splits(
        *(
            Examples(
                x=x[rows, ..., None].astype("float32"),
                y={"digit": y[rows].astype("int32")},
                rows=rows,
            )
            for x, y, rows in (
                (x_train, y_train, train),
                (x_train, y_train, validation),
                (x_test, y_test, np.arange(len(x_test))),
            )
        )
    )


def _check(name, x, y):
    if x.shape != (len(y), *SHAPE) or y.ndim != 1:
        raise ValueError(
            f"`x_{name}` must be of shape (M, 16, 16), `y_{name}` (M,). "
            f"Received: {x.shape}, {y.shape}"
        )
    if len(x) and not (x.min() >= 0 and x.max() <= 1):
        raise ValueError(f"`x_{name}` must be between 0 and 1. Received: {x.min()} to {x.max()}")
    if others := sorted(set(np.unique(y).tolist()) - set(range(10))):
        raise ValueError(f"`y_{name}` must hold digits. Received: {others}")
