"""Gradients that are pulled towards the angles they usually have."""

import keras
from keras import ops

from kmtl.ops.gramian import inverse_or_zero, unit_gramian
from kmtl.weighting.gradient import GradientWeighting, check_reduction
from kmtl.weighting.random_orders import RandomOrders
from kmtl.weighting.task_numbers import check_number

# A target of 1 would ask for infinitely much of the other task's gradient.
MAX_TARGET = 0.999


@keras.saving.register_keras_serializable(package="kmtl")
class GradVac(GradientWeighting):
    """Turns each task's gradient towards another's until they are as alike as they usually are.

    Choose it in place of `PCGrad` where most tasks agree somewhat, as languages of one
    translation model do: it acts on gradients that are less alike than usual even if they do
    not conflict. With targets of 0, as in the first step, it is `PCGrad`.

    ```
    for each task i:   g = g_i
        for each other task j, in random order:
            c = cosine of g and g_j
            if c < target[i, j]:
                g = g + ||g|| * (target * sqrt(1 - c**2) - c * sqrt(1 - target**2))
                              / (||g_j|| * sqrt(1 - target**2)) * g_j   # now its cosine is target
            target[i, j] = (1 - beta) * target[i, j] + beta * c         # for the next step
    update = sum over i of g                                            # reduction="sum"
    ```

    Needs: the Gramian. All of it works on coefficients, never on the gradients themselves.

    State: the targets, the next step's order, and the seed that it is drawn from.

    Scale: that of the plain sum, or of the mean with `reduction="mean"`; more where gradients
    are turned by a wide angle.

    Args:
        beta: How fast targets follow the cosines seen, from 0 to 1. Defaults to `0.01`.
        reduction: `"sum"` or `"mean"` over the tasks. Defaults to `"sum"`.
        seed: Seed of the random orders. Defaults to `None`, a new one each time.
        **kwargs: `scope`, `parting`, `scale_heads` and `name` of `GradientWeighting`.

    Raises:
        ValueError: for a `beta` out of range, an unknown reduction or scope.

    Example:

    >>> import numpy as np
    >>> import kmtl
    >>> rule = kmtl.weighting.GradVac(beta=1.0)
    >>> jacobian = np.array([[4.0, 0.0], [0.0, 4.0]])
    >>> print(np.asarray(rule.combine(jacobian)).round(3))
    [4. 4.]
    >>> rule.update(np.array([[1.0, 0.6], [0.6, 1.0]]), None)  # a step with a cosine of 0.6
    >>> print(np.asarray(rule.combine(jacobian)).round(3))
    [7. 7.]

    Differences from the paper: it has targets for each layer as an option; here one gradient
    of all that `scope` sees counts. Targets are used up to 0.999, and stay as they are where a
    gradient is zero. LibMTL's default is a `beta` of 0.5, and its targets follow only cosines
    below them, so that they can never rise from 0.

    Reference: Z. Wang, Y. Tsvetkov, O. Firat, Y. Cao (2021), "Gradient Vaccine: Investigating
    and Improving Multi-task Optimization in Massively Multilingual Models", ICLR,
    arXiv:2010.05874, equations 2 and 3, algorithm 1.
    """

    def __init__(
        self, beta: float = 0.01, reduction: str = "sum", seed: int | None = None, **kwargs
    ):
        super().__init__(**kwargs)
        check_number("beta", beta, "between 0 and 1")
        check_reduction(reduction)
        self.beta = beta
        self.reduction = reduction
        self.seed = seed

    def create_state(self, losses):
        n = len(losses)
        self._orders = RandomOrders(self.state, n, self.seed)
        self._targets = self.state.add_weight(
            name="targets",
            shape=(n, n),
            initializer="zeros",
            trainable=False,
            aggregation="only_first_replica",
        )

    def solve(self, gramian, losses):
        del losses
        return self._vaccinate(gramian)[0]

    def update(self, gramian, losses):
        self.advance(ops.cast(ops.convert_to_tensor(gramian), "float32"), losses)

    def advance(self, gramian, losses):
        del losses
        a, targets = self._vaccinate(gramian)
        self._targets.assign(targets)
        return a

    def draw(self):
        self._orders.redraw()

    def _vaccinate(self, gramian):
        """The coefficients, and the targets of the next step."""
        unit, norms = unit_gramian(gramian)
        c, cosines, met = self._meet_all(unit, norms)
        # From unit gradients back to the tasks' own.
        total, present = ops.matmul(norms, c), norms > 0.0
        a = ops.where(present, total / ops.where(present, norms, 1.0), 1.0)
        a = a if self.reduction == "sum" else a / gramian.shape[0]
        change = self.beta * (cosines - self._targets)
        return a, self._targets + ops.where(met, change, 0.0)

    def _meet_all(self, unit, norms):
        """What becomes of each gradient.

        Returns:
            `(c, cosines, met)`, each `(T, T)`: row i of `c` is task i's new gradient divided by
            the length of the old one, as a combination of unit gradients; the cosine between
            the tasks when they met; and whether they did.
        """
        n = unit.shape[0]
        order, targets = self._orders.value, ops.convert_to_tensor(self._targets)
        targets = ops.clip(targets, -MAX_TARGET, MAX_TARGET)
        present = norms > 0.0
        met = present[:, None] & present[None, :] & (ops.eye(n) == 0.0)

        def meet(k, state):
            # `products`: of each new gradient with each unit gradient, `c @ unit`.
            c, products, cosines = state
            whom = ops.one_hot(order[:, k], n)
            length = ops.sqrt(ops.maximum(ops.sum(products * c, axis=1), 0.0))
            cosine = ops.sum(products * whom, axis=1) * inverse_or_zero(length)
            cosine = ops.clip(cosine, -1.0, 1.0)
            target = ops.sum(targets * whom, axis=1)
            slope = target / ops.sqrt(1.0 - ops.square(target))
            factor = length * (slope * ops.sqrt(1.0 - ops.square(cosine)) - cosine)
            meets = ops.any(met & (whom > 0.0), axis=1) & (cosine < target)
            added = ops.where(meets, factor, 0.0)[:, None]
            products = products + added * ops.take(unit, order[:, k], axis=0)
            return c + added * whom, products, cosines + cosine[:, None] * whom

        c, _, cosines = ops.fori_loop(0, n, meet, (ops.eye(n), unit, ops.zeros((n, n))))
        return c, cosines, met

    def get_config(self):
        return {
            **super().get_config(),
            "beta": self.beta,
            "reduction": self.reduction,
            "seed": self.seed,
        }
