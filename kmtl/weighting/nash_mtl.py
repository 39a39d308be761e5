"""The update that the tasks would agree on in a bargaining game."""

import keras
from keras import ops

from kmtl.ops.fairness import alpha_fair
from kmtl.weighting.gradient import GradientWeighting
from kmtl.weighting.task_numbers import check_number, check_whole


@keras.saving.register_keras_serializable(package="kmtl")
class NashMTL(GradientWeighting):
    """Maximises the product of all tasks' gains, so that the losses' scales do not matter.

    Choose it where losses differ in unit and scale: a loss multiplied by any factor gives the
    same update. Its length is always the same, too, so that learning rates carry over, but
    must fall for training to settle.

    ```
    update d = argmax over ||d|| = sqrt(T) of  sum over t of log(g_t . d)
             = sum over t of a[t] * g_t,   a > 0,   gramian @ a = 1 / a
    ```

    Two tasks: `a[t] = 1 / (||g_t|| * sqrt(1 + cosine))`. Where a convex combination of the
    gradients is zero, as for opposite ones, there is no solution; a ridge bounds `a` then, and
    the update is about zero. A task whose gradient is zero, say one without labels in the
    batch, is left out.

    Needs: the Gramian.

    State: with `update_every` above 1, the coefficients and the number of steps since.

    Scale: `sqrt(T)`, whatever the gradients' lengths. It is the length in the space of the
    scope: with "representation" that of the update of the batch's representations, which makes
    that of the weights depend on the batch size. Adam and its kin do not mind.

    Args:
        update_every: Number of steps that coefficients are kept for. A larger one saves the
            solver's time only, not that of the gradients. Defaults to `1`.
        max_norm: Bound of the update's length. New coefficients make it the factor
            `max_norm / sqrt(T)`, kept ones may need it. Defaults to `None`, no bound.
        **kwargs: `scope`, `parting`, `scale_heads` and `name` of `GradientWeighting`.

    Raises:
        ValueError: for an `update_every` below 1, a `max_norm` that is not positive, or an
            unknown scope.

    Example:

    >>> import numpy as np
    >>> import kmtl
    >>> rule = kmtl.weighting.NashMTL()
    >>> print(np.asarray(rule.combine(np.array([[2.0, 0.0], [0.0, 1.0]]))).round(4))
    [1. 1.]
    >>> print(np.asarray(rule.combine(np.array([[0.002, 0.0], [0.0, 1.0]]))).round(4))
    [1. 1.]

    Differences from the paper: Newton's method in place of a sequence of convex programs. The
    authors' code then clips the update's length to 1, which divides it by `sqrt(T)`: here
    that is `max_norm=1.0`. It also scales each head by `a[t]`; here only with `scale_heads`.

    Reference: A. Navon, A. Shamsian, I. Achituve, H. Maron, K. Kawaguchi, G. Chechik,
    E. Fetaya (2022), "Multi-Task Learning as a Bargaining Game", ICML, arXiv:2202.01017,
    claim 3.1 and algorithm 1.
    """

    def __init__(self, update_every: int = 1, max_norm: float | None = None, **kwargs):
        super().__init__(**kwargs)
        check_whole("update_every", update_every, 1)
        if max_norm is not None:
            check_number("max_norm", max_norm, "above 0")
        self.update_every = update_every
        self.max_norm = max_norm

    def create_state(self, losses):
        if self.update_every == 1:
            return
        settings = {"trainable": False, "aggregation": "only_first_replica"}
        self._kept = self.state.add_weight(
            name="kept", shape=(len(losses),), initializer="ones", **settings
        )
        self._age = self.state.add_weight(
            name="age", shape=(), dtype="int32", initializer="zeros", **settings
        )

    def solve(self, gramian, losses):
        del losses
        return self._shorten(self._bargain(gramian), gramian)

    def update(self, gramian, losses):
        self.advance(gramian, losses)

    def advance(self, gramian, losses):
        del losses
        a = self._bargain(gramian)
        if self.update_every > 1:
            self._kept.assign(a)
            self._age.assign((self._age + 1) % self.update_every)
        return self._shorten(a, gramian)

    def _shorten(self, a, gramian):
        if self.max_norm is None:
            return a
        length = ops.sqrt(ops.maximum(ops.sum(a * ops.matmul(gramian, a)), 0.0))
        return a * self.max_norm / ops.maximum(length, self.max_norm)

    def _bargain(self, gramian):
        if self.update_every == 1:
            return alpha_fair(gramian)
        kept = ops.convert_to_tensor(self._kept)
        return ops.cond(ops.equal(self._age, 0), lambda: alpha_fair(gramian), lambda: kept + 0.0)

    def get_config(self):
        return {
            **super().get_config(),
            "update_every": self.update_every,
            "max_norm": self.max_norm,
        }
