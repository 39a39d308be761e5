"""Writing files so that nobody ever sees half of one."""

import os
from collections.abc import Mapping
from pathlib import Path


def write_together(contents: Mapping[Path, bytes]) -> None:
    """Writes several files: all under temporary names first, renamed when all are complete.

    Args:
        contents: Path -> bytes. Folders are made where they are missing.

    Raises:
        OSError: naming the path, if one cannot be written; files that stood there before are
            untouched and no temporary file is left.
    """
    temporary = {path: path.with_name(f".{path.name}.{os.getpid()}.part") for path in contents}
    try:
        for path, content in contents.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(temporary[path], "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        for path, part in temporary.items():
            os.replace(part, path)
    except OSError as error:
        raise OSError(
            error.errno,
            f"The files must be writable. Received: {error.strerror}",
            str(path),
        ) from error
    finally:
        for part in temporary.values():
            part.unlink(missing_ok=True)
