"""Where a run writes: that it can is known before it trains."""

import tempfile
from pathlib import Path

from kmtl.export.files import check_replaceable
from kmtl.training.configuration.schema import Config


def check_places(config: Config) -> None:
    """Raises ValueError, naming the key, for what cannot be written; makes nothing."""
    training = config.training
    for key, path in _files(config).items():
        if Path(path).is_dir():
            raise ValueError(f"`{key}` must name a file. Received: {path}, a folder")
        _check_folder(key, path, Path(path).parent)
    for key, path in {
        "training.backup.folder": training.backup and training.backup.folder,
        "training.tensorboard": training.tensorboard,
    }.items():
        if path:
            _check_folder(key, path, Path(path))
    for i, export in enumerate(config.export):
        try:
            check_replaceable(Path(export.path).with_suffix(".json"))
        except OSError as error:
            raise ValueError(f"`export.{i}.path`: {error.strerror}, {error.filename}") from error


def make_folders(config: Config) -> None:
    """The folders of all files."""
    for path in _files(config).values():
        Path(path).parent.mkdir(parents=True, exist_ok=True)


def _files(config) -> dict[str, str]:
    files = {"model": config.model, "results": config.results}
    files |= {f"export.{i}.path": export.path for i, export in enumerate(config.export)}
    return {key: path for key, path in files.items() if path is not None}


def _check_folder(key, path, folder):
    """Requires that it can be made, and files in it."""
    existing = folder.absolute()
    while not existing.exists():
        existing = existing.parent
    try:
        with tempfile.TemporaryDirectory(prefix=".kmtl-", dir=existing):
            pass
    except OSError as error:
        raise ValueError(
            f"`{key}` must be where a folder can be made and written. "
            f"Received: {path} ({existing}: {error.strerror})"
        ) from error
