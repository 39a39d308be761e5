"""Every rule trains on real digits on two replicas, as on one, and resumes exactly."""

import inspect

import keras
import numpy as np
import pytest
from keras import layers

import kmtl

pytestmark = pytest.mark.nightly

# What a rule cannot do without.
ARGUMENTS = {
    "Krum": {"num_byzantine": 0},
    "ScheduledWeights": {
        "task_weights": {"left": keras.optimizers.schedules.ExponentialDecay(2.0, 3, 0.5)}
    },
    "StaticWeights": {"task_weights": {"left": 2.0}},
    "TrimmedMean": {"trim_number": 0},
}
RULES = sorted(
    {
        kmtl.weighting.ScheduledWeights,
        kmtl.weighting.StaticWeights,
        *kmtl.weighting.NAMES.values(),
    },
    key=lambda cls: cls.__name__,
)


@pytest.fixture(scope="module")
def data():
    train = kmtl.datasets.multi_digits().train
    labels = {task: values[:48].copy() for task, values in train.y.items()}
    labels["larger"] = (labels["left"] > labels["right"]).astype("int32")
    labels["left"][:10] = -1  # missing, and more so on one replica than on the other
    return train.x[:48], labels


def build(cls):
    keras.utils.set_random_seed(7)
    trunk = [
        layers.Conv2D(4, 3, strides=2, activation="tanh"),
        layers.Flatten(),
        layers.Dense(8, activation="tanh"),
    ]
    heads = {task: layers.Dense(10) for task in ("left", "right", "larger")}
    model = kmtl.models.HardSharing(trunk, heads, inputs=(10, 10, 1))
    seed = {"seed": 3} if "seed" in inspect.signature(cls.__init__).parameters else {}
    model.compile(
        keras.optimizers.SGD(0.05, momentum=0.9),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        missing=-1,
        weighting=cls(**seed, **ARGUMENTS.get(cls.__name__, {})),
    )
    return model


def fit(model, data, epochs):
    model.fit(*data, batch_size=16, epochs=epochs, shuffle=False, verbose=0)
    return model.get_weights()


@pytest.mark.parametrize(
    "cls", sorted(RULES, key=lambda c: c.__name__), ids=lambda cls: cls.__name__
)
def test_two_replicas_and_resuming_change_nothing(cls, data, mirrored, tmp_path):
    one = fit(build(cls), data, 2)
    with mirrored.scope():
        model = build(cls)
        two = fit(model, data, 2)
        model.save(tmp_path / "model.keras")
        going_on = fit(model, data, 1)
        resumed = fit(keras.saving.load_model(tmp_path / "model.keras"), data, 1)
    for a, b in zip(one, two, strict=True):
        np.testing.assert_allclose(b, a, rtol=2e-3, atol=1e-5, err_msg="replicas")
    for a, b in zip(going_on, resumed, strict=True):
        np.testing.assert_array_equal(b, a, err_msg="resumed")
