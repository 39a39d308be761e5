import keras
import numpy as np
import pytest
from keras import layers, ops

import kmtl
from kmtl.layers.crf import CRF
from kmtl.losses.crf_loss import CRFLoss
from kmtl.metrics.crf_accuracy import CRFAccuracy
from kmtl.ops.linear_chain import viterbi
from kmtl.testing import assert_plain

JIT = keras.backend.backend() == "jax"
RNG = np.random.default_rng(0)
START = RNG.bit_generator.state


@pytest.fixture(autouse=True)
def same_numbers():
    """Whichever tests run before."""
    RNG.bit_generator.state = START


def random_crf(tags, features, **kwargs):
    crf = CRF(tags, **kwargs)
    crf.build((None, None, features))
    for weight in crf.weights:
        weight.assign(RNG.normal(size=weight.shape))
    return crf


@pytest.mark.both_backends
@pytest.mark.parametrize("use_boundaries", [True, False])
def test_outputs_hold_all_scores(use_boundaries):
    crf, x = random_crf(3, 4, use_boundaries=use_boundaries), RNG.normal(size=(2, 5, 4))
    outputs = ops.convert_to_numpy(crf(x.astype("float32")))
    kernel, bias, transitions, *ends = (ops.convert_to_numpy(w) for w in crf.weights)
    assert outputs.shape == (2, 10, 3) and len(ends) == 2 * use_boundaries
    np.testing.assert_allclose(outputs[:, :5], x @ kernel + bias, rtol=1e-5, atol=1e-6)
    for row in outputs:
        np.testing.assert_array_equal(row[5:8], transitions)
        np.testing.assert_array_equal(row[8:], ends if use_boundaries else np.zeros((2, 3)))


@pytest.mark.both_backends
def test_starts_as_a_softmax():
    outputs = CRF(3)(RNG.normal(size=(2, 5, 4)).astype("float32"))
    np.testing.assert_array_equal(ops.convert_to_numpy(outputs)[:, 5:], 0)


@pytest.mark.both_backends
def test_decoding():
    crf, x = random_crf(4, 6), RNG.normal(size=(9, 7, 6)).astype("float32")
    outputs, lengths = crf(x), np.array([7, 7, 6, 5, 4, 3, 2, 1, 0])
    emissions = outputs[:, :7]
    for n in (None, lengths, lengths.tolist()):
        expected, _ = viterbi(emissions, crf.transitions, crf.start, crf.end, n)
        tags = ops.convert_to_numpy(CRF.decode(outputs, n))
        np.testing.assert_array_equal(tags, ops.convert_to_numpy(expected))
        found = CRF.decode_numpy(ops.convert_to_numpy(outputs), n)
        np.testing.assert_array_equal(found, tags)
    assert len({tuple(row) for row in tags[:, :1]}) > 1


@pytest.mark.both_backends
def test_outputs_of_nan_decode_to_tag_0():
    outputs = np.full((2, 10, 3), np.nan, "float32")
    for decode in (CRF.decode, CRF.decode_numpy):
        found = ops.convert_to_numpy(decode(outputs, [5, 2]))
        np.testing.assert_array_equal(found, [[0] * 5, [0, 0, -1, -1, -1]])


@pytest.mark.both_backends
@pytest.mark.parametrize("lengths", [[4, 6], [4, -1], [4], [[4, 4]], [1.5, 1], [4, np.nan]])
def test_lengths_out_of_range(lengths):
    for decode in (CRF.decode, CRF.decode_numpy):
        with pytest.raises(ValueError, match="`lengths` must have an integer from 0 to 5 for each"):
            decode(np.zeros((2, 10, 3), "float32"), lengths)


@pytest.mark.both_backends
@pytest.mark.parametrize("num_tags", [1, 2.0])
def test_number_of_tags(num_tags):
    with pytest.raises(ValueError, match=f"`num_tags` must be .* num_tags={num_tags}"):
        CRF(num_tags)


@pytest.mark.both_backends
def test_inputs_must_have_steps():
    with pytest.raises(ValueError, match=r"must be of shape \(batch, steps, features\).*\(2, 4\)"):
        CRF(3)(np.zeros((2, 4)))


