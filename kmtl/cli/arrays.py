"""Arrays from and to .npz files, with errors that name the flag."""

import io
import zipfile
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np


def read_arrays(
    flag: str, path: str, names: Collection[str], what: str = "input of the model"
) -> dict[str, np.ndarray]:
    """The named arrays of an .npz file; it may hold others, such as labels.

    Args:
        flag: The flag that named the file, for errors.
        path: The file.
        names: Names of the arrays.
        what: What each is of, for errors. Defaults to `"input of the model"`.

    Raises:
        FileNotFoundError: if there is no such file.
        OSError: if it cannot be read.
        ValueError: if it is no .npz file, is cut short, or lacks an array.
    """
    try:
        with open(path, "rb") as content, np.load(content, allow_pickle=False) as file:
            held = list(file)
            absent = sorted(set(names) - set(held))
            if not absent:
                return {name: file[name] for name in names}
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise FileNotFoundError(
            f"--{flag} must name an existing .npz file. Received: {path}"
        ) from None
    except (ValueError, EOFError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"--{flag} must name a whole .npz file of plain arrays, as `numpy.savez` writes. "
            f"Received: {path} ({error})"
        ) from error
    raise ValueError(
        f"--{flag} must hold an array for each {what}, {sorted(names)}. "
        f"Received: {path}, which holds {sorted(held)}"
    )


def npz_bytes(arrays: Mapping[str, np.ndarray]) -> bytes:
    """The contents of a compressed .npz file."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def write_file(flag: str, path: str, content: bytes) -> None:
    """Writes a file that a flag named, whole or not at all.

    Raises:
        OSError: if it cannot be written.
    """
    from kmtl.export.files import write_together

    if not path or Path(path).is_dir():
        raise IsADirectoryError(f"--{flag} must name a file. Received: {path or 'nothing'}")
    write_together({Path(path): content})
