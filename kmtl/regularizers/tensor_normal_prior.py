"""A prior that learns how the weights of tasks are correlated."""

import math

import keras
from keras import ops

from kmtl.regularizers.checks import check_strength, check_task_axis
from kmtl.regularizers.learned import LearnedRegularizer

MODES = ("feature", "class", "task")


@keras.saving.register_keras_serializable(package="kmtl")
class TensorNormalPrior(LearnedRegularizer):
    """Ties the weights of tasks by the correlations that it finds among them.

    Choose it where some tasks are alike, others opposite or unrelated, and nobody knows which:
    the prior learns it while the weights train, and the correlations are worth a look. It is the
    penalty of multilinear relationship networks, for the layers of tasks after a shared trunk.
    Give it to a model by `kmtl.regularizers.AcrossTasks`, which keeps what it learns.

    ```
    W          = weights as (features F, classes C, tasks T)
    penalty    = strength / 2 * sum(W * (W x_1 P_1 x_2 P_2 x_3 P_3))
    every `update_every` steps, for each k in `learn`:
    S_k        = D_k / D * W_(k) [ (x)_{j != k} P_j ] W_(k)^T                D = F * C * T
    S_k        = S_k * D_k / trace(S_k)                                      if normalize
    P_k        = (S_k + epsilon * I)^-1
    ```

    With all P_k = I, as at the start, it is the usual L2 penalty.

    Args:
        strength: Factor of the penalty. Defaults to `1.0`.
        learn: Which covariances are learned, of `"feature"`, `"class"`, `"task"`; the others stay
            identities. "feature" takes `F**2` numbers, and "class" means something only where the
            tasks have the same classes. Defaults to `("task",)`.
        update_every: Training steps between updates. Defaults to `100`.
        epsilon: What is added to the variances, whose mean is 1 if normalised: no direction is
            penalised more than `1 / epsilon` times as much as in an L2 penalty. Without it no
            weights could leave the directions that the tasks have taken up already, fewer than
            tasks where there are few features. Defaults to `0.1`.
        normalize: Whether the mean variance is kept at 1, so that `strength` alone says how strong
            the prior is; else weights and variances can shrink together. Defaults to `True`.
        task_axis: The axis of tasks; of the others the last is that of classes. Defaults to `-1`.

    Input shape: `(..., C, T)`, or T at `task_axis`.

    Output shape: `()`.

    Raises:
        ValueError: when called as the regularizer of a layer.

    Example:

    >>> import keras
    >>> import numpy as np
    >>> import kmtl
    >>> x = keras.Input((4,))
    >>> heads = kmtl.layers.TaskStackedDense(1, num_tasks=3, name="heads")(x)
    >>> model = kmtl.MultiTaskModel(x, dict(zip("abc", heads)))
    >>> prior = kmtl.regularizers.TensorNormalPrior(strength=0.01, update_every=10)
    >>> relations = kmtl.regularizers.AcrossTasks(prior, layers="heads")
    >>> model.compile("adam", loss="mse", penalties=[relations])
    >>> inputs, labels = np.ones((64, 4)), {task: np.ones((64, 1)) for task in "abc"}
    >>> history = model.fit(inputs, labels, epochs=10, verbose=0)
    >>> print(relations.task_correlation().shape)
    (3, 3)

    Differences from the paper: the log-determinants, constant for the weights, are left out. In the
    released code precisions stop at 10, since eigenvalues of 0.1 and less are kept as they are;
    `epsilon` does that here, smoothly. There, only the task covariance is updated, and without
    `D_k / D`; the trace is capped at 3000 in place of `normalize`. All in float32.

    Reference: M. Long, Z. Cao, J. Wang, P. S. Yu (2017), "Learning Multiple Tasks with Multilinear
    Relationship Networks", NIPS, arXiv:1506.02117, the tensor normal prior and its flip-flop
    updates.
    """

    def __init__(
        self,
        strength=1.0,
        learn=("task",),
        update_every=100,
        epsilon=0.1,
        normalize=True,
        task_axis=-1,
    ):
        check_strength(strength)
        if not learn or isinstance(learn, str) or not set(learn) <= set(MODES):
            raise ValueError(f"`learn` must name some of {MODES}. Received: learn={learn!r}")
        if not isinstance(update_every, int) or update_every < 1:
            raise ValueError(
                f"`update_every` must be an integer >= 1. Received: update_every={update_every}"
            )
        if not epsilon > 0:
            raise ValueError(f"`epsilon` must be positive. Received: epsilon={epsilon}")
        self.strength = strength
        self.learn = list(learn)
        self.update_every = update_every
        self.epsilon = epsilon
        self.normalize = normalize
        self.task_axis = task_axis

    def create_state(self, shape, add_weight, name):
        sizes = dict(zip(MODES, self._sizes(shape), strict=True))

        settings = {"trainable": False, "aggregation": "only_first_replica"}

        def add(what, shape, **kwargs):
            return add_weight(name=f"{name}_{what}", shape=shape, **settings, **kwargs)

        state = {"step": add("step", (), initializer="zeros", dtype="int32")}
        for mode in MODES:
            if mode in self.learn:
                size = sizes[mode]
                for what in ("covariance", "precision"):
                    state[f"{mode}_{what}"] = add(
                        f"{mode}_{what}", (size, size), initializer="identity"
                    )
        return state

    def penalty(self, x, state):
        w = self._cube(x)
        precisions = {k: ops.convert_to_tensor(state[f"{k}_precision"]) for k in self.learn}
        return 0.5 * self.strength * ops.sum(w * _products(w, precisions))

    def update(self, x, state):
        w = self._cube(x)
        names = [f"{mode}_{what}" for mode in self.learn for what in ("covariance", "precision")]
        before = [ops.convert_to_tensor(state[name]) for name in names]
        step = state["step"] + 1

        def updated():
            values = dict(zip(names, before, strict=True))
            for mode in MODES:
                if mode in self.learn:
                    values |= self._updated(w, mode, values)
            return [values[name] for name in names]

        after = ops.cond(ops.equal(step % self.update_every, 0), updated, lambda: before)
        state["step"].assign(step)
        for name, value in zip(names, after, strict=True):
            state[name].assign(value)

    def _updated(self, w, mode, values):
        axis, size = MODES.index(mode), w.shape[MODES.index(mode)]
        others = {k: values[f"{k}_precision"] for k in self.learn if k != mode}
        left = ops.reshape(ops.moveaxis(w, axis, 0), (size, -1))
        right = ops.reshape(ops.moveaxis(_products(w, others), axis, 0), (size, -1))
        covariance = ops.matmul(left, ops.transpose(right)) * size / math.prod(w.shape)
        if self.normalize:
            trace = ops.trace(covariance)
            scaled = covariance * (size / ops.where(trace > 0, trace, 1.0))
            covariance = ops.where(trace > 0, scaled, ops.eye(size))  # weights may all be 0
        covariance = (covariance + ops.transpose(covariance)) / 2
        eigenvalues, vectors = ops.eigh(covariance)
        scales = 1 / (ops.maximum(eigenvalues, 0.0) + self.epsilon)
        precision = ops.matmul(vectors * scales, ops.transpose(vectors))
        return {f"{mode}_covariance": covariance, f"{mode}_precision": precision}

    def _sizes(self, shape):
        check_task_axis(shape, self.task_axis)
        *others, classes = (n for a, n in enumerate(shape) if a != self.task_axis % len(shape))
        return math.prod(others), classes, shape[self.task_axis]

    def _cube(self, x):
        sizes = self._sizes(x.shape)
        return ops.reshape(ops.moveaxis(ops.cast(x, "float32"), self.task_axis, -1), sizes)

    def get_config(self):
        return {
            "strength": self.strength,
            "learn": self.learn,
            "update_every": self.update_every,
            "epsilon": self.epsilon,
            "normalize": self.normalize,
            "task_axis": self.task_axis,
        }


def _products(w, matrices):
    """`w` times a matrix along each of the named axes."""
    for mode, matrix in matrices.items():
        axis = MODES.index(mode)
        moved = ops.tensordot(w, matrix, axes=[[axis], [1]])
        w = ops.moveaxis(moved, -1, axis)
    return w
