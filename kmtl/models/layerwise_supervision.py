"""Layerwise supervision: simple tasks at low layers of one stack, others above."""

from collections.abc import Mapping, Sequence

from kmtl.models.multi_task_model import MultiTaskModel
from kmtl.models.task_arguments import check_names
from kmtl.models.towers import as_model_inputs, attach_heads, make_inputs, tasks_of


def LayerwiseSupervision(
    layers: Sequence,
    heads: Mapping,
    levels: Mapping[str, int],
    inputs=None,
    name: str | None = None,
) -> MultiTaskModel:
    """One stack of layers, where each task has its head at a level of its own.

    Choose it over `HardSharing` where one task is a step towards another, as parts of speech are
    towards chunks: supervised at a lower layer, the simple task shapes what the other builds on,
    and does not compete with it for the upper layers. Deployed alone, it runs the lower ones only.

    ```
    h[0] = x,   h[l] = layers[l - 1](h[l - 1])
    outputs[t] = heads[t](h[levels[t]])         # the loss of t reaches layers up to levels[t]
    ```

    The paper trains one task at a time, drawn anew for each step. There are two ways:

    - `fit(kmtl.data.TaskMixture(sources, batch_size, sampling="uniform", mode="one_source"))`,
      with a source for each task and `compile(missing=mixture.missing)`. Layers that a step's
      task does not reach get gradients of 0: plain SGD, the paper's, leaves them as they are to
      the bit, but momentum, Adam and weight decay still move them.
    - `kmtl.models.model_of_task` for each task, each compiled with an optimizer of its own, in
      turns: then layers that are not reached stay as they are with any optimizer.

    Args:
        layers: The stack from the bottom up: layers, models, or lists of them that make up one
            level. They are used as they are, not copied.
        heads: Task name -> layer, list of layers or model. Copied.
        levels: Task name -> the level that its head reads, from 1 for the first of `layers` to
            `len(layers)`.
        inputs: A `keras.Input` or a shape without the batch axis. Defaults to `None`: those of
            the first layer, if it is a model.
        name: The model's name. Defaults to `None`, a name made by Keras.

    Returns:
        A `kmtl.MultiTaskModel`.

    Raises:
        ValueError: for a level out of range, a task without one, or layers above the highest
            level, which no task would train.

    Example:

    >>> import keras
    >>> import kmtl
    >>> lstm = keras.layers.LSTM
    >>> stack = [lstm(8, return_sequences=True, name=f"lstm_{k}") for k in (1, 2, 3)]
    >>> heads = {"pos": keras.layers.Dense(5), "chunk": keras.layers.Dense(3)}
    >>> levels = {"pos": 1, "chunk": 3}
    >>> model = kmtl.models.LayerwiseSupervision(stack, heads, levels, inputs=(None, 4))
    >>> only = kmtl.models.model_of_task(model, "pos")
    >>> print(model.count_params(), only.count_params())
    1576 461

    Differences from the paper: any layers, where it has bi-LSTMs. Its Gaussian noise on the inputs
    is a `keras.layers.GaussianNoise` before the first layer. Its sizes and rates are not known
    here for certain, so nothing is a default.

    Reference: A. Soegaard, Y. Goldberg (2016), "Deep multi-task learning with low level tasks
    supervised at lower layers", ACL, P16-2038, section 2.
    """
    tasks = tasks_of(heads)
    stack = list(layers) if isinstance(layers, (list, tuple)) else []
    if not stack:
        raise ValueError(f"`layers` must be a list of at least one. Received: layers={layers!r}")
    if not isinstance(levels, Mapping):
        raise ValueError(f"`levels` must be a dict of task -> level. Received: levels={levels!r}")
    check_names(tasks, "`levels`", levels, complete=True)
    for task, level in levels.items():
        if isinstance(level, bool) or not isinstance(level, int) or not 1 <= level <= len(stack):
            raise ValueError(
                f"A level must be an integer from 1 to {len(stack)}, the number of layers. "
                f"Received: {level!r} for task {task!r}"
            )
    if max(levels.values()) < len(stack):
        raise ValueError(
            "The highest level must be that of the last layer, as no task would train the layers "
            f"above. Received: levels={dict(levels)} with {len(stack)} layers"
        )
    tensors = make_inputs(stack[0], inputs)
    h = tensors[0] if len(tensors) == 1 else tensors
    reached = []
    for level in stack:
        for layer in level if isinstance(level, (list, tuple)) else [level]:
            h = layer(h)
        reached.append(h)
    outputs = attach_heads(heads, {task: reached[levels[task] - 1] for task in tasks})
    return MultiTaskModel(as_model_inputs(tensors), outputs, name=name)
