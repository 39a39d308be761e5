"""Columns of .csv and Parquet files."""

import numpy as np

from kmtl.training.readers.files import files_of
from kmtl.training.readers.labels import standard_labels
from kmtl.training.readers.npz import check_present


def read(source, where: str, split: str):
    """Inputs as float32 matrices of their columns; an empty cell is an absent label."""
    import pandas as pd

    del split
    task_columns = {name: task.key or name for name, task in source.tasks.items()}
    wanted = [*task_columns.values(), *sum(source.inputs.values(), [])]
    wanted = list(dict.fromkeys(wanted))
    parts = [_frame(path, wanted, source.format, where) for path in files_of(source.path, where)]
    frame = pd.concat(parts, ignore_index=True)
    if frame.empty:
        raise ValueError(
            f"`{where}.path` must name files with examples. Received: {source.path}, without a row"
        )
    x = {
        name: np.stack([_inputs(frame[c], f"{where}.inputs.{name}") for c in columns], axis=1)
        for name, columns in source.inputs.items()
    }
    labels = {name: _labels(frame[c], f"{where}.tasks.{name}") for name, c in task_columns.items()}
    return x, standard_labels(labels, source.tasks, where)


def _frame(path, wanted, kind, where):
    import pandas as pd

    try:
        if kind == "csv":
            check_present(wanted, list(pd.read_csv(path, nrows=0)), where, path)
            return pd.read_csv(path, usecols=wanted)
        import pyarrow.parquet

        check_present(wanted, pyarrow.parquet.read_schema(path).names, where, path)
        return pd.read_parquet(path, columns=wanted)
    except (OSError, UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise ValueError(
            f"`{where}.path` must name whole {kind} files. Received: {path} ({error})"
        ) from error
    except ValueError as error:
        if "Received: " in str(error) or "pyarrow" not in type(error).__module__:
            raise
        raise ValueError(
            f"`{where}.path` must name whole {kind} files. Received: {path} ({error})"
        ) from error


def _labels(column, key):
    """A column as NumPy has it, NaN where cells are empty."""
    _check_numbers(column, key)
    return column.to_numpy("float64", na_value=np.nan) if column.isna().any() else column.to_numpy()


def _inputs(column, key):
    """A column that must have a number in every row."""
    _check_numbers(column, key)
    if blanks := int(column.isna().sum()):
        raise ValueError(
            f"`{key}` must have a number in every row. Received: {blanks} empty cells in "
            f"column {column.name!r}"
        )
    return column.to_numpy("float32")


def _check_numbers(column, key):
    from pandas.api import types

    if not (types.is_numeric_dtype(column) or types.is_bool_dtype(column)):
        example = next((v for v in column if isinstance(v, str)), column.dtype)
        raise ValueError(
            f"`{key}` must name columns of numbers. Received: {example!r} in column {column.name!r}"
        )
