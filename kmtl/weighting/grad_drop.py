"""One sign for each coordinate of the gradients."""

from collections.abc import Mapping

import keras
from keras import ops

from kmtl.weighting.jacobian import JacobianWeighting
from kmtl.weighting.task_numbers import check_number, numbers_by_task


@keras.saving.register_keras_serializable(package="kmtl")
class GradDrop(JacobianWeighting):
    """Keeps, in each coordinate, only the gradients of one sign, drawn at random.

    Choose it for many tasks whose gradients disagree in many coordinates: it seeks minima
    that all tasks share, as steps along a disagreement change at random. Coordinates in which
    all agree are those of the plain sum.

    ```
    purity = 0.5 * (1 + sum_t g_t / sum_t |g_t|)       # for each coordinate, in [0, 1]
    sign   = 1 with probability purity, else -1
    update = sum_t g_t * (1 where sign(g_t) = sign, leak[t] elsewhere)
    ```

    With "parameters" the coordinates are the shared weights. With "representation" they are the
    features of the tensors where tasks part: `g_t` in the first three lines is then the
    gradient times the sign of the feature, added up over the batch, and the factors of the
    last line apply to every sample.

    Needs: the Jacobian.

    State: the seed of the next step's random numbers.

    Scale: that of the plain sum, or less where tasks disagree.

    Args:
        leak: Share of the dropped values that passes nevertheless, between 0 and 1; a number
            for all tasks or task name -> number, 0 for tasks left out. Defaults to `0.0`.
        seed: Seed of the random signs. Defaults to `None`, a new one each time.
        **kwargs: `scope` (`"representation"` or `"parameters"`), `parting` and `name` of
            `GradientWeighting`.

    Raises:
        ValueError: for a leak out of range or of other tasks, or an unknown scope.

    Example:

    >>> import numpy as np
    >>> import kmtl
    >>> jacobian = np.array([[1.0, -2.0], [3.0, -1.0]])
    >>> print(np.asarray(kmtl.weighting.GradDrop().combine(jacobian)))
    [ 4. -3.]

    Differences from the paper: none that is known. The paper's function of the purity is the
    identity here, as in its experiments.

    Reference: Z. Chen, J. Ngiam, Y. Huang, T. Luong, H. Kretzschmar, Y. Chai, D. Anguelov
    (2020), "Just Pick a Sign: Optimizing Deep Multitask Models with Gradient Sign Dropout",
    NeurIPS, arXiv:2010.06808, algorithm 1.
    """

    by_feature = True

    def __init__(self, leak: float | Mapping[str, float] = 0.0, seed: int | None = None, **kwargs):
        super().__init__(**kwargs)
        for value in leak.values() if isinstance(leak, Mapping) else [leak]:
            check_number("leak", value, "between 0 and 1")
        self.leak = dict(leak) if isinstance(leak, Mapping) else leak
        self.seed = seed

    def create_state(self, losses):
        leak = self.leak if isinstance(self.leak, dict) else dict.fromkeys(losses, self.leak)
        self._leaks = numbers_by_task("leak", leak, losses, default=0.0)
        self.state.seed_generator = keras.random.SeedGenerator(self.seed)

    def solve_jacobian(self, jacobian, losses):
        del losses
        # Sums first: as factors of the gradients, XLA would draw the signs anew for each task.
        leaks, up = ops.array(self._leaks, "float32")[:, None], self._draw_up(jacobian)
        positive, negative = ops.maximum(jacobian, 0.0), ops.minimum(jacobian, 0.0)
        return ops.where(
            up,
            ops.sum(positive + leaks * negative, axis=0),
            ops.sum(negative + leaks * positive, axis=0),
        )

    def step_by_feature(self, gramian, jacobian, losses, finite):
        kept = ops.where(self._draw_up(jacobian), jacobian > 0.0, jacobian < 0.0)
        self.move_on(self.draw, ops.all(finite))
        self._count_skipped(finite)
        return ops.where(kept, 1.0, ops.array(self._leaks, "float32")[:, None])

    def _draw_up(self, jacobian):
        """For each coordinate whether the positive values are kept."""
        size = ops.sum(ops.abs(jacobian), axis=0)
        purity = 0.5 * (1.0 + ops.sum(jacobian, axis=0) / ops.where(size > 0.0, size, 1.0))
        seed = _CurrentSeed(self.state.seed_generator)
        return keras.random.uniform(ops.shape(jacobian)[1:], seed=seed) < purity

    def draw(self):
        self.state.seed_generator.next()

    def get_config(self):
        return {**super().get_config(), "leak": self.leak, "seed": self.seed}


class _CurrentSeed(keras.random.SeedGenerator):
    """A generator's seed without moving the generator on, so that to draw changes no state."""

    def __init__(self, generator):
        self._generator = generator

    def next(self, ordered=True):
        del ordered
        return ops.convert_to_tensor(self._generator.state)
