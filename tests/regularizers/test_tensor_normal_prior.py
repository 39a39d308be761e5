import keras
import numpy as np
import pytest
from keras import ops

import kmtl
from kmtl import backend

pytestmark = pytest.mark.both_backends

RNG = np.random.default_rng(0)
Prior = kmtl.regularizers.TensorNormalPrior


class Learner:
    """A prior with the state of one stack of weights."""

    def __init__(self, weights, **kwargs):
        self.prior = Prior(**kwargs)
        self.variable = keras.Variable(np.asarray(weights, "float32"))
        add_weight = keras.layers.Layer(dtype="float32").add_weight
        self.state = self.prior.create_state(self.variable.shape, add_weight, "state")

    def update(self):
        self.prior.update(ops.convert_to_tensor(self.variable), self.state)

    def penalty(self):
        return float(self.prior.penalty(ops.convert_to_tensor(self.variable), self.state))

    def gradient(self):
        def function(_):
            return [self.prior.penalty(ops.convert_to_tensor(self.variable), self.state)], None

        _, _, pull = backend.linearize(function, [self.variable])
        return ops.convert_to_numpy(pull([ops.ones(())])[0][0])

    def __getitem__(self, name):
        return ops.convert_to_numpy(self.state[name])


def test_starts_as_the_l2_penalty():
    weights = RNG.normal(size=(3, 4, 5))
    learner = Learner(weights, strength=0.7, learn=("feature", "class", "task"))
    assert learner.penalty() == pytest.approx(0.35 * np.sum(weights**2), rel=1e-5)


@pytest.mark.parametrize("mode", ["feature", "class", "task"])
def test_quadratic_form_after_an_update_is_the_number_of_weights(mode):
    """tr(S^-1 S) D / D_k = D, whatever the weights are."""
    learner = Learner(
        RNG.normal(size=(3, 4, 5)), learn=(mode,), update_every=1, epsilon=1e-7, normalize=False
    )
    learner.update()
    assert 2 * learner.penalty() == pytest.approx(60, rel=1e-3)


def test_task_covariance_is_that_of_the_weights():
    weights = RNG.normal(size=(6, 2, 4))
    learner = Learner(weights, update_every=1)
    learner.update()
    flat = weights.reshape(12, 4)
    expected = flat.T @ flat
    np.testing.assert_allclose(
        learner["task_covariance"], expected * 4 / np.trace(expected), rtol=1e-4, atol=1e-5
    )
    precision = np.linalg.inv(expected * 4 / np.trace(expected) + 0.1 * np.eye(4))
    np.testing.assert_allclose(learner["task_precision"], precision, rtol=1e-3, atol=1e-4)


def test_flip_flop_update_against_kronecker_products():
    weights = RNG.normal(size=(3, 2, 4)).astype("float32")
    learner = Learner(
        weights,
        learn=("feature", "class", "task"),
        update_every=1,
        epsilon=0.2,
        normalize=False,
    )
    learner.update()
    sizes, precisions = weights.shape, [np.eye(n) for n in weights.shape]
    for k, mode in enumerate(("feature", "class", "task")):
        unfolded = np.moveaxis(weights, k, 0).reshape(sizes[k], -1).astype("float64")
        a, b = (precisions[j] for j in range(3) if j != k)
        covariance = unfolded @ np.kron(a, b) @ unfolded.T * sizes[k] / weights.size
        precisions[k] = np.linalg.inv(covariance + 0.2 * np.eye(sizes[k]))
        np.testing.assert_allclose(learner[f"{mode}_covariance"], covariance, rtol=1e-3, atol=1e-4)
    vector = weights.reshape(-1).astype("float64")
    expected = 0.5 * vector @ np.kron(np.kron(*precisions[:2]), precisions[2]) @ vector
    assert learner.penalty() == pytest.approx(expected, rel=1e-3)


def test_gradient_is_the_product_with_the_precisions():
    weights = RNG.normal(size=(3, 2, 4))
    learner = Learner(weights, strength=0.5, learn=("feature", "task"), update_every=1)
    learner.update()
    expected = 0.5 * np.einsum(
        "fct,fg,tu->gcu", weights, learner["feature_precision"], learner["task_precision"]
    )
    np.testing.assert_allclose(learner.gradient(), expected, rtol=1e-3, atol=1e-4)


def test_equal_opposite_and_unrelated_tasks():
    a, b = np.linalg.qr(RNG.normal(size=(6, 2)))[0].T
    learner = Learner(np.stack([a, a, -a, b], axis=-1)[:, None], update_every=1)
    learner.update()
    expected = [[1, 1, -1, 0], [1, 1, -1, 0], [-1, -1, 1, 0], [0, 0, 0, 1]]
    np.testing.assert_allclose(learner["task_covariance"], expected, atol=1e-5)


def test_updates_are_as_rare_as_asked():
    learner = Learner(RNG.normal(size=(3, 2, 4)), update_every=3)
    for _ in range(2):
        learner.update()
    np.testing.assert_array_equal(learner["task_precision"], np.eye(4))
    learner.update()
    assert np.abs(learner["task_precision"] - np.eye(4)).max() > 0.01


def test_weights_of_zero_and_fewer_features_than_tasks():
    learner = Learner(np.zeros((2, 1, 4)), update_every=1)
    learner.update()
    np.testing.assert_allclose(learner["task_covariance"], np.eye(4))
    learner.variable.assign(RNG.normal(size=(2, 1, 4)))
    learner.update()
    assert np.linalg.eigvalsh(learner["task_precision"]).max() == pytest.approx(10, rel=1e-3)


def test_other_axis_of_tasks():
    weights = RNG.normal(size=(3, 2, 4))
    one, other = (
        Learner(weights, update_every=1),
        Learner(np.moveaxis(weights, -1, 0), update_every=1, task_axis=0),
    )
    one.update()
    other.update()
    np.testing.assert_allclose(other["task_covariance"], one["task_covariance"], rtol=1e-5)
    assert other.penalty() == pytest.approx(one.penalty(), rel=1e-5)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"strength": -1}, "`strength` must be at least 0"),
        ({"learn": ()}, r"`learn` must name some of .* Received: learn=\(\)"),
        ({"learn": "task"}, "Received: learn='task'"),
        ({"learn": ["tasks"]}, "`learn` must name some of"),
        ({"update_every": 0}, "`update_every` must be an integer >= 1. Received: update_every=0"),
        ({"epsilon": 0}, "`epsilon` must be positive. Received: epsilon=0"),
    ],
)
def test_bad_arguments(kwargs, message):
    with pytest.raises(ValueError, match=message):
        Prior(**kwargs)


def test_a_layer_cannot_keep_what_it_learns():
    with pytest.raises(ValueError, match=r"`TensorNormalPrior` learns.*shape \(4, 1, 3\)"):
        layer = kmtl.layers.TaskStackedDense(1, num_tasks=3, kernel_regularizer=Prior())
        layer(np.ones((2, 4), "float32"))
        layer.losses  # noqa: B018
