import keras
import numpy as np
import pytest
import tensorflow as tf

import kmtl
import kmtl.export
from kmtl.auxiliary import AuxiliaryTasks, domain_data
from kmtl.auxiliary.pivot_hint import PivotHint

pytestmark = pytest.mark.both_backends

RNG = np.random.default_rng(0)
POSITIVE, NEGATIVE, MASK = [4, 5], [6, 7, 8], 1
X = RNG.integers(2, 20, (12, 5)).astype("int32")
Y = {"mood": RNG.integers(0, 2, (12, 1)).astype("float32")}


def network():
    """Yu and Jiang's: the main classifier reads the features of both views."""
    keras.utils.set_random_seed(7)
    views = {name: keras.Input((5,), name=name, dtype="int32") for name in ("words", "masked")}
    embed = keras.layers.Embedding(20, 4, name="embed")
    features = []
    for view in views:
        h = keras.layers.Conv1D(6, 3, padding="same", activation="relu", name=view[0])(
            embed(views[view])
        )
        features.append(keras.layers.GlobalMaxPooling1D(name=f"z_{view}")(h))
    z = keras.layers.Concatenate(name="z")(features)
    mood = keras.layers.Dense(1, activation="sigmoid", name="mood_head")(z)
    return keras.Model(views, {"mood": mood})


def hint(weight=1.0, features="z_masked", **kwargs):
    return PivotHint("pivot", POSITIVE, NEGATIVE, MASK, features, weight, **kwargs)


def fit(model, x, y, **arguments):
    model.compile(keras.optimizers.Adam(0.05), **arguments)
    return model.fit(x, y, batch_size=6, epochs=2, shuffle=False, verbose=0).history


def test_masking_removes_every_pivot_and_nothing_else():
    x = hint().inputs(X)
    pivots = np.isin(X, POSITIVE + NEGATIVE)
    assert pivots.any() and not np.isin(x["masked"], POSITIVE + NEGATIVE).any()
    np.testing.assert_array_equal(x["words"], X)
    np.testing.assert_array_equal(x["masked"], np.where(pivots, MASK, X))
    assert x["masked"].dtype == X.dtype


def test_labels_are_those_of_the_words_before_masking():
    helpers = AuxiliaryTasks([hint()])
    rows = np.array([[2, 4, 3], [9, 6, 7], [5, 8, 2], [2, 3, 9]])
    x, y = helpers.add_targets((rows, {"mood": np.array([1.0, 0, 1, 0])}))
    np.testing.assert_array_equal(y["pivot_positive"], [[1], [0], [1], [0]])
    np.testing.assert_array_equal(y["pivot_negative"], [[0], [1], [1], [0]])
    np.testing.assert_array_equal(x["masked"], [[2, 1, 3], [9, 1, 1], [1, 1, 2], [2, 3, 9]])


def test_a_dict_of_inputs_keeps_its_others():
    task = hint(words="ids", masked="view")
    x = task.inputs({"ids": np.array([[4, 2]]), "length": np.array([2])})
    assert sorted(x) == ["ids", "length", "view"]
    np.testing.assert_array_equal(x["view"], [[1, 2]])


def test_the_other_domain_trains_only_what_makes_the_second_view():
    helpers = AuxiliaryTasks([hint()])
    model = network()
    both = helpers.attach(model)
    arguments = helpers.compile_arguments({"mood": "crossentropy"}, missing={"mood": -1.0})
    before = {layer.name: layer.get_weights() for layer in model.layers}
    x, y = helpers.add_targets((X, {"mood": np.full((12, 1), -1.0, "float32")}))
    fit(both, x, y, **arguments)
    for name in ("w", "mood_head"):
        for a, b in zip(model.get_layer(name).get_weights(), before[name], strict=True):
            np.testing.assert_array_equal(a, b)
    for name in ("m", "embed"):
        assert (model.get_layer(name).get_weights()[0] != before[name][0]).any()


