"""TaskBatchNormalization in a LiteRT file, which keeps the input that names the data set."""

import keras
import numpy as np
from keras import layers

import kmtl
import kmtl.export

RNG = np.random.default_rng(0)
SOURCE = RNG.integers(0, 3, size=24).astype("int32")
X = {"x": RNG.normal(5.0, 3.0, size=(24, 4, 4, 2)).astype("float32"), "source": SOURCE}


def test_litert_equals_keras(tmp_path):
    keras.utils.set_random_seed(3)
    x, source = keras.Input((4, 4, 2), name="x"), keras.Input((), dtype="int32", name="source")
    h = layers.Conv2D(3, 3, padding="same")(x)
    h = kmtl.layers.TaskBatchNormalization(3, momentum=0.8)([h, source])
    h = layers.GlobalAveragePooling2D()(layers.Activation("tanh")(h))
    heads = {"a": layers.Dense(1, name="a")(h), "b": layers.Dense(2, name="b")(h)}
    model = kmtl.MultiTaskModel({"x": x, "source": source}, heads)
    model.compile(keras.optimizers.SGD(0.1), loss="mse")
    model.fit(X, {"a": RNG.normal(size=(24, 1)), "b": RNG.normal(size=(24, 2))}, verbose=0)
    path = tmp_path / "model.tflite"
    kmtl.export.export_litert(model, path, representative_data=X)
    answers, expected = kmtl.export.load_litert(path)(X), model.predict(X, verbose=0)
    for task in expected:
        np.testing.assert_allclose(answers[task], expected[task], rtol=1e-5, atol=1e-5)
    other = kmtl.export.load_litert(path)({**X, "source": (SOURCE + 1) % 3})
    assert not np.allclose(other["a"], expected["a"], atol=1e-3)
