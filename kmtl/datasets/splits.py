"""What the data sets from files share: parts, held-out rows, clear errors for files."""

import dataclasses
import gzip
import os
from collections.abc import Sequence

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class Examples:
    """One part of a data set.

    Attributes:
        x: Inputs, one in each row.
        y: Task name -> labels, of shape `(N,)`.
        rows: The examples' rows in the file, `(N,)`.
    """

    x: np.ndarray
    y: dict[str, np.ndarray]
    rows: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Splits:
    """The `Examples` to fit, those to choose with and those to report.

    Attributes:
        features: Names of the columns of `x`, or None where they have none.
    """

    train: Examples
    validation: Examples
    test: Examples
    features: tuple[str, ...] | None = None


def find_file(folder: str | os.PathLike, name: str, origin: str) -> str:
    """Path of a file of a folder, packed by gzip or not.

    Args:
        folder: What the user named.
        name: The file's name, without `.gz`.
        origin: Where it is from, for the message.

    Raises:
        FileNotFoundError: if it is not there.
    """
    for found in (name, f"{name}.gz"):
        path = os.path.join(folder, found)
        if os.path.isfile(path):
            return path
    raise FileNotFoundError(
        f"`folder` must hold the file {name} or {name}.gz, {origin}. "
        f"Received: folder={folder}, without that file"
    )


def read_lines(path: str) -> list[str]:
    """Lines of a text in UTF-8, packed or not, without their ends."""
    with (gzip.open if path.endswith(".gz") else open)(path, "rt", encoding="utf-8") as file:
        return [line.rstrip("\r\n") for line in file]


def read_arrays(
    folder: str | os.PathLike, name: str, keys: Sequence[str], origin: str
) -> list[np.ndarray]:
    """Arrays of an `.npz` file.

    Args:
        folder: What the user named.
        name: The file's name.
        keys: The arrays' names.
        origin: Where the file is from, for the message.

    Raises:
        FileNotFoundError: if the file is not there.
        ValueError: if it lacks an array.
    """
    path = os.path.join(folder, name)
    if not os.path.isfile(path):
        raise FileNotFoundError(
            f"`folder` must hold the file {name}, {origin}. "
            f"Received: folder={folder}, without that file"
        )
    with np.load(path) as file:
        if not set(keys) <= set(file):
            raise ValueError(
                f"{name} must hold the arrays {', '.join(keys)}. Received: {', '.join(file)}"
            )
        return [file[key] for key in keys]


def held_out(size: int, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers to keep and to hold out, both in their order.

    Args:
        size: Number of rows.
        share: Share to hold out, rounded to whole rows.
        seed: Of the choice.
    """
    order = np.random.RandomState(seed).permutation(size)
    count = round(share * size)
    return np.sort(order[count:]), np.sort(order[:count])


def standardized(train: np.ndarray, *others: np.ndarray) -> list[np.ndarray]:
    """Columns minus the training rows' mean, by their deviation, as float32.

    A column that is constant in the training rows becomes 0 there and is only shifted elsewhere.

    Args:
        train: `(N, D)`, the rows that are measured.
        *others: Arrays of the same columns.
    """
    train = np.asarray(train, "float64")
    mean, deviation = train.mean(axis=0), train.std(axis=0)
    deviation = np.where(deviation > 0, deviation, 1.0)
    return [((np.asarray(x) - mean) / deviation).astype("float32") for x in (train, *others)]
