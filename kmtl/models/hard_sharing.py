"""Hard parameter sharing: one trunk, a head for each task."""

from collections.abc import Mapping

from keras import tree

from kmtl.models.graph import is_graph
from kmtl.models.multi_task_model import MultiTaskModel
from kmtl.models.towers import Stages, as_model_inputs, attach_heads, make_inputs, tasks_of


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
        heads: Task name -> layer, list of layers or model on the trunk's output. Copied.
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
    if isinstance(trunk, Mapping):
        raise ValueError(
            "`trunk` must be one model, layer or list of layers for all tasks. "
            f"Received: a dict for {sorted(trunk)}"
        )
    tensors = make_inputs(trunk, inputs)
    x = tensors[0] if len(tensors) == 1 else tensors
    if len(tensors) > 1 and is_graph(trunk):
        x = tree.pack_sequence_as(trunk.input, tensors)
    for layer in trunk if isinstance(trunk, (list, tuple)) else [trunk]:
        x = layer(x)
    outputs = attach_heads(heads, dict.fromkeys(tasks, x))
    return MultiTaskModel(as_model_inputs(tensors), outputs, name=name)
