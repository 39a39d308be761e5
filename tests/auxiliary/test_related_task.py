"""A related task helps where labels are few; an unrelated one does not."""

import keras
import numpy as np
import pytest

from kmtl.auxiliary import AuxiliaryTask, AuxiliaryTasks

pytestmark = pytest.mark.both_backends

ROWS, STEPS = 30, 400


def planted():
    """A noisy main label and 8 auxiliary ones, all of the same 2 directions out of 20."""
    rng = np.random.default_rng(4)
    x = rng.normal(size=(530, 20)).astype("float32")
    hidden = x @ np.linalg.qr(rng.normal(size=(20, 2)))[0]
    main = hidden @ np.array([[1.0], [-1.0]])
    related = (hidden @ rng.normal(size=(2, 8)))[:ROWS]
    noisy = (main + 0.5 * rng.normal(size=main.shape))[:ROWS]
    return x, main, noisy, related, rng.permutation(related)


def test_error_on_data_that_was_not_seen():
    x, main, noisy, related, shuffled = planted()

    def error(labels, weight):
        keras.utils.set_random_seed(0)
        inputs = keras.Input((20,))
        h = keras.layers.Dense(2, use_bias=False, name="trunk")(inputs)
        model = keras.Model(inputs, {"main": keras.layers.Dense(1)(h)})
        head = keras.layers.Dense(8)
        task = AuxiliaryTask("aux", lambda *_: labels, head, "mse", "trunk", weight)
        helpers = AuxiliaryTasks([task])
        both = helpers.attach(model)
        both.compile(keras.optimizers.Adam(0.1), **helpers.compile_arguments({"main": "mse"}))
        data = helpers.add_targets((x[:ROWS], {"main": noisy}))
        # One long epoch, as each costs more than a step.
        data = keras.tree.map_structure(lambda a: np.tile(a, (STEPS, 1)), data)
        both.fit(*data, batch_size=ROWS, shuffle=False, verbose=0)
        return np.square(model.predict(x[ROWS:], verbose=0)["main"] - main[ROWS:]).mean()

    alone = error(related, 0.0)
    assert error(related, 10.0) < 0.25 * alone
    assert error(shuffled, 10.0) > alone
