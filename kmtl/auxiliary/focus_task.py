"""Where to look: a region of the input as a dense helper task."""

from collections.abc import Callable

import keras
import numpy as np
from keras.optimizers.schedules import LearningRateSchedule

from kmtl.auxiliary.auxiliary_task import AuxiliaryTask
from kmtl.auxiliary.checks import check_not_constant, is_missing


class FocusTask(AuxiliaryTask):
    """Marks the region of the input that matters, so that the trunk does not overlook it.

    Use it when the answer hangs on a small part of the input that a network may ignore: the lane
    marks when steering, the words that name a thing in a text. Such regions are small, so both
    classes are weighed to count alike over the training data.

    ```
    share = share of 1 among the training labels
    loss  = -(1 - share) * y * log(p) - share * (1 - y) * log(1 - p)      # at each place
    p     = sigmoid(head(features))
    ```

    `share` is measured by `fit`, or by the first arrays that
    `kmtl.auxiliary.AuxiliaryTasks.add_targets` gets for training; do that before `compile`.

    Args:
        name: The task's name, new to the model.
        region: `(x, y) -> labels`, 1 inside and 0 outside, or the name of the entry of `y` that
            holds them; of the shape of the head's output, which ends in an axis of 1.
        head: A layer or model that gives logits, such as `Conv2D(1, 1)`.
        features: Name of the layer of your model whose output the head reads, or that tensor.
        share: Share of 1, between 0 and 1. Defaults to `None`, measured.
        weight: Factor of the loss. Defaults to `1.0`.
        missing: Label of places that are not known. Defaults to `None`, all are.
        metrics: A metric or a list of them. Defaults to `None`.

    Raises:
        ValueError: as `kmtl.auxiliary.AuxiliaryTask`; for a share that is not between 0 and 1,
            labels that are neither 0, 1 nor missing, and training labels all alike.

    Example:

    >>> import keras
    >>> import numpy as np
    >>> import kmtl
    >>> lanes = kmtl.auxiliary.FocusTask(
    ...     "lanes", lambda x, y: x > 0.9, keras.layers.Conv2D(1, 1), features="trunk"
    ... )
    >>> lanes.fit(np.linspace(0, 1, 100).reshape(1, 10, 10, 1), {})
    >>> print(lanes.share)
    0.1

    Differences from the paper: Caruana predicts the lane marks' positions; a mask is the same
    for a dense head. The balance of the classes is that of Xie and Tu (2015), over the training
    data instead of each image, so that it does not change with the batch.

    References:

    - R. Caruana (1997), "Multitask Learning", Machine Learning 28, its use "extra
      tasks to focus attention".
    - S. Xie, Z. Tu (2015), "Holistically-Nested Edge Detection", ICCV, arXiv:1504.06375,
      equation (2).
    """

    def __init__(
        self,
        name: str,
        region: Callable | str,
        head: Callable,
        features: str | keras.KerasTensor,
        share: float | None = None,
        weight: float | LearningRateSchedule = 1.0,
        missing: float | None = None,
        metrics=None,
    ):
        super().__init__(name, region, head, None, features, weight, missing, metrics)
        if share is not None and not 0 < share < 1:
            raise ValueError(f"`share` must be between 0 and 1. Received: share={share}")
        self.share = share
        self._choose_loss()

    @property
    def fitted(self) -> bool:
        """Whether the share is known."""
        return self.share is not None

    def fit(self, x, y) -> None:
        """Measures the share of 1 among the present labels.

        Args:
            x: Inputs of the training data.
            y: Its labels.
        """
        labels = self.targets(x, y)[self.name]
        missing = self.missing.get(self.name)
        check_not_constant(self.name, labels, missing)
        present = labels if missing is None else labels[~is_missing(labels, missing)]
        self.share = float(present.mean(dtype="float64"))
        self._choose_loss()

    def targets(self, x, y):
        labels = np.asarray(super().targets(x, y)[self.name], "float32")
        known = (labels == 0) | (labels == 1)
        if (missing := self.missing.get(self.name)) is not None:
            known |= is_missing(labels, missing)
        if not known.all():
            raise ValueError(
                "The labels of a region must be 1 inside and 0 outside. "
                f"Received: {labels[~known][0]} for {self.name!r}"
            )
        return {self.name: labels}

    def _choose_loss(self):
        if self.share is not None:
            # Without focusing, gamma=0, it is the balanced cross-entropy.
            self.losses[self.name] = keras.losses.BinaryFocalCrossentropy(
                apply_class_balancing=True, alpha=1.0 - self.share, gamma=0.0, from_logits=True
            )
