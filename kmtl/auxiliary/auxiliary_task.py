"""A helper task: a head that training has and inference does not."""

from collections.abc import Callable, Mapping

import keras
import numpy as np
from keras.optimizers.schedules import LearningRateSchedule

from kmtl.auxiliary.attaching import features_of, marked
from kmtl.auxiliary.checks import check_name, check_not_constant, check_weight
from kmtl.auxiliary.labels import labels_named


class AuxiliaryTask:
    """A task that is learned only because it helps the others learn.

    Use it when you have labels at training time that are no use later but tell the trunk what to
    look for: where the lanes are when you want the steering angle, lab values measured after the
    diagnosis, the head pose beside a face's landmarks. `kmtl.auxiliary.AuxiliaryTasks` adds it to
    a model. Choose the model on the main tasks' validation metrics alone; the helper often
    overfits first, see `kmtl.callbacks.TaskWiseEarlyStopping`.

    ```
    loss = sum_t L_t + weight * L_name        # of the main tasks t and of this one
    L_name = loss(targets(x, y), head(features(x)))
    ```

    All other tasks of `kmtl.auxiliary` derive from it. One of your own overrides `build`, which
    makes the outputs, and `targets`, which makes their labels; where it has several outputs, it
    sets the dicts `losses`, `weights`, `missing` and `metrics`.

    Args:
        name: The task's name, new to the model.
        targets: `(x, y) -> labels`, of arrays with a row for each sample; or the name of the
            entry of `y` that holds them and is for this task alone.
        head: A layer or model, from the features to the task's output; or a function that
            calls some.
        loss: As `compile` takes it.
        features: Name of the layer of your model whose output the head reads, or that
            tensor itself.
        weight: Factor of the loss: a number of at least 0, or a
            `keras.optimizers.schedules.LearningRateSchedule` of the training step. It is not
            used where `compile_arguments` gets a `weighting`, which then weighs this task, too.
            Defaults to `1.0`.
        missing: Label that means "no label". Defaults to `None`, all are there.
        metrics: A metric or a list of them. Defaults to `None`.

    Attributes:
        losses: Output -> loss, as `compile` takes it.
        weights: Output -> weight.
        missing: Output -> missing label, of the outputs that have one.
        metrics: Output -> metrics, of the outputs that have any.
        own_labels: Names of entries of `y` that are for this task alone.
        fitted: Whether `targets` can be asked. Only a task that learns from the training data
            starts with False and overrides `fit`.
        by_batch: Whether `targets` of a batch are those of its samples in the whole data.

    Raises:
        ValueError: for an empty name, or a weight that is neither a number of at least 0 nor a
            schedule; on building, for a layer that the model lacks, or has used more than once.

    Example:

    >>> import keras
    >>> import kmtl
    >>> x = keras.Input((4,))
    >>> h = keras.layers.Dense(8, activation="relu", name="trunk")(x)
    >>> model = keras.Model(x, {"steering": keras.layers.Dense(1)(h)})
    >>> lanes = kmtl.auxiliary.AuxiliaryTask(
    ...     "lanes", "lanes", keras.layers.Dense(2), loss="mse", features="trunk", weight=0.3
    ... )
    >>> both = kmtl.auxiliary.AuxiliaryTasks([lanes]).attach(model)
    >>> print(both.task_names)
    ['lanes', 'steering']

    Differences from the paper: Caruana weighs all outputs alike; here the weight is yours.

    References:

    - R. Caruana (1997), "Multitask Learning", Machine Learning 28, pages 41 to 75.
    - Z. Zhang, P. Luo, C. C. Loy, X. Tang (2014), "Facial Landmark Detection by Deep Multi-task
      Learning", ECCV: main and auxiliary losses, with weights of their own.
    """

    fitted = True
    by_batch = True

    def __init__(
        self,
        name: str,
        targets: Callable | str,
        head: Callable,
        loss,
        features: str | keras.KerasTensor,
        weight: float | LearningRateSchedule = 1.0,
        missing: float | None = None,
        metrics=None,
    ):
        check_name(name)
        check_weight(weight)
        self.name, self.head, self.features = name, head, features
        self._targets = targets
        self.own_labels = {targets} if isinstance(targets, str) else set()
        self.losses = {name: loss}
        self.weights = {name: weight}
        self.missing = {} if missing is None else {name: missing}
        self.metrics = {} if metrics is None else {name: metrics}

    def prepare(self, model: keras.Model) -> keras.Model:
        """The user's model as the task needs it, with the same layers; most take it as it is."""
        return model

    def build(self, model: keras.Model) -> dict[str, keras.KerasTensor]:
        """The task's outputs, on the graph of the user's model.

        Args:
            model: A functional model.

        Returns:
            Output name -> tensor that comes out of `kmtl.layers.TrainingOnly`.
        """
        return {self.name: marked(self.name, self.head(features_of(model, self.features)))}

    def fit(self, x, y) -> None:
        """Learns from the training data what `targets` needs; most tasks need nothing."""

    def targets(self, x, y) -> dict[str, np.ndarray]:
        """Output name -> labels.

        Args:
            x: The model's inputs: an array, or a dict of them.
            y: Task name -> labels, of a whole data set or of a batch.
        """
        if not isinstance(self._targets, str):
            return {self.name: np.asarray(self._targets(x, y))}
        return {self.name: labels_named(self._targets, y, self.name)}

    def inputs(self, x):
        """What the model gets of the data's inputs; most tasks leave them alone.

        Args:
            x: An array, or a dict of them.
        """
        return x

    def check_targets(self, labels: Mapping[str, np.ndarray]) -> None:
        """Raises ValueError for labels that nothing can be learned from.

        Args:
            labels: Output name -> labels of all training data.
        """
        for output, values in labels.items():
            check_not_constant(output, values, self.missing.get(output))
