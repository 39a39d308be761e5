"""Stops training when a loss is no longer finite, and says whose."""

import keras
import numpy as np

# Reading a loss waits for the device; now and then is enough, as a running mean that is not
# finite stays so until the epoch ends.
CHECK_EVERY = 32


class StopOnNonFiniteLoss(keras.callbacks.Callback):
    """Raises `FloatingPointError` with the names of the tasks whose loss is NaN or infinite."""

    async_safe = True  # under JAX, Keras then leaves logs on the device until they are read

    def on_train_batch_end(self, batch, logs=None):
        if batch % CHECK_EVERY == 0:
            self._check(logs, f"batch {batch}")

    def on_epoch_end(self, epoch, logs=None):
        self._check(logs, f"the end of epoch {epoch + 1}")

    def _check(self, logs, where):
        bad = {
            name: float(value)
            for name, value in (logs or {}).items()
            if name.endswith("loss")
            and not name.startswith("val_")
            and not np.isfinite(float(value))
        }
        if bad:
            tasks = sorted(n.removesuffix("_loss") for n in bad if n != "loss")
            culprit = f"the loss of task {', '.join(map(repr, tasks))}" if tasks else "the loss"
            raise FloatingPointError(
                f"Training needs finite losses; {culprit} is not at {where}. Received: {bad}"
            )
