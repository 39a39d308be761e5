"""Backups on disk: each a file that is there as a whole or not at all."""

import contextlib
import json
import os
import re
import warnings
import zipfile
from pathlib import Path

import numpy as np

META = "meta.json"
_NAME = re.compile(r"step-(\d{12})\.npz")


def write(folder: Path, step: int, arrays: dict[str, np.ndarray], meta: dict, keep: int) -> Path:
    """Writes a backup under another name, renames it, and removes all but the newest `keep`.

    Args:
        folder: Where backups are; made where it is missing.
        step: Training steps done so far.
        arrays: Name -> values.
        meta: What JSON can hold.
        keep: How many backups stay.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"step-{step:012d}.npz"
    part = folder / f".{path.name}.{os.getpid()}.part"
    try:
        with open(part, "wb") as file:
            text = np.frombuffer(json.dumps(meta).encode(), "uint8")
            np.savez(file, **arrays, **{META: text})
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
        _sync(folder)
    finally:
        part.unlink(missing_ok=True)
    for old in sorted(_numbered(folder).items(), reverse=True)[keep:]:
        old[1].unlink(missing_ok=True)
    for left in folder.glob(".step-*.part"):  # of a process that was killed while it wrote
        if not _is_alive(left):
            left.unlink(missing_ok=True)
    return path


def read_newest(folder: Path) -> tuple[dict[str, np.ndarray], dict] | None:
    """Arrays and JSON of the newest backup that can be read, or None where there is none.

    Raises:
        ValueError: if there are backups and none can be read.
    """
    failed = []
    for _, path in sorted(_numbered(folder).items(), reverse=True):
        try:
            with np.load(path) as file:  # checks each entry's CRC-32
                arrays = dict(file)
            meta = json.loads(arrays.pop(META).tobytes())
        except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile) as error:
            failed.append(f"{path.name} ({error})")
            continue
        if failed:
            warnings.warn(
                f"Backups that cannot be read are passed over: {', '.join(failed)}. Training goes "
                f"on from {path.name}",
                stacklevel=2,
            )
        return arrays, meta
    if failed:
        raise ValueError(
            "A backup must be readable; remove these to start anew, or restore them. Received: "
            f"{', '.join(failed)} in {folder}"
        )
    return None


def _numbered(folder):
    found = {p: _NAME.fullmatch(p.name) for p in folder.glob("step-*.npz")}
    return {int(match.group(1)): path for path, match in found.items() if match}


def _is_alive(part):
    pid = int(part.name.split(".")[-2])
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, 0)
        return True
    return False


def _sync(folder):
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
