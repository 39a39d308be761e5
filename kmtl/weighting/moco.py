"""The shortest common descent direction, from gradients that are tracked over the steps."""

import keras
from keras import ops

from kmtl.ops.simplex_descent import descend_on_simplex
from kmtl.weighting.task_numbers import check_number
from kmtl.weighting.tracking import TrackingWeighting, check_at_least_0


@keras.saving.register_keras_serializable(package="kmtl")
class MoCo(TrackingWeighting):
    """Seeks the shortest vector between averages of the tasks' gradients, step by step.

    Choose it in place of `MGDA` where batches are small: the shortest vector between noisy
    gradients is biased, whatever the number of steps, and the one between their averages less
    and less so. It keeps a gradient by all shared weights for each task in memory.

    ```
    y[t]    = y[t] - beta / k**beta_sigma * (y[t] - row[t])      # in step k, from y = 0
    weights = projection to the simplex of
              weights - gamma / k**gamma_sigma * (y @ y.T + rho * I) @ weights   # from 1 / T
    update  = sum over t of weights[t] * y[t]
    ```

    The step `gamma` acts on squares of gradients: where losses are far from 1, scale them or
    choose `gamma` accordingly.

    Needs: the Jacobian by the shared weights.

    State: `y`, as large as the shared weights times the number of tasks, the weights, shown in
    the logs, and the number of steps.

    Scale: that of a weighted mean of the gradients; in the first steps less, as `y` starts
    from zero.

    Args:
        beta: Share of the new gradient in `y` in the first step, above 0 and at most 1.
            Defaults to `0.5`.
        beta_sigma: How fast that share decays. Defaults to `0.5`.
        gamma: Step size of the weights in the first step. Defaults to `0.1`.
        gamma_sigma: How fast that decays. Defaults to `0.5`.
        rho: Pull of the weights towards equal ones. Defaults to `0.0`.
        scope: Only `"parameters"`, as the gradients are tracked over batches. Defaults to
            `"parameters"`.
        **kwargs: `parting`, `scale_heads` and `name` of `GradientWeighting`.

    Raises:
        ValueError: for numbers out of range or an unknown scope.

    Example:

    >>> import numpy as np
    >>> import kmtl
    >>> rule = kmtl.weighting.MoCo(gamma=1.0)
    >>> print(np.asarray(rule.combine(np.array([[2.0, 0.0], [0.0, 1.0]]))))
    [0.3125  0.34375]

    Differences from the paper: `y` is not projected to a bounded set, which the paper needs for
    its proof. The update takes the new `weights` and `y`, as the authors' code does. The
    defaults are LibMTL's. LibMTL first rescales each gradient to the length of its loss, and
    takes a softmax in place of the projection, which keeps the weights close to equal; here, as
    in the paper and in the authors' code for Office-31, gradients are tracked as they are.

    Reference: H. Fernando, H. Shen, M. Liu, S. Chaudhury, K. Murugesan, T. Chen (2023),
    "Mitigating Gradient Bias in Multi-objective Learning: A Provably Convergent Approach",
    ICLR, arXiv:2210.12624, algorithm 1.
    """

    def __init__(
        self,
        beta: float = 0.5,
        beta_sigma: float = 0.5,
        gamma: float = 0.1,
        gamma_sigma: float = 0.5,
        rho: float = 0.0,
        scope: str = "parameters",
        **kwargs,
    ):
        super().__init__(scope=scope, **kwargs)
        check_number("beta", beta, "above 0 and at most 1")
        check_at_least_0(beta_sigma=beta_sigma, gamma=gamma, gamma_sigma=gamma_sigma, rho=rho)
        self.beta = beta
        self.beta_sigma = beta_sigma
        self.gamma = gamma
        self.gamma_sigma = gamma_sigma
        self.rho = rho

    def create_state(self, losses):
        self._steps = self.add_state("steps", ())
        self._weights = self.add_state("weights", (len(losses),), 1.0 / len(losses))

    def create_buffers(self, num_tasks, size):
        self._tracked = self.add_state("tracked", (num_tasks, size))

    def track(self, jacobian):
        step = self._steps + 1.0
        rate = self.beta * ops.power(step, -self.beta_sigma)
        y = self._tracked - rate * (self._tracked - jacobian)
        weights = ops.convert_to_tensor(self._weights)
        gradient = ops.matmul(y, ops.matmul(weights, y)) + self.rho * weights
        size = self.gamma * ops.power(step, -self.gamma_sigma)
        weights = descend_on_simplex(weights, size * gradient)
        state = [(self._steps, step), (self._tracked, y), (self._weights, weights)]
        return weights, y, state

    def get_config(self):
        return {
            **super().get_config(),
            "beta": self.beta,
            "beta_sigma": self.beta_sigma,
            "gamma": self.gamma,
            "gamma_sigma": self.gamma_sigma,
            "rho": self.rho,
        }
