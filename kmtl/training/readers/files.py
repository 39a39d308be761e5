"""The files that a path means."""

import glob


def files_of(path: str, where: str) -> list[str]:
    """The files of a path with wildcards, in the order of their names.

    Raises:
        FileNotFoundError: if there is none.
    """
    found = sorted(glob.glob(path, recursive=True))
    if not found:
        raise FileNotFoundError(f"`{where}.path` must name existing files. Received: {path}")
    return found
