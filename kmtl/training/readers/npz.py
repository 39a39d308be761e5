"""Arrays of .npz files."""

import zipfile
from collections.abc import Collection

import numpy as np

from kmtl.training.configuration.complaints import nearest
from kmtl.training.readers.files import files_of
from kmtl.training.readers.labels import standard_labels

# ValueError of arrays of objects, which would have to be unpickled.
_UNREADABLE = (EOFError, TypeError, AttributeError, OSError, ValueError, zipfile.BadZipFile)


def read(source, where: str, split: str):
    """The arrays of all files, one after the other."""
    del split
    task_keys = {name: task.key or name for name, task in source.tasks.items()}
    wanted = {*source.inputs.values(), *task_keys.values()}
    parts = [_arrays(path, wanted, where) for path in files_of(source.path, where)]
    arrays = {key: np.concatenate([part[key] for part in parts]) for key in wanted}
    labels = {name: arrays[key] for name, key in task_keys.items()}
    x = {name: arrays[key] for name, key in source.inputs.items()}
    return x, standard_labels(labels, source.tasks, where)


def _arrays(path, wanted: Collection[str], where):
    try:
        with np.load(path, allow_pickle=False) as file:
            names = list(file)
            arrays = {key: file[key] for key in wanted if key in names}
    except _UNREADABLE as error:
        raise ValueError(
            f"`{where}.path` must name .npz files of numbers, as `numpy.savez` writes. "
            f"Received: {path} ({error})"
        ) from error
    check_present(wanted, names, where, path)
    lengths = {key: len(array) if array.ndim else 0 for key, array in arrays.items()}
    if len(set(lengths.values())) > 1 or not all(array.ndim for array in arrays.values()):
        raise ValueError(
            f"`{where}.path` must name files whose arrays have one length, that of the examples. "
            f"Received: {path} with lengths {lengths}"
        )
    return arrays


def check_present(wanted: Collection[str], held: Collection[str], where: str, path: str) -> None:
    """Raises ValueError, with the nearest name, for what a file does not hold."""
    for name in sorted(set(wanted) - set(held)):
        likely = nearest(name, held)
        hint = "" if likely is None else f"; the nearest is {likely}"
        raise ValueError(
            f"`{where}` must name what its files hold, {', '.join(sorted(held)[:20])}{hint}. "
            f"Received: {name}, for {path}"
        )
