"""Weights from homoscedastic uncertainty, learned with the network."""

from collections.abc import Mapping

import keras
from keras import ops

from kmtl.weighting.base import TaskWeighting

KINDS = ("regression", "classification", "laplace")
REGULARIZERS = ("log_sigma", "log1p")


@keras.saving.register_keras_serializable(package="kmtl")
class UncertaintyWeighting(TaskWeighting):
    """Weighs each task by a learned noise level: the noisier, the less it counts.

    A good first choice where losses differ in unit and scale (metres and nats): it replaces
    the search for static weights by one learned scalar a task. With `s = log(sigma ** 2)`:

    ```
    regularizer="log_sigma"
      regression      0.5 * exp(-s) * loss + 0.5 * s        # Gaussian, loss = squared error
      classification        exp(-s) * loss + 0.5 * s        # softmax scaled by 1 / sigma**2
      laplace         exp(-0.5 * s) * loss + 0.5 * s        # loss = absolute error, b = sigma
    regularizer="log1p"
      all kinds       0.5 * exp(-s) * loss + log(1 + exp(s))
    ```

    The total of the first form may become negative, which is no error; the second stays above
    zero. For a constant loss the optimum is `sigma**2 = loss` (regression), `2 * loss`
    (classification), `b = loss` (laplace), and, for "log1p",
    `sigma**2 = (loss + sqrt(loss**2 + 8 * loss)) / 4`.

    Where losses begin large, `s` takes thousands of steps, as Adam divides by its first gradients
    for long: a `beta_2` of 0.99 in place of 0.999 lets them go sooner.

    Needs: losses.

    State: one trainable scalar a task, trained by the model's optimizer without weight decay
    and saved with the model. The logs show its variance as `<task>_variance`.

    Args:
        kinds: Task name -> `"regression"`, `"classification"` or `"laplace"`, or one of them
            for all. Defaults to `None`: read off each task's loss; cross-entropies, hinge and
            divergence losses are classification, absolute errors laplace, the rest
            regression.
        initial_log_var: Start of `s`. Defaults to `0.0`.
        regularizer: `"log_sigma"` (Kendall et al.) or `"log1p"` (Liebel and Koerner).
            Defaults to `"log_sigma"`.
        clip: Bounds of `s` in the formulas. Defaults to `(-10.0, 10.0)`.

    Raises:
        ValueError: for an unknown kind or regularizer, or kinds for other tasks.

    Example:

    >>> import keras
    >>> import kmtl
    >>> x = keras.Input((4,))
    >>> outputs = {"price": keras.layers.Dense(1)(x), "sold": keras.layers.Dense(2)(x)}
    >>> model = kmtl.MultiTaskModel(x, outputs)
    >>> model.compile(
    ...     loss={"price": "mse", "sold": keras.losses.SparseCategoricalCrossentropy(True)},
    ...     weighting=kmtl.weighting.UncertaintyWeighting(),
    ... )
    >>> print(model.weighting.task_kinds)
    {'price': 'regression', 'sold': 'classification'}

    Differences from the paper: `s` is clipped. The paper's own published example code drops
    the factors 0.5, which doubles the scale and keeps the optimum; here they stay.

    Reference: A. Kendall, Y. Gal, R. Cipolla (2018), "Multi-Task Learning Using Uncertainty to
    Weigh Losses for Scene Geometry and Semantics", CVPR, arXiv:1705.07115, equations 7 and 10.
    L. Liebel, M. Koerner (2018), "Auxiliary Tasks in Multi-task Learning", arXiv:1805.06334,
    for "log1p".
    """

    def __init__(
        self,
        kinds: Mapping[str, str] | str | None = None,
        initial_log_var: float = 0.0,
        regularizer: str = "log_sigma",
        clip: tuple[float, float] = (-10.0, 10.0),
        name: str | None = None,
    ):
        super().__init__(name)
        if regularizer not in REGULARIZERS:
            raise ValueError(
                f"`regularizer` must be one of {REGULARIZERS}. Received: regularizer={regularizer}"
            )
        given = kinds.values() if isinstance(kinds, Mapping) else [kinds] if kinds else []
        if not set(given) <= set(KINDS):
            raise ValueError(f"`kinds` must be among {KINDS}. Received: kinds={kinds}")
        if len(clip) != 2 or not clip[0] < clip[1]:
            raise ValueError(f"`clip` must be (low, high) with low < high. Received: clip={clip}")
        if not clip[0] <= initial_log_var <= clip[1]:
            raise ValueError(
                f"`initial_log_var` must lie within `clip`. Received: "
                f"initial_log_var={initial_log_var}, clip={clip}"
            )
        self.kinds = dict(kinds) if isinstance(kinds, Mapping) else kinds
        self.initial_log_var = initial_log_var
        self.regularizer = regularizer
        self.clip = tuple(clip)

    def create_state(self, losses):
        if isinstance(self.kinds, dict) and set(self.kinds) != set(losses):
            raise ValueError(
                f"`kinds` must name the tasks {sorted(losses)}. Received: kinds={self.kinds}"
            )
        self.task_kinds = {
            task: self.kinds[task] if isinstance(self.kinds, dict) else self.kinds or _kind(loss)
            for task, loss in sorted(losses.items())
        }
        self.log_var = self.state.add_weight(
            name="log_var",
            shape=(len(self.task_names),),
            initializer=keras.initializers.Constant(self.initial_log_var),
        )

    def weights(self, losses):
        if self.regularizer == "log1p":
            return 0.5 * ops.exp(-self._s)
        kinds = list(self.task_kinds.values())
        factor = ops.array([0.5 if kind == "regression" else 1.0 for kind in kinds])
        exponent = ops.array([0.5 if kind == "laplace" else 1.0 for kind in kinds])
        return factor * ops.exp(-exponent * self._s)

    def penalty(self):
        if self.regularizer == "log1p":
            return ops.sum(ops.softplus(self._s))
        return 0.5 * ops.sum(self._s)

    @property
    def variances(self) -> dict:
        """Task name -> variance of its noise: `sigma**2`; for "log_sigma" laplace `2 * b**2`."""
        exact = self.regularizer == "log_sigma"
        kinds = self.task_kinds.values()
        scale = [2.0 if exact and kind == "laplace" else 1.0 for kind in kinds]
        values = ops.unstack(ops.array(scale) * ops.exp(self._s), len(scale))
        return dict(zip(self.task_names, values, strict=True))

    def describe(self, weights):
        del weights
        return {f"{task}_variance": variance for task, variance in self.variances.items()}

    @property
    def _s(self):
        return ops.clip(ops.convert_to_tensor(self.log_var), *self.clip)

    def get_config(self):
        return {
            **super().get_config(),
            "kinds": self.kinds,
            "initial_log_var": self.initial_log_var,
            "regularizer": self.regularizer,
            "clip": self.clip,
        }


def _kind(loss) -> str:
    name = getattr(loss, "fn", loss)
    name = getattr(name, "__name__", type(loss).__name__).lower()
    if any(part in name for part in ("entropy", "hinge", "divergence", "focal", "multilabel")):
        return "classification"
    return "laplace" if "absolute" in name else "regression"
