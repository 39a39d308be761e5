"""A small tagger of padded sentences, and what every helper of it must hold to."""

import keras
import numpy as np

import kmtl
import kmtl.export
from kmtl.auxiliary import AuxiliaryTasks

RNG = np.random.default_rng(0)
STEPS, WORDS, TAGS = 6, 12, 3
LENGTHS = np.array([6, 4, 1, 5, 6, 3, 2, 6])
X = RNG.integers(1, WORDS, (8, STEPS)).astype("int32")
X[np.arange(STEPS) >= LENGTHS[:, None]] = 0
Y = {"pos": np.where(X > 0, X % TAGS, -1).astype("int32")}


def tagger(mask_zero=True):
    keras.utils.set_random_seed(7)
    x = keras.Input((STEPS,), name="x", dtype="int32")
    h = keras.layers.Embedding(WORDS, 5, mask_zero=mask_zero)(x)
    h = keras.layers.Dropout(0.2, seed=3)(h)
    forward = keras.layers.GRU(4, return_sequences=True, name="forward")(h)
    backward = keras.layers.GRU(4, return_sequences=True, go_backwards=True, name="reversed")(h)
    backward = keras.ops.flip(backward, axis=1)
    both = keras.layers.Concatenate(name="both")([forward, backward])
    tags = keras.layers.Dense(TAGS, activation="softmax", name="tags")(both)
    return keras.Model(x, {"pos": tags}), backward


def train(model, x=X, y=Y, **compiling):
    arguments = {"loss": {"pos": "crossentropy"}, "missing": {"pos": -1}, **compiling}
    model.compile(keras.optimizers.Adam(0.05), **arguments)
    return model.fit(x, y, batch_size=4, epochs=2, shuffle=False, verbose=0).history


def attach(tasks, model):
    helpers = AuxiliaryTasks(tasks)
    arguments = helpers.compile_arguments({"pos": "crossentropy"}, missing={"pos": -1})
    return helpers, helpers.attach(model), arguments


def check_weight_0_trains_as_alone(make_task, own_labels=None):
    """`make_task(backward state, weight) -> task`."""
    weights = {}
    for weight in (None, 0.0, 0.5):
        model, backward = tagger()
        if weight is None:
            train(kmtl.MultiTaskModel(model.input, model.output))
        else:
            helpers, both, arguments = attach([make_task(backward, weight)], model)
            train(both, *helpers.add_targets((X, {**Y, **(own_labels or {})})), **arguments)
        weights[weight] = model.get_weights()
    for alone, ours in zip(weights[None], weights[0.0], strict=True):
        np.testing.assert_array_equal(ours, alone)
    assert any((a != b).any() for a, b in zip(weights[None], weights[0.5], strict=True))


def check_nothing_is_exported(task, model):
    _, both, _ = attach([task], model)
    plain = kmtl.export.fold(both)
    assert list(plain.output) == ["pos"]
    assert plain.count_params() == model.count_params() < both.count_params()
    answers = plain.predict(X, verbose=0)["pos"]
    np.testing.assert_allclose(answers, model.predict(X, verbose=0)["pos"], rtol=1e-5)


def log_softmax(logits):
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def crossentropy_of_present(labels, logits):
    """Mean over the labels that are not -1, from logits."""
    present = labels >= 0
    values = np.take_along_axis(log_softmax(logits), np.maximum(labels, 0)[..., None], axis=-1)
    return -values[..., 0][present].mean()
