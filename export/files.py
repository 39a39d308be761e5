"""Writing files so that nobody ever sees half of one."""

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path


def check_replaceable(path: Path) -> None:
    """Raises FileExistsError if the JSON file beside a model is there and not one of kmtl's."""
    if not path.is_file():
        return
    try:
        ours = "kmtl_version" in json.loads(path.read_bytes())
    except (ValueError, TypeError):
        ours = False
    if not ours:
        raise FileExistsError(
            errno.EEXIST,
            "The JSON file beside the model must be new or one that kmtl wrote; choose another "
            "name for the model. Received: a file of somebody else's",
            str(path),
        )


def write_together(contents: Mapping[Path, bytes]) -> None:
    """Writes several files: all under temporary names first, renamed when all are complete.

    Args:
        contents: Path -> bytes. Folders are made where they are missing.

    Raises:
        OSError: naming the path, if one cannot be written; files that stood there before are
            untouched and no temporary file is left.
    """
    parts = {path: _beside(path, "part") for path in contents}
    earlier = {path: _beside(path, "earlier") for path in contents}
    done = []
    try:
        for path, content in contents.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.is_dir():
                raise IsADirectoryError(errno.EISDIR, "is a folder", str(path))
            with open(parts[path], "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        for path, part in parts.items():
            if path.exists():
                shutil.copy2(path, earlier[path])
            os.replace(part, path)
            done.append(path)
    except OSError as error:
        for written in done:
            if earlier[written].exists():
                os.replace(earlier[written], written)
            else:
                written.unlink()
        raise OSError(
            error.errno, f"The files must be writable. Received: {error.strerror}", str(path)
        ) from error
    finally:
        for leftover in (*parts.values(), *earlier.values()):
            with contextlib.suppress(OSError):  # say what went wrong first, not this
                leftover.unlink(missing_ok=True)


@contextlib.contextmanager
def replaced_folder(path: Path) -> Iterator[Path]:
    """A new folder to write into, which takes the place of `path` when the block ends well.

    No system call exchanges two folders everywhere: an earlier one is away for the moment
    between two renames.

    Args:
        path: The folder to make, or to replace as a whole. Its parents are made where they
            are missing.

    Raises:
        OSError: if it cannot be written; the earlier folder is then untouched, as it is when
            the block raises, and nothing else is left.
    """
    part, earlier = _beside(path, "part"), _beside(path, "earlier")
    path.parent.mkdir(parents=True, exist_ok=True)
    part.mkdir()
    try:
        yield part
        for file in part.rglob("*"):
            if file.is_file():
                with open(file, "rb") as written:
                    os.fsync(written.fileno())
        if path.exists():
            os.rename(path, earlier)
        try:
            os.rename(part, path)
        except OSError:
            if earlier.exists():
                os.rename(earlier, path)
            raise
    finally:
        for leftover in (part, earlier):
            shutil.rmtree(leftover, ignore_errors=True)


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.{suffix}")
