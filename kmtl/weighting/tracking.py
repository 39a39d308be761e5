"""What the rules have in common whose weights or gradients move on from step to step."""

from keras import ops

from kmtl.weighting.jacobian import JacobianWeighting
from kmtl.weighting.task_numbers import check_number


class TrackingWeighting(JacobianWeighting):
    """Base of the rules that follow a weighted sum of gradients by means of a moving state.

    Write one by overriding `track`. The logs show the weights.

    Args:
        scope: Only `"parameters"`, as nothing else outlives a batch. Defaults to
            `"parameters"`.
        **kwargs: `parting`, `scale_heads` and `name` of `GradientWeighting`.
    """

    scopes = ("parameters",)
    gives_weights = True

    def __init__(self, scope: str = "parameters", **kwargs):
        super().__init__(scope=scope, **kwargs)

    def track(self, jacobian):
        """One step, as a pure function of the gradients and of the state.

        Returns:
            `(weights, rows, state)`: the update is `weights @ rows`; `state` has a new value
            for each variable that moves on, as pairs of both.
        """
        raise NotImplementedError

    def add_state(self, name: str, shape: tuple, value: float = 0.0):
        """A variable that only the rule changes, filled with `value`."""
        return self.state.add_weight(
            name=name,
            shape=shape,
            initializer=lambda shape, dtype: ops.full(shape, value, dtype),
            trainable=False,
            aggregation="only_first_replica",
        )

    def solve_jacobian(self, jacobian, losses):
        weights, rows, _ = self.track(jacobian)
        return ops.matmul(weights, rows)

    def update_buffers(self, jacobian, losses):
        _assign(self.track(jacobian)[2])

    def step(self, gramian, jacobian, losses, finite, due=True):
        return self._run_compiled(self.follow, [jacobian], finite, due)

    def follow(self, jacobian):
        """One step: the weights and the combined gradient; then moves the state on."""
        weights, rows, state = self.track(jacobian)
        _assign(state)
        return weights, ops.matmul(weights, rows)


def check_at_least_0(**values) -> None:
    """Raises `ValueError` unless all values are; the names are those of the arguments."""
    for name, value in values.items():
        check_number(name, value, "at least 0")


def _assign(state):
    for variable, value in state:
        variable.assign(value)
