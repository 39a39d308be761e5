"""Early stopping for runs that may go on from a backup."""

import json
import os
from pathlib import Path

import keras
import numpy as np


class ResumableEarlyStopping(keras.callbacks.EarlyStopping):
    """Keras's callback, which also remembers the best weights, and that it stopped, on disk.

    Args:
        folder: The backups' folder, or None where there are none.
        writes: Whether this process writes files.
        **arguments: Those of `keras.callbacks.EarlyStopping`.
    """

    def __init__(self, folder: Path | None, writes: bool, **arguments):
        super().__init__(restore_best_weights=True, **arguments)
        self._folder = folder
        self._writes = writes and folder is not None

    @staticmethod
    def epochs_left(folder: Path, epochs: int) -> int:
        """`epochs`, or those after which an earlier run in this folder stopped."""
        marker = folder / "stopped.json"
        if not marker.is_file():
            return epochs
        return min(epochs, json.loads(marker.read_text(encoding="utf-8"))["epochs"])

    def on_epoch_end(self, epoch, logs=None):
        """As in Keras, which only warns where nothing is called like the monitor."""
        if self.monitor not in (logs or {}):
            raise ValueError(
                "`training.early_stopping.monitor` must be one of the values in the logs, "
                f"{', '.join(sorted(logs or {}))}. Received: {self.monitor}"
            )
        before = self.best_weights
        super().on_epoch_end(epoch, logs)
        if not self._writes:
            return
        if self.best_weights is not before:
            self._write("best.npz", lambda file: np.savez(file, *self.best_weights))
        if self.stopped_epoch > 0:
            marker = json.dumps({"epochs": epoch + 1}).encode()
            self._write("stopped.json", lambda file: file.write(marker))

    def on_train_end(self, logs=None):
        """Nothing: `fit` may find the best weights later, in the last backup."""

    def restore(self) -> None:
        """Gives the model its best weights; after `fit`."""
        super().on_train_end()

    def get_state(self) -> dict:
        """What a backup is to hold of it."""
        return {
            "wait": self.wait,
            "best": None if self.best is None else float(self.best),
            "best_epoch": self.best_epoch,
            "stopped_epoch": self.stopped_epoch,
        }

    def set_state(self, state: dict) -> None:
        """The opposite of `get_state`; the weights come from the file beside the backup."""
        for name, value in state.items():
            setattr(self, name, value)
        if state["best"] is not None:
            with np.load(self._folder / "best.npz") as file:
                self.best_weights = [file[name] for name in file]

    def _write(self, name, write):
        self._folder.mkdir(parents=True, exist_ok=True)
        part = self._folder / f".{name}.part"
        with open(part, "wb") as file:
            write(file)
        os.replace(part, self._folder / name)