@pytest.mark.both_backends
@pytest.mark.parametrize("steps", [5, None])
def test_fold(steps):
    tokens = keras.Input((steps,), dtype="int32")
    h = layers.Embedding(10, 4, mask_zero=True, embeddings_initializer="normal")(tokens)
    crf = random_crf(3, 4)
    model = keras.Model(tokens, crf(h))
    plain = keras.Model(tokens, crf.fold(h))
    assert_plain(plain)
    assert plain.output_shape == model.output_shape
    x = RNG.integers(0, 10, size=(3, 5))
    np.testing.assert_allclose(
        plain.predict(x, verbose=0), model.predict(x, verbose=0), rtol=1e-6, atol=1e-6
    )


@pytest.mark.both_backends
def test_a_mask_of_the_inputs_ends_here():
    tokens = keras.Input((4,), dtype="int32")
    h = layers.Embedding(6, 3, mask_zero=True)(tokens)
    model = kmtl.MultiTaskModel(tokens, {"tags": CRF(2)(h)})
    model.compile("sgd", loss={"tags": CRFLoss()}, jit_compile=JIT)
    # Both rows count, though steps of theirs are masked: log(4) and log(8).
    x, y = np.array([[1, 2, 0, 0], [3, 4, 5, 0]]), np.array([[0, 1, -1, -1], [1, 1, 0, -1]])
    model.layers[1].embeddings.assign(np.zeros((6, 3)))
    loss = model.evaluate(x, {"tags": y}, verbose=0)
    np.testing.assert_allclose(loss, np.log([4, 8]).mean(), rtol=1e-6)


def noisy_chain(rows, steps, rng):
    """Tags that seldom change, each seen through a channel that errs in 3 of 10 steps."""
    changes = rng.random((rows, steps)) < 0.03
    tags = (rng.integers(0, 2, size=(rows, 1)) + np.cumsum(changes, axis=1)) % 2
    seen = np.where(rng.random((rows, steps)) < 0.3, 1 - tags, tags)
    lengths = rng.integers(1, steps + 1, size=rows)
    y = np.where(np.arange(steps) < lengths[:, None], tags, -1)
    return np.eye(2, dtype="float32")[seen], y, lengths


@pytest.mark.both_backends
def test_learns_from_neighbours_what_a_softmax_cannot():
    rng = np.random.default_rng(1)
    x, y, _ = noisy_chain(200, 20, rng)
    new_x, new_y, lengths = noisy_chain(200, 20, rng)
    inputs = keras.Input((20, 2))
    outputs = {"chain": CRF(2)(inputs), "each": layers.Dense(2)(inputs)}
    model = kmtl.MultiTaskModel(inputs, outputs)
    each = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(
        keras.optimizers.Adam(0.1),
        loss={"chain": CRFLoss(), "each": each},
        metrics={"chain": CRFAccuracy(), "each": "accuracy"},
        missing={"each": -1},
        jit_compile=JIT,
    )
    model.fit(x, {"chain": y, "each": y}, batch_size=50, epochs=15, verbose=0)
    logs = model.evaluate(new_x, {"chain": new_y, "each": new_y}, verbose=0, return_dict=True)
    assert 0.66 < logs["each_accuracy"] < 0.74 and logs["chain_crf_accuracy"] > 0.8
    tags = CRF.decode_numpy(model.predict(new_x, verbose=0)["chain"], lengths)
    np.testing.assert_allclose((tags == new_y)[new_y >= 0].mean(), logs["chain_crf_accuracy"], 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("quantization", ["float32", "int8"])
def test_decodes_what_a_litert_file_gives(quantization, tmp_path):
    import kmtl.export

    x = keras.Input((6, 4), name="x")
    crf = random_crf(3, 4)
    model = kmtl.MultiTaskModel(x, {"tags": crf(x)})
    samples = RNG.normal(size=(40, 6, 4)).astype("float32")
    path = tmp_path / "model.tflite"
    arguments = {} if quantization == "float32" else {"representative_data": samples}
    kmtl.export.export_litert(model, path, quantization=quantization, **arguments)
    runner = kmtl.export.load_litert(path)
    lengths = 1 + np.arange(40) % 6
    deployed = np.concatenate([np.asarray(runner(samples[i : i + 1])["tags"]) for i in range(40)])
    outputs = model.predict(samples, verbose=0)["tags"]
    expected = CRF.decode_numpy(outputs, lengths)
    found = CRF.decode_numpy(deployed, lengths)
    if quantization == "float32":
        np.testing.assert_allclose(deployed, outputs, rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(found, expected)
    else:
        # The transitions are rounded as a constant, then once more to the output's one scale.
        step = np.diff(np.unique(deployed)).min()
        np.testing.assert_allclose(deployed[:, 6:], outputs[:, 6:], atol=1.01 * step)
        assert (found == expected)[expected >= 0].mean() > 0.95
