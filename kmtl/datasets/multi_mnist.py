"""Multi-MNIST: the two-task benchmark of the multi-task weighting papers."""

import os

import keras
import numpy as np

from kmtl.datasets.overlay import (
    Splits,
    check_counts,
    generators,
    make_split,
    overlay,
    split_sources,
)
from kmtl.datasets.splits import load_arrays

SIZE = 28
OFFSET = 8  # 28 + 8 = the 36x36 canvas of the papers

# 50000 and 10000 of MNIST's 60000 training images.
SOURCE_FRACTIONS = (5 / 6, 1 / 6)

BATCH = 1024  # pairs rendered at a time

KEYS = ("x_train", "y_train", "x_test", "y_test")


def multi_mnist(
    path: str | os.PathLike | None = None,
    num_train: int = 60_000,
    num_validation: int = 10_000,
    num_test: int = 10_000,
    seed: int = 0,
) -> Splits:
    """Two overlaid MNIST digits per image; the tasks "left" and "right" name one each.

    The usual first benchmark for weighting methods: use it to set methods against published ones,
    and `kmtl.datasets.multi_digits` where seconds count or nothing may be downloaded.

    The left digit lies at the top left of a 36x36 canvas, the right one at the bottom right,
    overlapped by pixelwise maximum; the canvas is resized to 28x28 (bilinear, half-pixel centres,
    no antialiasing). Training and validation pairs come from different images of the official
    training split (5/6 and 1/6 of each class, the same ones for every seed), test pairs from the
    official test split.

    Args:
        path: `.npz` file with the arrays `x_train`, `y_train`, `x_test` and `y_test`, laid out as
            in `keras.datasets.mnist`: uint8 images of shape `(S, 28, 28)`, digits of shape `(S,)`.
            `None` loads MNIST through `keras.datasets.mnist`, which downloads it once. Defaults to
            `None`.
        num_train: number of training pairs. Defaults to `60_000`.
        num_validation: number of validation pairs. Defaults to `10_000`.
        num_test: number of test pairs. Defaults to `10_000`.
        seed: non-negative int that decides which digits meet. A split depends on the seed and its
            own size only. Defaults to `0`.

    Returns:
        An object with the attributes `train`, `validation` and `test`, each with
        `x`, float32 in [0, 1] of shape `(N, 28, 28, 1)`,
        `y`, a dict `{"left": ..., "right": ...}` of int32 digits 0 to 9 of shape `(N,)`, and
        `sources`, a like dict of indices into `x_train` (train, validation) or `x_test` (test).

    Raises:
        ValueError: If a number of pairs is below 1, or if the file is broken, lacks an array, holds
            one of another shape or dtype, or holds fewer than two training images of some digit.
        FileNotFoundError: If there is no file at `path`.

    Example:

    >>> import os, tempfile
    >>> import numpy as np
    >>> import kmtl
    >>> images, digits = np.zeros((20, 28, 28), "uint8"), np.arange(20) % 10
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "mnist.npz")  # leave out `path` to use the real MNIST
    ...     np.savez(path, x_train=images, y_train=digits, x_test=images, y_test=digits)
    ...     data = kmtl.datasets.multi_mnist(path, num_train=6, num_validation=2, num_test=2)
    >>> data.train.x.shape
    (6, 28, 28, 1)

    Differences from the paper: Sabour et al. shift each digit at random and never pair equal
    digits; this follows Sener and Koltun, who do neither. Their code puts the second digit 6
    pixels, not 8, from the top left and resizes by nearest neighbour; here it lies in the corner,
    as their text says. They hold out no validation images, and draw the second digit with
    replacement; here each image is used equally often (to one) on each side. So hold gaps between
    methods against theirs, not accuracies.

    Reference:
        - Sabour, Frosst and Hinton, 2017, "Dynamic Routing Between Capsules", arXiv:1710.09829,
          section 6.1.
        - Sener and Koltun, 2018, "Multi-Task Learning as Multi-Objective Optimization",
          arXiv:1810.04650, section 5.1 and appendix C.1.
    """
    check_counts(num_train=num_train, num_validation=num_validation, num_test=num_test)
    if path is None:
        (x_train, y_train), (x_test, y_test) = keras.datasets.mnist.load_data()
    else:
        x_train, y_train, x_test, y_test = _read(path)
    train_part, validation_part = split_sources(y_train, SOURCE_FRACTIONS)
    train_rng, validation_rng, test_rng = generators(seed)
    return Splits(
        train=make_split(x_train, y_train, train_part, num_train, train_rng, _render),
        validation=make_split(
            x_train, y_train, validation_part, num_validation, validation_rng, _render
        ),
        test=make_split(x_test, y_test, np.arange(len(x_test)), num_test, test_rng, _render),
    )


def _read(path: str | os.PathLike) -> list[np.ndarray]:
    if not os.path.isfile(path):
        raise FileNotFoundError(f"`path` must name an existing .npz file. Received: path={path}")
    arrays = dict(zip(KEYS, load_arrays(path, KEYS), strict=True))
    for part in ("train", "test"):
        x, y = arrays[f"x_{part}"], arrays[f"y_{part}"]
        if x.dtype != "uint8" or x.shape != (len(y), SIZE, SIZE) or y.ndim != 1:
            raise ValueError(
                f"`x_{part}` must be uint8 of shape (S, {SIZE}, {SIZE}) and `y_{part}` of shape "
                f"(S,). Received: x_{part} {x.dtype} {x.shape}, y_{part} {y.shape}"
            )
    digits, counts = np.unique(arrays["y_train"], return_counts=True)
    if counts.min() < 2:
        raise ValueError(
            "Each digit in `y_train` must have at least 2 images, one to train with and one to "
            f"validate with. Received: {counts.min()} of digit {digits[counts.argmin()]}"
        )
    return [arrays[key] for key in KEYS]


def _render(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Overlays uint8 digits and shrinks the canvas; float32 in [0, 1], `(N, 28, 28)`."""
    images = np.empty(left.shape, "float32")
    # In batches: the float32 canvases of all pairs at once would take several hundred megabytes.
    for start in range(0, len(left), BATCH):
        batch = slice(start, start + BATCH)
        images[batch] = _shrink(overlay(left[batch], right[batch], OFFSET))
    return images


def _shrink(canvas: np.ndarray) -> np.ndarray:
    """Resizes `(N, 36, 36)` to `(N, 28, 28)` by bilinear interpolation, in NumPy.

    NumPy, so that every backend sees the same pixels.
    """
    # Position, in pixels of the canvas, of each output pixel's centre; never beyond the last pixel.
    position = (np.arange(SIZE) + 0.5) * canvas.shape[1] / SIZE - 0.5
    first = position.astype(int)
    weight = (position - first).astype("float32")
    scaled = canvas.astype("float32") / 255
    rows = scaled[:, first] * (1 - weight[:, None]) + scaled[:, first + 1] * weight[:, None]
    return rows[:, :, first] * (1 - weight) + rows[:, :, first + 1] * weight
