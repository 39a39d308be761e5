"""What the data sets from files share: parts, held-out rows, clear errors for files."""

import contextlib
import dataclasses
import gzip
import os
import zipfile
import zlib
from collections.abc import Sequence

import numpy as np

# TypeError of a single array, which is no `.npz`; ValueError of texts and arrays.
_BROKEN = (EOFError, TypeError, ValueError, zipfile.BadZipFile, gzip.BadGzipFile, zlib.error)


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


def find_file(folder: str | os.PathLike, name: str, origin: str, packed: bool = True) -> str:
    """Path of a file of a folder.

    Args:
        folder: What the user named.
        name: The file's name, without `.gz`.
        origin: Where it is from, for the message.
        packed: Whether it may be packed by gzip. Defaults to `True`.

    Raises:
        FileNotFoundError: if it is not there.
        ValueError: if `folder` is no path.
    """
    if not isinstance(folder, (str, os.PathLike)):
        raise ValueError(f"`folder` must be the path of a folder. Received: folder={folder!r}")
    names = (name, f"{name}.gz") if packed else (name,)
    for found in names:
        path = os.path.join(folder, found)
        if os.path.isfile(path):
            return path
    raise FileNotFoundError(
        f"`folder` must hold the file {' or '.join(names)}, {origin}. "
        f"Received: folder={folder}, without that file"
    )


@contextlib.contextmanager
def _naming(path: str | os.PathLike, content: str):
    """Makes what reading a broken file raises a ValueError with its name."""
    try:
        yield
    except _BROKEN as error:
        raise ValueError(
            f"{os.path.basename(path)} must be a whole file of {content}. "
            f"Received: {path} ({error})"
        ) from error


def read_lines(path: str) -> list[str]:
    """Lines of a text in UTF-8, packed or not, without their ends.

    Raises:
        ValueError: if it is broken.
    """
    opened = gzip.open if path.endswith(".gz") else open
    with _naming(path, "text in UTF-8"), opened(path, "rt", encoding="utf-8") as file:
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
        ValueError: if `folder` is no path, or the file is broken or lacks an array.
    """
    return load_arrays(find_file(folder, name, origin, packed=False), keys)


def load_arrays(path: str | os.PathLike, keys: Sequence[str]) -> list[np.ndarray]:
    """Arrays of an `.npz` file that is there.

    Raises:
        ValueError: if it is broken or lacks an array.
    """
    with _naming(path, "arrays, as `numpy.savez` writes"), np.load(path) as file:
        held = list(file)
        arrays = [file[key] for key in keys if key in held]
    if len(arrays) < len(keys):
        raise ValueError(
            f"{os.path.basename(path)} must hold the arrays {', '.join(keys)}. "
            f"Received: {', '.join(held)}"
        )
    return arrays


def distinct_names(key: str, names: np.ndarray) -> list[str]:
    """Names of an array.

    Raises:
        ValueError: if two are equal.
    """
    names = [str(name) for name in names]
    if len(set(names)) < len(names):
        raise ValueError(f"`{key}` must be distinct names. Received: {names}")
    return names


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
