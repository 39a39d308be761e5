"""A small model with one main task, and data for it."""

import keras
import numpy as np

RNG = np.random.default_rng(0)
X = RNG.normal(size=(24, 4)).astype("float32")
Y = {"price": X @ np.array([[1.0], [-2.0], [0.5], [0.0]], "float32")}


def small_model(dropout=0.0):
    keras.utils.set_random_seed(7)
    x = keras.Input((4,), name="x")
    h = keras.layers.Dense(6, activation="tanh", name="trunk")(x)
    if dropout:
        h = keras.layers.Dropout(dropout, seed=3)(h)
    return keras.Model(x, {"price": keras.layers.Dense(1, name="price_head")(h)}, name="small")