def test_loss_is_the_sum_of_both_questions():
    helpers = AuxiliaryTasks([hint(0.3)])
    both = helpers.attach(network())
    source, target = (X[:6], {"mood": Y["mood"][:6]}), X[6:]
    x, y = domain_data(source, target, missing={"mood": -1.0})
    x, y = helpers.add_targets((x, {"mood": y["mood"]}))
    arguments = helpers.compile_arguments({"mood": "crossentropy"}, missing={"mood": -1.0})
    both.compile(keras.optimizers.SGD(0.0), **arguments)
    logs = both.evaluate(x, y, batch_size=12, verbose=0, return_dict=True)
    answers = both.predict(x, verbose=0)
    for output in ("pivot_positive", "pivot_negative"):
        p = answers[output]
        expected = -np.where(y[output] == 1, np.log(p), np.log(1 - p)).mean()
        np.testing.assert_allclose(logs[f"{output}_loss"], expected, rtol=1e-5)
    total = logs["mood_loss"] + 0.3 * (logs["pivot_positive_loss"] + logs["pivot_negative_loss"])
    np.testing.assert_allclose(logs["loss"], total, rtol=1e-5)


def test_weight_0_trains_the_main_model_bit_for_bit():
    # With `missing` the main loss is no loss of the same kind as the helpers', which would be
    # added up together and in another order.
    arguments = {"loss": {"mood": "bce"}, "missing": {"mood": -1.0}}
    alone = network()
    fit(kmtl.MultiTaskModel(alone.input, alone.output), hint().inputs(X), Y, **arguments)
    for weight in (0.0, 0.5):
        helpers, model = AuxiliaryTasks([hint(weight)]), network()
        data = helpers.add_targets((X, Y))
        fit(helpers.attach(model), *data, **helpers.compile_arguments(**arguments))
        same = [
            np.array_equal(a, b)
            for a, b in zip(model.get_weights(), alone.get_weights(), strict=True)
        ]
        assert all(same) if weight == 0 else not any(same)


def test_no_trace_in_what_is_exported():
    model = network()
    both = AuxiliaryTasks([hint()]).attach(model)
    plain = kmtl.export.fold(both)
    assert list(plain.output) == ["mood"]
    assert plain.count_params() == model.count_params() < both.count_params()
    x = hint().inputs(X)
    np.testing.assert_allclose(plain.predict(x)["mood"], model.predict(x)["mood"], rtol=1e-5)


def test_batches_get_the_second_view():
    data = tf.data.Dataset.from_tensor_slices((X, Y)).batch(4)
    batches = AuxiliaryTasks([hint()]).add_targets(data)
    assert batches.element_spec[0]["masked"].shape.as_list() == [None, 5]
    x, y = next(iter(batches))
    np.testing.assert_array_equal(x["masked"], hint().inputs(X)["masked"][:4])
    np.testing.assert_array_equal(y["pivot_positive"], hint().targets(X, Y)["pivot_positive"][:4])


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="writes a LiteRT file")
def test_the_file_holds_the_main_task_only(tmp_path):
    model = network()
    both = AuxiliaryTasks([hint()]).attach(model)
    x = hint().inputs(X)
    result = kmtl.export.export_litert(both, tmp_path / "a.tflite", representative_data=x)
    assert result.tasks == ("mood",) and b"pivot" not in result.path.read_bytes()
    answers = kmtl.export.load_litert(result.path)(x)["mood"]
    np.testing.assert_allclose(answers, model.predict(x, verbose=0)["mood"], rtol=1e-4, atol=1e-6)


def test_features_that_see_the_pivots_are_refused():
    for features in ("z_words", "z"):
        with pytest.raises(
            ValueError, match=f"alone, or the pivots are seen.*features='{features}'"
        ):
            AuxiliaryTasks([hint(features=features)]).attach(network())


def test_errors():
    for positive, negative, mask in (([], [6], 1), ([4], [], 1), ([4], [4, 6], 1), ([4], [6], 6)):
        with pytest.raises(ValueError, match="none of them both, nor `mask_id`. Received: pos"):
            PivotHint("pivot", positive, negative, mask, "z")
    with pytest.raises(ValueError, match=r"dict with 'words' and 'view'. Received: \['masked'"):
        AuxiliaryTasks([hint(masked="view")]).attach(network())
    with pytest.raises(ValueError, match=r"or hold 'words'. Received: \['text'\]"):
        hint().inputs({"text": X})
    with pytest.raises(ValueError, match=r"of shape \(N, steps\). Received: \(5,\) for 'pivot'"):
        hint().inputs(X[0])
