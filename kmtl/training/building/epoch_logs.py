"""The logs of each epoch, for TensorBoard."""

import keras

from kmtl import backend


class EpochLogs(keras.callbacks.Callback):
    """Writes what `fit` logs after each epoch.

    Args:
        folder: Where to, or None for a worker that writes nothing: all have the same callbacks.
    """

    def __init__(self, folder: str | None):
        super().__init__()
        self._writer = None if folder is None else backend.summary_writer(folder)

    def on_epoch_end(self, epoch, logs=None):
        if self._writer is not None:
            for name, value in (logs or {}).items():
                self._writer.scalar(name, float(value), epoch)
            self._writer.flush()
