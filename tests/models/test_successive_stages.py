"""SuccessiveStages: anchors, the limits of their strength, and runs that go on exactly."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import kmtl
from kmtl.models.joint_many_task_model import JointManyTaskModel
from kmtl.models.model_of_task import model_of_task
from kmtl.models.successive_stages import SuccessiveStages

pytestmark = pytest.mark.both_backends

RNG = np.random.default_rng(0)
X = RNG.integers(0, 9, size=(12, 4))
Y = {"low": RNG.integers(0, 3, size=(12, 4)), "high": RNG.integers(0, 2, size=(12, 4))}
TASKS = ("low", "high")
LOSS = "sparse_categorical_crossentropy"
LOW = ["low_hidden", "low"]


def network():
    stages = [
        (
            task,
            layers.Dense(5, "tanh", name=f"{task}_hidden"),
            layers.Dense(classes, "softmax", name=task),
            3,
        )
        for task, classes in (("low", 3), ("high", 2))
    ]
    x = keras.Input((4,), dtype="int32", name="tokens")
    return JointManyTaskModel(stages, inputs=x, encoder=layers.Embedding(9, 4, name="words"))


def training(strength=0.01, optimizer=lambda: keras.optimizers.SGD(0.2), model=None):
    keras.utils.set_random_seed(1)
    made = SuccessiveStages(model or network(), TASKS, strength, first_below=["words"])
    for task in TASKS:
        made.compile(task, optimizer=optimizer(), loss=LOSS)
    return made


def mixtures(batch_size=4):
    return {
        task: kmtl.data.TaskMixture({task: (X, {task: Y[task]})}, batch_size=batch_size)
        for task in TASKS
    }


def weights(model, names=None):
    chosen = model.layers if names is None else [model.get_layer(name) for name in names]
    return np.concatenate([w.ravel() for layer in chosen for w in layer.get_weights()])


def penalty(stages, task):
    """The part of the loss that is no cross-entropy, as the logs have it."""
    model = stages.models[task]
    logs = model.evaluate(X, {task: Y[task]}, batch_size=12, verbose=0, return_dict=True)
    predicted = ops.convert_to_numpy(model(X)[task])
    chosen = np.take_along_axis(predicted, Y[task][..., None], axis=-1)
    return logs["loss"] - np.mean(-np.log(chosen))


def test_what_is_below():
    stages = training()
    assert stages.below("low") == ["words"]
    assert sorted(stages.below("high")) == ["low", "low_hidden", "words"]
    names = [layer.name for layer in stages.models["low"].layers]
    assert "high_hidden" not in names and "low_label_embedding" not in names


def test_without_strength_it_is_plain_sequential_training():
    stages = training(0.0)
    stages.fit(mixtures(), epochs=2, verbose=0)
    keras.utils.set_random_seed(1)
    model = network()
    plain = {task: model_of_task(model, task) for task in TASKS}
    for task in TASKS:
        plain[task].compile(keras.optimizers.SGD(0.2), loss=LOSS)
    data = mixtures()
    for epoch in range(2):
        for task in TASKS:
            plain[task].fit(data[task], initial_epoch=epoch, epochs=epoch + 1, verbose=0)
    np.testing.assert_array_equal(weights(stages.model), weights(model))


def test_the_penalty_starts_at_zero():
    """In passes of one step no strength makes a difference, whatever happened before."""
    held, plain = training(50.0), training(0.0)
    histories = [s.fit(mixtures(batch_size=12), epochs=3, verbose=0) for s in (held, plain)]
    for task in TASKS:
        np.testing.assert_allclose(*(h[task]["loss"] for h in histories), rtol=1e-5)
    np.testing.assert_allclose(weights(held.model), weights(plain.model), rtol=1e-4, atol=1e-6)


def test_the_penalty_is_the_squared_way_from_the_task_before():
    stages = training(0.3)
    stages.order = ["low"]
    stages.fit({"low": mixtures()["low"]}, verbose=0)
    names = ["words", *LOW]
    anchors = weights(stages.model, names)
    stages.order = ["high"]
    stages.fit({"high": mixtures()["high"]}, verbose=0)
    way = np.sum((weights(stages.model, names) - anchors) ** 2)
    assert way > 1e-4
    np.testing.assert_allclose(penalty(stages, "high"), 0.3 * way, rtol=1e-2)


def test_a_large_strength_freezes_what_is_below():
    """With 2 * strength * rate = 1 each step takes back the whole way of those before."""
    moved = {}
    for strength in (0.0, 25.0):
        stages = training(strength, lambda: keras.optimizers.SGD(0.02))
        start = weights(stages.model, ["words", *LOW])
        own = weights(stages.model, ["high_hidden"])
        stages.order = ["high"]
        stages.fit({"high": (X, {"high": Y["high"]})}, batch_size=12, verbose=0)
        for _ in range(30):
            stages.models["high"].fit(X, {"high": Y["high"]}, batch_size=12, verbose=0)
        moved[strength] = (
            np.linalg.norm(weights(stages.model, ["words", *LOW]) - start),
            np.linalg.norm(weights(stages.model, ["high_hidden"]) - own),
        )
    assert moved[25.0][0] < 0.06 * moved[0.0][0]
    assert moved[25.0][1] > 0.5 * moved[0.0][1]


def test_clipping_by_depth_is_the_optimizer_s():
    """A step of rate 1 is as long as the norm that its task's gradient is clipped to."""
    model = network()
    # TensorFlow measures the gradient of an embedding before it adds up equal words'.
    model.get_layer("words").trainable = False
    made = SuccessiveStages(model, TASKS)
    for depth, task in enumerate(TASKS, start=1):
        made.compile(
            task,
            optimizer=keras.optimizers.SGD(1.0, global_clipnorm=min(3.0, depth) * 1e-3),
            loss=keras.losses.SparseCategoricalCrossentropy(reduction="sum"),
        )
    for depth, task in enumerate(TASKS, start=1):
        before = weights(made.model)
        made.order = [task]
        made.fit({task: (X, {task: Y[task]})}, batch_size=12, verbose=0)
        np.testing.assert_allclose(
            np.linalg.norm(weights(made.model) - before), depth * 1e-3, rtol=1e-2
        )


