"""Tables of numbers and words as matrices."""

import csv
from collections.abc import Sequence

import numpy as np

from kmtl.datasets.splits import Examples, Splits, read_lines, standardized


def read_table(path: str, columns: Sequence[str]) -> dict[str, np.ndarray]:
    """Column name -> texts, of a CSV file with a line of names, packed or not.

    Args:
        path: The file.
        columns: Names that it must have.

    Raises:
        ValueError: if it is broken, lacks one of them, or a line has more or fewer fields.
    """
    names, *lines = [*csv.reader(read_lines(path))] or [[]]
    if lacking := [name for name in columns if name not in names]:
        raise ValueError(
            f"The file must have the columns {', '.join(columns)}. Received: none of {lacking}"
        )
    for number, line in enumerate(lines, start=2):
        if len(line) != len(names):
            raise ValueError(
                f"Every line must have {len(names)} fields. Received: {len(line)} in line {number}"
            )
    table = np.array(lines, dtype=str).reshape(len(lines), len(names))
    return {name: table[:, i] for i, name in enumerate(names)}


def numbers(table: dict[str, np.ndarray], column: str) -> np.ndarray:
    """A column as float32.

    Raises:
        ValueError: if a field is no number.
    """
    try:
        return table[column].astype("float32")
    except ValueError as error:
        raise ValueError(f"Column {column} must hold numbers. Received: {error}") from None


def encode(
    table: dict[str, np.ndarray],
    numeric: Sequence[str],
    categorical: Sequence[str],
    parts: Sequence[np.ndarray],
    y: dict[str, np.ndarray],
) -> Splits:
    """Three parts of a table: numbers standardised, words as one column for each value.

    Mean, deviation and the values that words can have are those of the training rows; a value
    that they lack is 0 in all of its columns.

    Args:
        table: Column name -> texts.
        numeric: Columns of numbers.
        categorical: Columns of words.
        parts: Row numbers of train, validation and test.
        y: Task name -> labels of all rows.
    """
    values = np.stack([numbers(table, column) for column in numeric], axis=1)
    columns = standardized(*(values[rows] for rows in parts))
    features = list(numeric)
    for column in categorical:
        known = np.unique(table[column][parts[0]])
        features += [f"{column}={value}" for value in known]
        for i, rows in enumerate(parts):
            marks = table[column][rows][:, None] == known
            columns[i] = np.concatenate([columns[i], marks.astype("float32")], axis=1)
    made = [
        Examples(x, {task: labels[rows] for task, labels in y.items()}, rows)
        for x, rows in zip(columns, parts, strict=True)
    ]
    return Splits(*made, features=tuple(features))
