"""What a weighting needs to hear of the epochs."""

import warnings

import keras
from keras import ops

from kmtl.weighting.gradient import GradientWeighting


class WeightingEpochs(keras.callbacks.Callback):
    """Tells the model's weighting that an epoch begins, and the user of steps it skipped."""

    async_safe = True  # under JAX, Keras then leaves logs on the device until they are read

    def on_epoch_begin(self, epoch, logs=None):
        if self.model.weighting is not None:
            self.model.weighting.start_epoch()
            self._skipped = self._count()

    def on_epoch_end(self, epoch, logs=None):
        count = self._count()
        new = {t: count[t] - self._skipped[t] for t in count if count[t] > self._skipped[t]}
        if new:
            warnings.warn(
                f"Epoch {epoch + 1}: steps were skipped because a gradient was not finite. "
                f"Steps by task: {new}",
                stacklevel=2,
            )

    def _count(self):
        rule = self.model.weighting
        if not isinstance(rule, GradientWeighting):
            return {}
        values = ops.convert_to_numpy(rule.skipped.value).astype(int).tolist()
        return dict(zip(rule.task_names, values, strict=True))
