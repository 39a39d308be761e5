import keras
import numpy as np
import pytest

import kmtl

pytestmark = pytest.mark.both_backends

X, Y = np.ones((8, 3), "float32"), np.ones((8, 1), "float32")


class Recorder(keras.callbacks.Callback):
    """The strengths of all reversals at the end of each step."""

    def __init__(self):
        super().__init__()
        self.strengths = []

    def on_train_batch_end(self, batch, logs=None):
        variables = self.model.non_trainable_variables
        self.strengths.append([float(v) for v in variables if "reversal" in v.name])


class Head(keras.layers.Layer):
    """A reversal inside of a user's own layer."""

    def __init__(self):
        super().__init__()
        self.reverse = kmtl.layers.GradientReversal()
        self.dense = keras.layers.Dense(1)

    def call(self, inputs, training=None):
        return self.dense(self.reverse(inputs, training=training))


def small(optimizer="sgd"):
    inputs = keras.Input((3,))
    features = keras.layers.Dense(2)(inputs)
    model = keras.Model(inputs, keras.layers.Dense(1)(kmtl.layers.GradientReversal()(features)))
    model.compile(optimizer, loss="mse")
    return model


def fit(model, schedule=None, **kwargs):
    recorder = Recorder()
    schedule = schedule or kmtl.callbacks.GradientReversalSchedule()
    history = model.fit(
        X, Y, **{"batch_size": 4, "verbose": 0, **kwargs}, callbacks=[schedule, recorder]
    )
    return [s[0] for s in recorder.strengths], history.history


def expected(*progress, gamma=10.0):
    return pytest.approx([2 / (1 + np.exp(-gamma * p)) - 1 for p in progress], rel=1e-6)


@pytest.mark.parametrize(
    ("progress", "strength"), [(0.0, 0.0), (0.25, 0.848284), (0.5, 0.986614), (1.0, 0.999909)]
)
def test_published_values(progress, strength):
    schedule = kmtl.callbacks.GradientReversalSchedule()
    assert schedule.strength_at(progress) == pytest.approx(strength, abs=5e-7)


def test_each_step_and_the_logs():
    strengths, history = fit(small(), epochs=2)
    assert strengths == expected(0, 0.25, 0.5, 0.75)
    assert history["gradient_reversal_strength"] == expected(0.25, 0.75)


def test_total_steps_and_gamma():
    schedule = kmtl.callbacks.GradientReversalSchedule(gamma=2.0, total_steps=3)
    strengths, _ = fit(small(), schedule, epochs=3)
    assert strengths == expected(0, 1 / 3, 2 / 3, 1, 1, 1, gamma=2.0)


def test_goes_on_after_stop_and_reload(tmp_path):
    straight, _ = fit(small(), epochs=4)
    model = small()
    first, _ = fit(model, kmtl.callbacks.GradientReversalSchedule(total_steps=8), epochs=2)
    model.save(tmp_path / "model.keras")
    model = keras.saving.load_model(tmp_path / "model.keras")
    second, _ = fit(model, initial_epoch=2, epochs=4)
    assert first + second == straight


def test_progress_counts_optimizer_steps():
    strengths, _ = fit(small(keras.optimizers.SGD(gradient_accumulation_steps=2)), epochs=2)
    assert strengths == expected(0, 0, 0.5, 0.5)


def test_loss_scaling():
    inner = keras.optimizers.SGD(gradient_accumulation_steps=2)
    strengths, _ = fit(small(keras.optimizers.LossScaleOptimizer(inner)), epochs=2)
    assert strengths == expected(0, 0, 0.5, 0.5)


def test_every_reversal_wherever_it_is():
    inputs = keras.Input((3,))
    inner = keras.Model(inputs, kmtl.layers.GradientReversal()(inputs))
    hidden = keras.Model(inputs, inner(keras.layers.Dense(3)(inputs)))
    x = keras.Input((3,))
    model = keras.Model(x, [Head()(x), Head()(hidden(x))])
    model.compile("sgd", loss=["mse", "mse"])
    recorder = Recorder()
    schedule = kmtl.callbacks.GradientReversalSchedule()
    model.fit(X, [Y, Y], batch_size=4, verbose=0, callbacks=[schedule, recorder])
    np.testing.assert_allclose(recorder.strengths, [[0.0] * 3, [0.986614] * 3], atol=1e-6)


def test_model_without_reversal():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)], name="plain")
    model.compile("sgd", loss="mse")
    with pytest.raises(ValueError, match="`GradientReversal` layer. Received: model='plain'"):
        fit(model)


def test_unknown_length():
    schedule = kmtl.callbacks.GradientReversalSchedule()
    schedule.set_model(small())
    schedule.set_params({"epochs": 2, "steps": None})
    with pytest.raises(ValueError, match="`total_steps` must be given"):
        schedule.on_train_begin()


@pytest.mark.parametrize("kwargs", [{"gamma": 0.0}, {"total_steps": 0}])
def test_bad_arguments(kwargs):
    with pytest.raises(ValueError, match="Received: " + next(iter(kwargs))):
        kmtl.callbacks.GradientReversalSchedule(**kwargs)