def test_a_run_goes_on_exactly(tmp_path):
    def adam():
        return keras.optimizers.Adam(0.05)

    whole = training(0.5, adam)
    expected = whole.fit(mixtures(), epochs=3, verbose=0)
    begun = training(0.5, adam)
    begun.fit(mixtures(), epochs=1, verbose=0)
    begun.save_weights(tmp_path)
    keras.utils.set_random_seed(99)
    again = training(0.5, adam)
    again.model.set_weights([np.zeros(w.shape) for w in again.model.weights])
    again.load_weights(tmp_path)
    history = again.fit(mixtures(), epochs=3, initial_epoch=1, verbose=0)
    np.testing.assert_array_equal(weights(again.model), weights(whole.model))
    for task in TASKS:
        assert history[task]["loss"] == expected[task]["loss"][1:]
    for task in TASKS:
        pairs = zip(
            again.models[task].optimizer.variables,
            whole.models[task].optimizer.variables,
            strict=True,
        )
        for a, b in pairs:
            np.testing.assert_array_equal(ops.convert_to_numpy(a), ops.convert_to_numpy(b))


def test_arrays_metrics_and_strengths_by_task():
    made = SuccessiveStages(network(), TASKS, {"high": 0.1}, first_below=["words"])
    for task in TASKS:
        made.compile(task, optimizer="adam", loss=LOSS, metrics=["accuracy"])
    assert not made.models["low"].penalty_states
    assert len(made.models["high"].penalty_states) == 5  # words, and two kernels and biases
    data = {task: (X, {task: Y[task]}) for task in TASKS}
    history = made.fit(data, epochs=2, batch_size=6, verbose=0)
    assert [len(history[task]["accuracy"]) for task in TASKS] == [2, 2]


def test_replicas(mirrored):
    def train():
        stages = training(0.5, lambda: keras.optimizers.SGD(0.2, momentum=0.9))
        history = stages.fit(mixtures(), epochs=2, verbose=0)
        return weights(stages.model), history

    one, history = train()
    with mirrored.scope():
        two, history2 = train()
    np.testing.assert_allclose(two, one, rtol=1e-4, atol=1e-6)
    for task in TASKS:
        np.testing.assert_allclose(history2[task]["loss"], history[task]["loss"], rtol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"order": []}, "`order` must be a list of different tasks"),
        ({"order": ["low", "low"]}, "`order` must be a list of different tasks"),
        ({"order": ["low", "mid"]}, r"`order` must name .*Received: unknown \['mid'\]"),
        ({"strength": -1.0}, "`strength` must be at least 0. Received: strength=-1.0"),
        ({"strength": {"mid": 1.0}}, r"`strength` must name .*unknown \['mid'\]"),
        ({"first_below": ["high_hidden"]}, "layers of the first task, .*'high_hidden'"),
        ({"first_below": "words"}, "must be a list of names. Received: first_below='words'"),
    ],
    ids=["none", "twice", "unknown", "negative", "strength", "layer", "no list"],
)
def test_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        SuccessiveStages(network(), **{"order": TASKS, **arguments})


def test_fit_before_compile():
    made = SuccessiveStages(network(), TASKS)
    made.compile("low", loss=LOSS)
    with pytest.raises(ValueError, match=r"compiled first. Received: not compiled: \['high'\]"):
        made.fit(mixtures())


def test_backups_are_those_of_one_model(tmp_path):
    made = SuccessiveStages(network(), TASKS)
    backup = kmtl.callbacks.BackupAndResume(tmp_path)
    with pytest.raises(ValueError, match="`save_weights` .* Received: .* a BackupAndResume"):
        made.fit(mixtures(), callbacks=[backup])


def test_weights_that_are_not_there(tmp_path):
    made = SuccessiveStages(network(), TASKS)
    with pytest.raises(ValueError, match=r"what `save_weights` wrote. .*\['0.weights.h5', '1"):
        made.load_weights(tmp_path / "nowhere")


def test_data_without_tasks():
    with pytest.raises(ValueError, match="`data` must be a dict of task .*Received: <class 'tuple"):
        training().fit((X, Y["low"]))
