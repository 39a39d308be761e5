"""The seed that a backup's run began with."""

import json
from pathlib import Path

from kmtl.training.configuration.schema import Training

_FILE = "seed.json"


def check_seed(training: Training) -> None:
    """Raises ValueError if the backup to go on from is of a run with another seed.

    It would go on with that run's random numbers, whatever the configuration says now.
    """
    if training.backup is None:
        return
    folder = Path(training.backup.folder)
    note = folder / _FILE
    if not note.is_file() or not any(folder.glob("step-*.npz")):
        return
    begun = json.loads(note.read_text(encoding="utf-8"))["seed"]
    if begun != training.seed:
        raise ValueError(
            f"`training.seed` must be {begun}, with which the run in `training.backup.folder` "
            f"began; choose another folder for another run. Received: {training.seed}"
        )


def note_seed(training: Training) -> None:
    """Writes it down for `check_seed`; on the first worker."""
    if training.backup is not None:
        folder = Path(training.backup.folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / _FILE).write_text(json.dumps({"seed": training.seed}), encoding="utf-8")
