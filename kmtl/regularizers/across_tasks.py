"""Where a penalty on stacked weights is to act: which weights of which layers correspond."""

import fnmatch
import glob
from collections.abc import Mapping, Sequence

import keras
from keras import ops


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

    Raises:
        ValueError: where layers are unknown, or differ in number or in the shape of the weight.

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

    def groups(self, model: keras.Model, tasks: Sequence[str]) -> list[list]:
        """For each penalty, the variables to stack, or one that is stacked already."""
        layers = dict(_layers(model))
        if isinstance(self.layers, str) and "{task}" not in self.layers:
            return [[v] for v in self._weights_of(layers, [self.layers])]
        tasks = tasks if isinstance(self.layers, str) else self.layers
        found = {
            task: self._weights_of(layers, self._names(task, layers)) for task in sorted(tasks)
        }
        shapes = {
            task: [f"{v.path} {tuple(v.shape)}" for v in variables]
            for task, variables in found.items()
        }
        if len({len(variables) for variables in found.values()}) > 1 or not all(found.values()):
            raise ValueError(
                "`layers` must find weights for each task, as many as for the others. "
                f"Received: {shapes}"
            )
        groups = [list(group) for group in zip(*found.values(), strict=True)]
        if any(len({tuple(v.shape) for v in group}) > 1 for group in groups):
            raise ValueError(
                f"Corresponding weights of tasks must have one shape. Received: {shapes}"
            )
        return groups

    def _names(self, task, layers):
        if not isinstance(self.layers, str):
            names = self.layers[task]
            return [names] if isinstance(names, str) else list(names)
        pattern = self.layers.replace("{task}", glob.escape(task))
        matches = [name for name in layers if fnmatch.fnmatchcase(name, pattern)]
        return [name for name in matches if _variables(layers[name], self.weight)]

    def _weights_of(self, layers, names):
        found = []
        for name in names:
            if name not in layers:
                raise ValueError(
                    "`layers` must name layers of the model. "
                    f"Received: {name!r}; there are {sorted(layers)}"
                )
            variables = _variables(layers[name], self.weight)
            if not variables:
                there = sorted({v.name for v in layers[name].weights})
                raise ValueError(
                    "`weight` must name a weight of each layer. "
                    f"Received: {self.weight!r} for layer {name!r}, which has {there}"
                )
            found += variables
        return found

    def get_config(self) -> dict:
        return {
            "regularizer": keras.regularizers.serialize(self.regularizer),
            "layers": self.layers,
            "weight": self.weight,
        }

    @classmethod
    def from_config(cls, config: Mapping):
        return cls(**config)


def stacked(variables: Sequence):
    """One tensor with the tasks last; a single variable is one already."""
    if len(variables) == 1:
        return ops.convert_to_tensor(variables[0])
    return ops.stack([ops.convert_to_tensor(v) for v in variables], axis=-1)


def _layers(model):
    for layer in model.layers:
        yield layer.name, layer
        if isinstance(layer, keras.Model):
            yield from _layers(layer)


def _variables(layer, name):
    """All of this name: a layer that runs both ways over a sequence has two."""
    return [] if isinstance(layer, keras.Model) else [v for v in layer.weights if v.name == name]
