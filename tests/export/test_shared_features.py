"""Layers and networks that fuse, gate or reorder features, in a LiteRT file each."""

import keras
import numpy as np
import pytest
from keras import layers

import kmtl
import kmtl.export
from kmtl.layers.nddr import NDDR
from kmtl.layers.shared_plus_specific_dense import SharedPlusSpecificDense
from kmtl.models.esmm import ESMM
from kmtl.models.mtan import MTAN
from kmtl.models.soft_ordering import SoftOrdering
from kmtl.testing import assert_plain

if keras.backend.backend() != "tensorflow":
    pytest.skip("kmtl.export is for the TensorFlow backend", allow_module_level=True)

RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(16, 6, 6, 2)).astype("float32")


def conv(filters):
    return layers.Conv2D(filters, 3, padding="same", activation="relu")


def heads():
    return {
        task: [layers.GlobalAveragePooling2D(), layers.Dense(units)]
        for task, units in {"zeta": 2, "alpha": 3}.items()
    }


def nddr():
    x = keras.Input((6, 6, 2))
    left, right = NDDR()([conv(3)(x), conv(3)(x)])
    pool = layers.GlobalAveragePooling2D()
    outputs = {"zeta": layers.Dense(2)(pool(left)), "alpha": layers.Dense(3)(pool(right))}
    return kmtl.MultiTaskModel(x, outputs)


def mtan():
    stages = [(conv(3), conv(4)), (conv(4), conv(5))]
    return MTAN(stages, heads(), between=[layers.MaxPooling2D()], inputs=(6, 6, 2))


def soft_ordering():
    return SoftOrdering([conv(3), conv(3)], heads(), conv(3), inputs=(6, 6, 2))


def shared_plus_specific():
    x = keras.Input((6, 6, 2))
    features = layers.Flatten()(x)
    zeta, alpha = SharedPlusSpecificDense(3, 2, activation="tanh")(features)
    return kmtl.MultiTaskModel(x, {"zeta": zeta, "alpha": alpha})


def esmm():
    towers = [[layers.Dense(4, activation="relu"), layers.Dense(1)]] * 2
    return ESMM([layers.Flatten(), layers.Dense(4, activation="tanh")], *towers, inputs=(6, 6, 2))


@pytest.mark.parametrize(
    "build", [nddr, mtan, soft_ordering, shared_plus_specific, esmm], ids=lambda f: f.__name__
)
def test_litert_equals_keras(build, tmp_path):
    keras.utils.set_random_seed(3)
    model = build()
    model.compile(keras.optimizers.SGD(0.1), **({} if build is esmm else {"loss": "mse"}))
    y = {
        task: RNG.integers(0, 2, size=(16, model.output[task].shape[-1])).astype("float32")
        for task in model.trained_tasks
    }
    model.fit(IMAGES, y, batch_size=8, epochs=2, verbose=0)
    assert_plain(kmtl.export.fold(model))
    path = tmp_path / "model.tflite"
    kmtl.export.export_litert(model, path, representative_data=IMAGES)
    answers, expected = kmtl.export.load_litert(path)(IMAGES), model.predict(IMAGES, verbose=0)
    assert sorted(answers) == sorted(expected) == model.task_names
    for task in expected:
        np.testing.assert_allclose(answers[task], expected[task], rtol=1e-4, atol=1e-5)
