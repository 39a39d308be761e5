"""Where a penalty on stacked weights is to act: which weights of which layers correspond."""

import weakref
from collections.abc import Mapping, Sequence

import keras
import numpy as np
from keras import ops

from kmtl.regularizers.correlation_plot import plot_correlation
from kmtl.regularizers.corresponding import corresponding_weights, stacked
from kmtl.regularizers.learned import LearnedRegularizer


@keras.saving.register_keras_serializable(package="kmtl")
class AcrossTasks:
    """A penalty on corresponding weights of the tasks' own layers.

    Choose it to tie the towers of a model together, which keep their weights in variables of
    their own, by a penalty that is made for stacked ones; or to give a layer that stacks its tasks
    a penalty with a state, which a regularizer of a layer cannot have.

    ```
    W[k]    = stack of the k-th layer's `weight` of every task, tasks last
    penalty = sum_k regularizer(W[k])
    ```

    It goes into `compile(penalties=[...])` of a `kmtl.MultiTaskModel`. Tasks are stacked in sorted
    order, which is also that of the rows of an affinity.

    Args:
        regularizer: A regularizer of stacked weights, such as `kmtl.regularizers.SoftSharing`.
        layers: Task -> name of a layer, or list of names, as many for each task; or a pattern of
            names with `{task}`, such as `"{task}_*"`, whose matches pair up in the order of the
            model; or the name of one layer whose weight stacks the tasks already. The layers of
            models in the model are found, too.
        weight: Name of the weight. With a pattern, layers that have none are left out. Defaults
            to `"kernel"`.

    Attributes:
        state: A Keras layer with what a `kmtl.regularizers.LearnedRegularizer` has learned, saved
            with the model; None before `compile`.

    Raises:
        ValueError: where tasks or layers are unknown, layers differ in number or in the shape of
            the weight, or two tasks have one layer; where the penalty belongs to another model.

    Example:

    >>> import keras
    >>> import kmtl
    >>> tower = [keras.layers.Dense(8, activation="relu", name="hidden")]
    >>> heads = {"price": keras.layers.Dense(1), "sold": keras.layers.Dense(1)}
    >>> model = kmtl.models.CrossStitchNetwork(tower, heads, inputs=(4,))
    >>> tie = kmtl.regularizers.SoftSharing(strength=0.1)
    >>> penalty = kmtl.regularizers.AcrossTasks(tie, layers="{task}_hidden")
    >>> model.compile("adam", loss="mse", penalties=[penalty])

    Differences from the paper: the survey says that parameters of corresponding layers are tied; it
    leaves open how they are found.

    Reference: S. Ruder (2017), "An Overview of Multi-Task Learning in Deep Neural Networks",
    arXiv:1706.05098, section 3.2 and figure 2.
    """

    def __init__(
        self,
        regularizer: keras.regularizers.Regularizer | str | Mapping,
        layers: Mapping[str, str | Sequence[str]] | str,
        weight: str = "kernel",
    ):
        self.regularizer = keras.regularizers.get(regularizer)
        if not callable(self.regularizer):
            raise ValueError(
                f"`regularizer` must be a regularizer. Received: regularizer={regularizer!r}"
            )
        if not isinstance(layers, str) and (not isinstance(layers, Mapping) or len(layers) < 2):
            raise ValueError(
                "`layers` must be a name, or a dict of at least two tasks -> names. "
                f"Received: layers={layers!r}"
            )
        self.layers = layers
        self.weight = weight
        self.state = None
        self._owner = None
        self._names = None
        self._groups = []
        self._states = []

    def bind(self, model: keras.Model, tasks: Sequence[str], name: str) -> None:
        """Finds the weights in a model and creates the state; `compile` calls it.

        Args:
            model: The model, to which the penalty then belongs.
            tasks: The names of its tasks.
            name: Name of the state in the model.
        """
        owner = self._owner() if self._owner else None
        if owner not in (None, model):
            raise ValueError(
                "A penalty keeps the state of one model; make a new one for each. "
                f"Received: the penalty of {owner.name!r} for {model.name!r}"
            )
        self._groups = corresponding_weights(model, tasks, self.layers, self.weight)
        if len(self._groups[0]) > 1:
            self._names = sorted(tasks if isinstance(self.layers, str) else self.layers)
        if owner is None:
            self._owner = weakref.ref(model)
            self.state = keras.layers.Layer(name=name, dtype="float32")
            self._states = [self._new_state(k) for k in range(len(self._groups))]
            self.state.built = True

    def _new_state(self, k):
        if not isinstance(self.regularizer, LearnedRegularizer):
            return {}
        shape = stacked(self._groups[k]).shape
        return self.regularizer.create_state(shape, self.state.add_weight, f"group_{k}")

    @property
    def variables(self) -> list:
        """All weights that it ties."""
        return [v for group in self._groups for v in group]

    def __call__(self):
        """The penalty on the weights as they are."""
        if not isinstance(self.regularizer, LearnedRegularizer):
            return sum(self.regularizer(stacked(group)) for group in self._groups)
        pairs = zip(self._groups, self._states, strict=True)
        return sum(self.regularizer.penalty(stacked(group), state) for group, state in pairs)

    def update(self) -> None:
        """Moves what is learned on, once each training step."""
        if isinstance(self.regularizer, LearnedRegularizer):
            for group, state in zip(self._groups, self._states, strict=True):
                self.regularizer.update(ops.stop_gradient(stacked(group)), state)

    def learned(self, k: int = 0) -> dict:
        """What is learned of the k-th weights, counted from 0: name -> array.

        Raises:
            ValueError: before `compile`, and for weights that there are not.
        """
        if not self._states:
            raise ValueError("A model must be compiled with the penalty first.")
        if k not in range(len(self._states)):
            raise ValueError(f"`k` must be from 0 to {len(self._states) - 1}. Received: k={k}")
        return {name: ops.convert_to_numpy(value) for name, value in self._states[k].items()}

    def task_correlation(self, k: int = 0) -> np.ndarray:
        """The learned correlations of the k-th weights' tasks, `(T, T)`, in the stack's order.

        Raises:
            ValueError: as `learned`, and if the regularizer learns no covariance of tasks.
        """
        learned = self.learned(k)
        if "task_covariance" not in learned:
            raise ValueError(
                "The correlation of tasks must be learned, as by "
                "`kmtl.regularizers.TensorNormalPrior`. "
                f"Received: {type(self.regularizer).__name__}, which learns {sorted(learned)}"
            )
        covariance = learned["task_covariance"]
        deviations = np.sqrt(np.maximum(np.diag(covariance), np.finfo("float32").tiny))
        return covariance / np.outer(deviations, deviations)

    def plot_task_correlation(self, k: int = 0):
        """A heat map of `task_correlation`, a `matplotlib.figure.Figure`.

        Raises:
            ImportError: if matplotlib is not installed.
        """
        return plot_correlation(self.task_correlation(k), self._names)

    def get_config(self) -> dict:
        return {
            "regularizer": keras.regularizers.serialize(self.regularizer),
            "layers": self.layers,
            "weight": self.weight,
        }

    @classmethod
    def from_config(cls, config: Mapping):
        return cls(**config)
