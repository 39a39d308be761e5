"""Hard parameter sharing: one trunk, a head for each task."""

from collections.abc import Mapping

import keras
from keras import tree

from kmtl.models.graph import is_graph
from kmtl.models.multi_task_model import MultiTaskModel
from kmtl.models.towers import Stages, apply, as_model_inputs, make_inputs, tasks_of


def HardSharing(
    trunk: Stages, heads: Mapping, inputs=None, name: str | None = None
) -> MultiTaskModel:
    """A shared trunk with one head for each task.

    The plain choice, the cheapest on a device, and the one to beat: use it first, and the
    other networks where tasks disturb each other.

    ```
    outputs[t] = heads[t](trunk(x))
    ```

    Args:
        trunk: A Keras model (for instance from `keras.applications`), a layer, or a list of
            layers that are called one after the other. It is used as it is, not copied.
        heads: Task name -> layer, list of layers or model on the trunk's output.
        inputs: A `keras.Input` or a shape without the batch axis. Defaults to `None`: the
            trunk's own inputs.
        name: The model's name. Defaults to `None`, a name made by Keras.

    Returns:
        A `kmtl.MultiTaskModel`.

    Raises:
        ValueError: if `heads` is empty, or `inputs` is missing where the trunk has none.

    Example:

    >>> import keras
    >>> import kmtl
    >>> trunk = [keras.layers.Dense(16, activation="relu"), keras.layers.Dense(8)]
    >>> heads = {"price": keras.layers.Dense(1), "sold": keras.layers.Dense(2)}
    >>> model = kmtl.models.HardSharing(trunk, heads, inputs=(4,))
    >>> print({task: y.shape for task, y in sorted(model.output.items())})
    {'price': (None, 1), 'sold': (None, 2)}

    Reference: R. Caruana (1997), "Multitask Learning", Machine Learning 28, section 2.
    """
    tasks = tasks_of(heads)
    tensors = make_inputs(trunk, inputs)
    if is_graph(trunk) and isinstance(trunk, keras.Model) and trunk.built:
        x = tree.pack_sequence_as(trunk.input, tensors)
    else:
        x = tensors[0] if len(tensors) == 1 else tensors
    shared = apply(trunk, x)
    outputs = {task: apply(heads[task], shared) for task in tasks}
    return MultiTaskModel(as_model_inputs(tensors), outputs, name=name)
