"""What the processes of these tests train, and what one process trains to compare with."""

import inspect

import keras
import numpy as np
from keras import layers

import kmtl

RNG = np.random.default_rng(0)
X = RNG.normal(size=(44, 6, 6, 1)).astype("float32")
# Labels of "depth" are absent from whole halves of batches, so that one worker has none in them.
Y = {
    "depth": np.where(np.arange(44) % 20 < 10, np.nan, RNG.normal(size=44)).astype("float32"),
    "seg": np.where(RNG.random(44) < 0.3, -1, RNG.integers(0, 3, size=44)),
    "edge": RNG.normal(size=44).astype("float32"),
}
BATCH = 20  # the last batch has 4 rows

# What a rule cannot do without.
ARGUMENTS = {
    "Krum": {"num_byzantine": 0},
    "ScheduledWeights": {
        "task_weights": {"seg": keras.optimizers.schedules.ExponentialDecay(2.0, 3, 0.5)}
    },
    "StaticWeights": {"task_weights": {"seg": 2.0}},
    "TrimmedMean": {"trim_number": 0},
}


def stages():
    return [
        [layers.Conv2D(4, 3, padding="same", activation="tanh")],
        [layers.GlobalAveragePooling2D(), layers.Dense(4, activation="tanh")],
    ]


def heads():
    return {
        "depth": layers.Dense(1, dtype="float32"),
        "edge": layers.Dense(1, dtype="float32"),
        "seg": layers.Dense(3, activation="softmax", dtype="float32"),
    }


def with_lookup():
    """Its gradients are sparse: an embedding of seven levels of grey."""
    x = keras.Input((6, 6, 1))
    levels = keras.ops.cast(keras.ops.clip(keras.ops.round(2 * x) + 3, 0, 6), "int32")
    h = layers.Flatten()(layers.Embedding(7, 2)(levels))
    return kmtl.MultiTaskModel(x, {task: head(h) for task, head in heads().items()})


NETWORKS = {
    "Lookup": with_lookup,
    "HardSharing": lambda: kmtl.models.HardSharing(sum(stages(), []), heads(), inputs=(6, 6, 1)),
    "CrossStitchNetwork": lambda: kmtl.models.CrossStitchNetwork(
        stages(), heads(), inputs=(6, 6, 1)
    ),
    "SluiceNetwork": lambda: kmtl.models.SluiceNetwork(
        [stages()[0], [*stages()[1], layers.Reshape((1, 1, 4))]],
        heads(),
        readout=layers.GlobalAveragePooling2D,
        inputs=(6, 6, 1),
    ),
    "FactorizedNetwork": lambda: kmtl.models.FactorizedNetwork(
        sum(stages(), []), heads(), inputs=(6, 6, 1)
    ),
}


def rule(name):
    """A weighting by the name of its class, with a fixed seed."""
    if name is None:
        return None
    cls = getattr(kmtl.weighting, name)
    seed = {"seed": 3} if "seed" in inspect.signature(cls.__init__).parameters else {}
    return cls(**seed, **ARGUMENTS.get(name, {}))


def build(network="HardSharing", weighting=None, accumulate=None, steps=1, policy="float32"):
    """A compiled model; to be called in the scope of a strategy."""
    keras.utils.set_random_seed(3)
    keras.config.set_dtype_policy(policy)
    try:
        model = NETWORKS[network]()
    finally:
        keras.config.set_dtype_policy("float32")
    optimizer = keras.optimizers.SGD(
        0.1, momentum=0.9, clipnorm=1.0, gradient_accumulation_steps=accumulate
    )
    model.compile(
        optimizer,
        loss={"depth": "mse", "edge": "mse", "seg": "sparse_categorical_crossentropy"},
        metrics={"seg": ["accuracy"], "depth": ["mae"]},
        weighting=rule(weighting),
        missing={"depth": float("nan"), "seg": -1},
        steps_per_execution=steps,
    )
    return model


def train(epochs=2, **case) -> dict[str, np.ndarray]:
    """Weights, logs, evaluation and predictions, as arrays by name."""
    model = build(**case)
    history = model.fit(X, Y, batch_size=BATCH, epochs=epochs, shuffle=False, verbose=0).history
    logs = model.evaluate(X, Y, batch_size=BATCH, verbose=0, return_dict=True)
    answers = model.predict(X, batch_size=BATCH, verbose=0)
    found = {f"weight {i:03d} {v.path}": w for i, (v, w) in _weights(model)}
    found |= {f"history {name}": np.array(values) for name, values in history.items()}
    found |= {f"evaluation {name}": np.array(value) for name, value in logs.items()}
    return found | {f"prediction {task}": values for task, values in answers.items()}


def _weights(model):
    return enumerate(zip(model.weights, model.get_weights(), strict=True))
