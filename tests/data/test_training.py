"""Models train on mixtures, go on where they stopped, and on replicas as on one device."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import kmtl
from kmtl.data.sharding import for_replicas
from tests.data.mixtures import assert_equal, mixture, read


def model_for(mix):
    keras.utils.set_random_seed(1)
    inputs = keras.Input((2,))
    x = keras.layers.Dense(8, activation="tanh")(inputs / 50.0)
    units = {"class": 70, "depth": 1, "edges": 1}
    outputs = {task: keras.layers.Dense(n, name=task)(x) for task, n in units.items()}
    model = kmtl.MultiTaskModel(inputs, outputs)
    crossentropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(
        keras.optimizers.SGD(0.1),
        loss={"class": crossentropy, "depth": "mae", "edges": "mae"},
        missing=mix.missing,
    )
    return model


@pytest.mark.both_backends
@pytest.mark.parametrize("streams", [[], ["some"]], ids=["arrays", "stream"])
@pytest.mark.parametrize("mode", ["joint", "one_source"])
def test_a_model_trains_and_goes_on(mode, streams):
    mix = mixture(streams, mode=mode)
    whole, parts = model_for(mix), model_for(mix)
    history = whole.fit(mix.dataset(), steps_per_epoch=30, epochs=2, verbose=0).history
    assert history["loss"][1] < history["loss"][0]
    parts.fit(mix.dataset(), steps_per_epoch=30, verbose=0)
    parts.fit(mix.dataset(30), steps_per_epoch=30, verbose=0)
    for a, b in zip(whole.get_weights(), parts.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("streams", [[], ["some"]], ids=["arrays", "stream"])
def test_two_replicas_equal_one(streams, mirrored):
    mix = mixture(streams)
    one = model_for(mix)
    one.fit(mix.dataset(7), steps_per_epoch=20, verbose=0)
    with mirrored.scope():
        two = model_for(mix)
    two.fit(mix.distributed(mirrored, start_step=7), steps_per_epoch=20, verbose=0)
    for a, b in zip(one.get_weights(), two.get_weights(), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-6)


def test_replicas_get_their_rows_in_order(mirrored):
    mix = mixture()
    batches = iter(mix.distributed(mirrored, start_step=3))
    for expected in read(mix.dataset(3), 4):
        parts = [
            tf.nest.map_structure(lambda x, i=i: mirrored.experimental_local_results(x)[i], batch)
            for batch in [next(batches)]
            for i in range(2)
        ]
        together = tf.nest.map_structure(lambda *xs: np.concatenate(xs), *parts)
        assert_equal([together], [expected])


@pytest.mark.both_backends
@pytest.mark.parametrize(("pipelines", "replicas"), [(1, 3), (2, 2), (2, 4)])
def test_workers_and_their_replicas_share_the_batch(pipelines, replicas):
    mix = mixture()
    fn = for_replicas(lambda num_shards, shard: mix.dataset(2, num_shards, shard))
    local = replicas // pipelines
    parts = [
        read(fn(tf.distribute.InputContext(pipelines, i, replicas)), 3 * local)
        for i in range(pipelines)
    ]
    assert len(parts[0][0][0]) == 12 // replicas
    for step, expected in enumerate(read(mix.dataset(2), 3)):
        shares = [share for part in parts for share in part[step * local : (step + 1) * local]]
        together = tf.nest.map_structure(lambda *xs: np.concatenate(xs), *shares)
        assert_equal([together], [expected])


def test_replicas_must_divide_the_batch(mirrored):
    with pytest.raises(ValueError, match="batch_size=3 for 2 shards"):
        mixture(batch_size=3).distributed(mirrored)


@pytest.mark.parametrize(("missing", "accepted"), [(None, False), ({"b": 7}, False), (-1, True)])
def test_the_model_must_know_the_mark_of_absent_labels(missing, accepted):
    x = np.ones((8, 3), "float32")
    sources = {
        "one": (x, {"a": np.zeros(8, "int32")}),
        "two": (x, {"a": np.zeros(8, "int32"), "b": np.ones(8, "int32")}),
    }
    mixture = kmtl.data.TaskMixture(sources, batch_size=4)
    inputs = keras.Input((3,))
    heads = {t: keras.layers.Dense(1, activation="sigmoid")(inputs) for t in "ab"}
    model = kmtl.MultiTaskModel(inputs, heads)
    model.compile("sgd", "binary_crossentropy", missing=missing)
    if accepted:
        model.fit(mixture, verbose=0)
        return
    with pytest.raises(ValueError, match=r"missing=mixture.missing.* 'b', whose absent .* -1"):
        model.fit(mixture, verbose=0)
