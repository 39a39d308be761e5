"""The networks that the demo compares, all made of the same small backbone."""

from collections.abc import Sequence

import keras
from keras import layers

from kmtl.models import (
    CrossStitchNetwork,
    FactorizedNetwork,
    HardSharing,
    MultiTaskModel,
    SluiceNetwork,
)

TASKS = ("left", "right")
CLASSES = 10
IMAGE_SHAPE = (10, 10, 1)
WIDTH = 32

SINGLE_TASK = "single_task"
PLAIN_SUM = "plain_sum"


def stages() -> list:
    """One tower. Its stages have one shape, (5, 5, WIDTH), so that every network can mix them."""
    first = layers.Conv2D(WIDTH, 3, padding="same", activation="relu", name="conv_1")
    second = layers.Conv2D(WIDTH, 3, padding="same", activation="relu", name="conv_2")
    return [[first, layers.MaxPooling2D(name="pool")], [second]]


def heads(tasks: Sequence[str]) -> dict:
    """A classifier for each task, on the tower's features."""
    return {
        task: [layers.Flatten(name=f"{task}_flatten"), layers.Dense(CLASSES, name=f"{task}_logits")]
        for task in tasks
    }


def single_task(task: str) -> MultiTaskModel:
    """The baseline: the tower with one head."""
    return _hard_sharing(heads([task]))


def _hard_sharing(of_tasks):
    trunk = [layer for stage in stages() for layer in stage]
    return HardSharing(trunk, of_tasks, inputs=_image())


# Where a network has settings, they were chosen on the validation images.
NETWORKS = {
    PLAIN_SUM: lambda: _hard_sharing(heads(TASKS)),  # trained on the sum of the losses
    "hard_sharing": lambda: _hard_sharing(heads(TASKS)),
    "cross_stitch": lambda: CrossStitchNetwork(
        stages(), heads(TASKS), lr_multiplier=10.0, inputs=_image()
    ),
    "sluice": lambda: SluiceNetwork(stages(), heads(TASKS), orthogonality=0.01, inputs=_image()),
    "factorized": lambda: FactorizedNetwork(stages(), heads(TASKS), method="laf", inputs=_image()),
}


def _image():
    return keras.Input(IMAGE_SHAPE, name="image")
