"""SentencePair: features by hand, padding, and symmetry."""

import keras
import numpy as np
import pytest
from keras import layers

import kmtl
from kmtl.layers.sentence_pair import SentencePair
from kmtl.testing import assert_plain

pytestmark = pytest.mark.both_backends

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("signed", [False, True])
def test_by_hand_and_swapped(signed):
    first, second = (RNG.normal(size=(3, steps, 4)).astype("float32") for steps in (5, 7))
    vector = RNG.normal(size=(3, 2)).astype("float32")
    a, b = first.max(axis=1), second.max(axis=1)
    layer = SentencePair(signed=signed)
    expected = np.concatenate([a - b if signed else abs(a - b), a * b, vector], axis=-1)
    np.testing.assert_allclose(layer([first, second, vector]), expected, rtol=1e-6)
    swapped = np.asarray(layer([second, first, vector]))
    sign = np.array([-1.0] * 4 + [1.0] * 6) if signed else 1.0
    np.testing.assert_allclose(swapped, sign * expected, rtol=1e-6)


def pair_model():
    words = layers.Embedding(9, 4, mask_zero=True, embeddings_initializer="normal")
    inputs = [keras.Input((5,), dtype="int32", name=name) for name in ("one", "two")]
    features = SentencePair()([words(x) for x in inputs])
    return kmtl.MultiTaskModel({x.name: x for x in inputs}, {"alike": layers.Dense(2)(features)})


def test_padding_does_not_count_and_folds():
    model = pair_model()
    (words,) = (layer for layer in model.layers if isinstance(layer, layers.Embedding))
    # Padding's own vector would be the largest.
    table = -np.abs(words.get_weights()[0])
    table[0] = 50.0
    words.set_weights([table])
    short = {"one": np.array([[3, 4, 0, 0, 0]]), "two": np.array([[5, 0, 0, 0, 0]])}
    repeated = {"one": np.array([[3, 4, 4, 3, 3]]), "two": np.array([[5, 5, 5, 5, 5]])}
    expected = np.asarray(model(repeated)["alike"])
    np.testing.assert_allclose(model(short)["alike"], expected, rtol=1e-5)

    from kmtl.export import fold

    plain = fold(model)
    assert_plain(plain)
    np.testing.assert_allclose(plain(short)["alike"], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="conversion needs TensorFlow")
@pytest.mark.parametrize(("quantization", "error"), [("float32", 1e-5), ("int8", 0.02)])
def test_padded_pairs_on_a_device(quantization, error, tmp_path):
    from kmtl.export import export_litert, load_litert

    model, rows = pair_model(), np.random.default_rng(1)
    x = {name: rows.integers(1, 9, (64, 5)).astype("int32") for name in ("one", "two")}
    for tokens, lengths in zip(x.values(), rows.integers(1, 6, (2, 64, 1)), strict=True):
        tokens[np.arange(5) >= lengths] = 0
    result = export_litert(model, tmp_path / "m.tflite", quantization, representative_data=x)
    expected = np.asarray(model(x)["alike"])
    answers = load_litert(result.path)(x)["alike"]
    assert np.abs(answers - expected).max() < error * np.ptp(expected)


@pytest.mark.parametrize("shapes", [[(3, 4), (3, 5)], [(4,), (4,)], [(3, 4)]], ids=str)
def test_errors(shapes):
    with pytest.raises(ValueError, match="first two inputs of `SentencePair` must be of shape"):
        SentencePair()([keras.Input(shape) for shape in shapes])


def test_a_single_tensor():
    with pytest.raises(ValueError, match="first two inputs of `SentencePair` must be of shape"):
        SentencePair()(keras.Input((3, 4)))
