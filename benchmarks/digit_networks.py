"""Two-task digit classifiers of two sizes, and the images that they are trained on."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import keras
import numpy as np
from keras import layers

import kmtl

TASKS = ("left", "right")
CLASSES = 10
BATCH = 64
NORMALIZATION_MOMENTUM = 0.9


def lenet(tasks: Sequence[str], shape: Sequence[int]) -> keras.Model:
    """Much like LeNet: two convolutions, and dense layers for each task.

    Widths are multiples of 32 where weights of 4 bits have a scale for each 32 inputs.
    """
    trunk = [
        layers.Conv2D(16, 5, activation="relu", name="conv_1"),
        layers.MaxPooling2D(name="pool_1"),
        layers.Conv2D(32, 5, activation="relu", name="conv_2"),
        layers.MaxPooling2D(name="pool_2"),
        layers.Flatten(name="flatten"),
        layers.Dense(64, activation="relu", name="dense"),
    ]
    heads = {
        task: [
            layers.Dense(64, activation="relu", name=f"{task}_dense"),
            layers.Dense(CLASSES, name=f"{task}_logits"),
        ]
        for task in tasks
    }
    return kmtl.models.HardSharing(trunk, heads, inputs=keras.Input(shape, name="image"))


def mobilenet_v2(tasks: Sequence[str], shape: Sequence[int]) -> keras.Model:
    """Keras's MobileNetV2 of width 1 with a linear classifier for each task.

    Its normalisations average over a thousand steps, more than a short training has; here over
    ten.
    """
    trunk = keras.applications.MobileNetV2(
        shape, alpha=1.0, include_top=False, weights=None, pooling="avg"
    )
    config = trunk.get_config()
    for layer in config["layers"]:
        if layer["class_name"] == "BatchNormalization":
            layer["config"]["momentum"] = NORMALIZATION_MOMENTUM
    heads = {task: layers.Dense(CLASSES, name=f"{task}_logits") for task in tasks}
    inputs = keras.Input(shape, name="image")
    return kmtl.models.HardSharing(keras.Model.from_config(config), heads, inputs=inputs)


@dataclasses.dataclass(frozen=True)
class Network:
    """A network and how it is trained; settings were chosen on the validation images.

    Attributes:
        make: A function of tasks and the images' shape.
        shape: Of the images.
        epochs: Of Adam, in batches of `BATCH`.
        rate: The learning rate at the start, from which it falls to 0 along a cosine.
        more: Type -> epochs and rate of training that goes on in it, from `quantize_aware`.
        bytes_target: Largest accepted size of the int8 file over float32's, or None.
        seeds: Trainings from the beginning that tell what training for a type does.
    """

    make: Callable[[Sequence[str], Sequence[int]], keras.Model]
    shape: tuple[int, int, int]
    epochs: int
    rate: float
    more: Mapping[str, tuple[int, float]]
    bytes_target: float | None = None
    seeds: int = 1


NETWORKS = {
    "MultiMNIST-size": Network(
        make=lenet,
        shape=(36, 36, 1),
        epochs=10,
        rate=2e-3,
        more={"float32": (2, 1e-3), "int8": (2, 1e-4), "int4": (2, 1e-3)},
        seeds=5,
    ),
    "MobileNetV2-size": Network(
        make=mobilenet_v2,
        shape=(64, 64, 3),
        epochs=5,
        rate=2e-3,
        more={"float32": (2, 3e-4), "int8": (2, 1e-4), "int4": (2, 3e-4)},
        bytes_target=0.27,
    ),
}


def images_for(network: Network, split) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """MultiDigits' images in -1 to 1, of the size that the network takes, and their digits."""
    x = keras.ops.image.resize(split.x, network.shape[:2], interpolation="bilinear")
    x = np.repeat(2 * np.array(x) - 1, network.shape[2], axis=-1)
    return x.astype("float32"), split.y


def train(model, data, epochs: int, rate: float) -> None:
    """Adam on the sum of the tasks' losses; the rate falls to 0 along a cosine."""
    x, y = data
    steps = epochs * -(-len(x) // BATCH)
    schedule = keras.optimizers.schedules.CosineDecay(rate, steps)
    model.compile(
        keras.optimizers.Adam(schedule),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    model.fit(x, y, batch_size=BATCH, epochs=epochs, verbose=0)
