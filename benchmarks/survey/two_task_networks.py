"""Networks for two tasks on one picture, made of the stages of one small LeNet."""

import functools
from collections.abc import Callable, Mapping

import keras
from keras import layers

import kmtl

TASKS, SHAPE, CLASSES = ("left", "right"), (28, 28, 1), 10
SINGLE, SUM = "single task (a network each)", "hard sharing, plain sum"

conv = functools.partial(layers.Conv2D, activation="relu")
dense = functools.partial(layers.Dense, activation="relu")


def networks() -> dict[str, Callable[[], kmtl.MultiTaskModel]]:
    """Name -> function that makes the network anew."""
    return {
        SINGLE: towers_apart,
        SUM: lambda: kmtl.models.HardSharing(sum(tower(), []), heads(), inputs=SHAPE),
        "cross-stitch": lambda: kmtl.models.CrossStitchNetwork(tower(), heads(), inputs=SHAPE),
        "sluice": sluice,
        "factorised (LAF)": functools.partial(factorized, "laf"),
        "factorised (Tucker)": functools.partial(factorized, "tucker"),
        "factorised (TT)": functools.partial(factorized, "tt"),
        "NDDR": nddr,
        "MTAN": mtan,
        "soft ordering": soft_ordering,
        "MMoE, 4 experts": mmoe,
        "PLE, 2 levels": ple,
    }


def tower(prefix: str = "") -> list[list]:
    """Three stages, much like LeNet; each network makes its own of them."""
    return [
        [conv(10, 5, name=f"{prefix}conv_1"), layers.MaxPooling2D(name=f"{prefix}pool_1")],
        [conv(20, 5, name=f"{prefix}conv_2"), layers.MaxPooling2D(name=f"{prefix}pool_2")],
        [layers.Flatten(name=f"{prefix}flatten"), dense(50, name=f"{prefix}dense")],
    ]


def heads(*first: layers.Layer) -> dict:
    """Two dense layers for each task, after what a network needs before them."""
    own = {
        t: [dense(50, name=f"dense_{t}"), layers.Dense(CLASSES, name=f"logits_{t}")] for t in TASKS
    }
    return {task: [*first, *own[task]] for task in TASKS}


def run(steps, x):
    for layer in steps:
        x = layer(x)
    return x


def with_heads(inputs, features: Mapping) -> kmtl.MultiTaskModel:
    own = heads()
    return kmtl.MultiTaskModel(inputs, {task: run(own[task], features[task]) for task in TASKS})


def towers_apart() -> kmtl.MultiTaskModel:
    """Nothing is shared, so that Adam trains each task as if it were alone."""
    x = keras.Input(SHAPE)
    return with_heads(x, {task: run(sum(tower(f"{task}_"), []), x) for task in TASKS})


def sluice() -> kmtl.MultiTaskModel:
    """Stages differ in shape; a dense layer brings each to the width of the last."""

    def readout():
        return keras.Sequential([layers.Flatten(), dense(50)])

    return kmtl.models.SluiceNetwork(tower(), heads(), readout=readout, inputs=SHAPE)


def factorized(method: str) -> kmtl.MultiTaskModel:
    stages = sum(tower(), [])
    return kmtl.models.FactorizedNetwork(stages, heads(), method=method, inputs=SHAPE)


def nddr() -> kmtl.MultiTaskModel:
    x = keras.Input(SHAPE)
    features = [x, x]
    for stages in zip(*(tower(f"{task}_") for task in TASKS), strict=True):
        features = [run(stage, h) for stage, h in zip(stages, features, strict=True)]
        features = kmtl.layers.NDDR()(features)
    return with_heads(x, dict(zip(TASKS, features, strict=True)))


def mtan() -> kmtl.MultiTaskModel:
    """The gates see a convolution before its ReLU and after.

    The second keeps its resolution, which gates ask for: that of the tasks' features so far.
    """
    first, second = layers.Conv2D(10, 5), layers.Conv2D(20, 5, padding="same")
    stages = [(first, layers.ReLU()), (second, layers.ReLU())]
    own = heads(layers.MaxPooling2D(), layers.Flatten(), dense(50))
    return kmtl.models.MTAN(stages, own, between=[layers.MaxPooling2D()], inputs=SHAPE)


def soft_ordering() -> kmtl.MultiTaskModel:
    """Three convolutions that keep the shape follow those of the LeNet."""
    core = [conv(20, 3, padding="same") for _ in range(3)]
    encoder = sum(tower()[:2], [])
    own = heads(layers.Flatten(), dense(50))
    return kmtl.models.SoftOrdering(core, own, encoder, inputs=SHAPE)


def mmoe() -> kmtl.MultiTaskModel:
    return mixture(kmtl.layers.MMoE(num_experts=4, units=50, num_tasks=len(TASKS)))


def ple() -> kmtl.MultiTaskModel:
    levels = [{"shared_experts": 2, "task_experts": 1, "units": 50}] * 2
    return mixture(kmtl.layers.PLE(levels, num_tasks=len(TASKS)))


def mixture(layer: layers.Layer) -> kmtl.MultiTaskModel:
    """Experts take the place of the dense stage."""
    x = keras.Input(SHAPE)
    shared = run([*sum(tower()[:2], []), layers.Flatten()], x)
    return with_heads(x, dict(zip(TASKS, layer(shared), strict=True)))
