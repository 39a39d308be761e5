"""GradVac: the published formula on the gradients, and how targets move."""

import numpy as np
import pytest

import kmtl

pytestmark = pytest.mark.both_backends


def state(rule, name):
    (variable,) = [v for v in rule.state.variables if v.name == name]
    return variable


def reference(jacobian, order, targets, beta):
    """Algorithm 1, on the gradients themselves."""
    total, targets = np.zeros(jacobian.shape[1]), targets.copy()
    for i, g in enumerate(jacobian):
        g = g.copy()
        for j in order[i]:
            if j == i:
                continue
            other, phi = jacobian[j], targets[i, j]
            length, other_length = np.linalg.norm(g), np.linalg.norm(other)
            c = g @ other / (length * other_length)
            if c < phi:
                g = g + other * length * (phi * np.sqrt(1 - c**2) - c * np.sqrt(1 - phi**2)) / (
                    other_length * np.sqrt(1 - phi**2)
                )
                cosine = g @ other / np.linalg.norm(g) / other_length
                np.testing.assert_allclose(cosine, phi, atol=1e-9)
            targets[i, j] = (1 - beta) * phi + beta * c
        total += g
    return total, targets


def test_the_algorithm_over_several_steps():
    rng = np.random.default_rng(0)
    rule, beta = kmtl.weighting.GradVac(beta=0.4, seed=1), 0.4
    targets, turned = np.zeros((5, 5)), 0
    for _ in range(3):
        jacobian = (0.6 + rng.normal(size=(5, 9))) * np.logspace(-2, 2, 5)[:, None]
        gramian = jacobian @ jacobian.T
        update = np.asarray(rule.combine(jacobian))
        order = np.asarray(state(rule, "order"))
        expected, new_targets = reference(jacobian, order, targets, beta)
        np.testing.assert_allclose(update, expected, atol=1e-4 * np.linalg.norm(expected))
        rule.update(gramian, None)
        rule.draw()
        np.testing.assert_allclose(np.asarray(state(rule, "targets")), new_targets, atol=1e-5)
        assert (np.asarray(state(rule, "order")) != order).any()
        turned += np.linalg.norm(expected - jacobian.sum(axis=0)) > 0.01
        targets = new_targets
    assert turned == 3 and targets.max() > 0.1


def test_golden_value_of_the_first_step_is_pcgrad_s():
    update = kmtl.weighting.GradVac().combine(np.array([[1.0, 0.0], [-1.0, 1.0]]))
    np.testing.assert_allclose(np.asarray(update), [0.5, 1.5], rtol=1e-6)


@pytest.mark.parametrize("phi", [-0.5, 0.3, 0.8])
def test_two_tasks_get_the_target_s_cosine(phi):
    rule = kmtl.weighting.GradVac(reduction="mean")
    gramian = np.array([[4.0, -3.0], [-3.0, 9.0]])
    rule.bind_to(2)
    targets = np.array([[0.0, phi], [-1.0, 0.0]])  # the second task never changes
    state(rule, "targets").assign(targets)
    a = 2 * np.asarray(rule.coefficients(gramian))
    assert np.isclose(a[0], 1.0)
    c = np.array([1.0, a[1] - 1.0])  # the first task's new gradient
    if phi == -0.5:
        c_expected = [1.0, 0.0]  # cosine is -0.5 already
        np.testing.assert_allclose(c, c_expected, atol=1e-5)
    cosine = c @ gramian[:, 1] / np.sqrt(c @ gramian @ c * 9.0)
    np.testing.assert_allclose(cosine, phi, atol=1e-5)


def test_targets_stay_where_a_gradient_is_zero_and_equal_gradients_are_fine():
    rule = kmtl.weighting.GradVac(beta=1.0)
    equal = np.ones((3, 4))
    gramian = equal @ equal.T
    rule.combine(equal)
    rule.update(gramian, None)
    np.testing.assert_allclose(np.asarray(state(rule, "targets")), 1.0 - np.eye(3), atol=1e-6)
    rule.update(np.diag([1.0, 0.0, 1.0]), None)
    expected = np.array([[0, 1, 0], [1, 0, 1], [0, 1, 0]])
    np.testing.assert_allclose(np.asarray(state(rule, "targets")), expected, atol=1e-6)
    # Even a target of 1 gives a finite update.
    opposite = np.array([[1.0, 2.0], [-1.0, -2.0], [2.0, -1.0]])
    assert np.isfinite(np.asarray(rule.combine(opposite))).all()


def test_wrong_arguments():
    with pytest.raises(ValueError, match="`beta` must be between 0 and 1. Received: beta=1.5"):
        kmtl.weighting.GradVac(beta=1.5)
    with pytest.raises(ValueError, match="`reduction` must be one of"):
        kmtl.weighting.GradVac(reduction="max")
