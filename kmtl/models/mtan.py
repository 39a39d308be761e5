"""Multi-task attention networks: one trunk, and a thin branch of attention for each task."""

from collections.abc import Mapping, Sequence

import keras

from kmtl.layers.attention_gate import AttentionGate
from kmtl.layers.pointwise import batch_normalization
from kmtl.models.multi_task_model import MultiTaskModel
from kmtl.models.towers import as_model_inputs, attach_heads, layer_prefix, make_inputs, tasks_of


def MTAN(
    stages: Sequence[tuple],
    heads: Mapping,
    between: Sequence | None = None,
    hidden: int | None = None,
    inputs=None,
    name: str | None = None,
) -> MultiTaskModel:
    """A shared trunk from whose every stage each task takes what it attends to.

    Choose it for dense predictions on images, where tasks want different features of one trunk
    but a tower for each does not fit the device.

    ```
    u[j] = stages[j][0](x[j]);  p[j] = stages[j][1](u[j]);  x[j + 1] = between[j](p[j])
    a[t, j]    = AttentionGate()([u[j], p[j], f[t, j - 1]])            # without f for j = 0
    f[t, j]    = between[j](relu(batch_norm(conv3x3(a[t, j]))))        # one conv for all tasks
    outputs[t] = heads[t](f[t, last])
    ```

    Args:
        stages: The trunk, from input to output: pairs `(first, second)` of layers, models or
            lists of layers, all used as they are, not copied. The channels may change in both,
            the resolution only in `first` of the first stage, and in `between`.
        heads: Task name -> layer, list of layers or model on the task's own features. Copied.
        between: What lies between a stage and the next, one less than `stages`: layers without
            weights that change the resolution, such as `MaxPooling2D` or `UpSampling2D`, or
            None. They act on the trunk and on every task's features. Defaults to `None`: nothing
            anywhere.
        hidden: See `kmtl.layers.AttentionGate`. Defaults to `None`.
        inputs: A `keras.Input` or a shape without the batch axis. Defaults to `None`: those of
            `stages[0][0]`, if it is a model.
        name: The model's name. Defaults to `None`, a name made by Keras.

    Returns:
        A `kmtl.MultiTaskModel`. Features of vectors or sequences are refined by `Dense` layers
        instead of 3x3 convolutions.

    Raises:
        ValueError: if `stages` are no pairs, `between` has another length or holds weights, or
            the features of a stage and of the tasks differ in resolution.

    Example:

    >>> import keras
    >>> import kmtl
    >>> def conv(filters):
    ...     return keras.layers.Conv2D(filters, 3, padding="same", activation="relu")
    >>> heads = {"seg": keras.layers.Conv2D(5, 1), "depth": keras.layers.Conv2D(1, 1)}
    >>> model = kmtl.models.MTAN(
    ...     [(conv(8), conv(8)), (conv(16), conv(16))],
    ...     heads,
    ...     between=[keras.layers.MaxPooling2D()],
    ...     inputs=(32, 32, 3),
    ... )
    >>> print({task: y.shape for task, y in sorted(model.output.items())})
    {'depth': (None, 16, 16, 1), 'seg': (None, 16, 16, 5)}

    Differences from the paper: stages are yours, and one rule holds for all. The released
    SegNet refines before it samples down and after it samples up, lets the gates of its decoder
    read what comes into a stage as `u`, and does not refine after the last stage. To weightings
    by gradients the refining convolutions belong to the heads: their gradients are added, not
    combined.

    Reference: S. Liu, E. Johns, A. Davison (2019), "End-to-End Multi-Task Learning with
    Attention", CVPR, arXiv:1803.10704, section 3 and figure 2.
    """
    tasks = tasks_of(heads)
    _check_stages(stages)
    between = [None] * (len(stages) - 1) if between is None else list(between)
    if len(between) != len(stages) - 1:
        raise ValueError(
            "`between` must have one entry less than `stages`. "
            f"Received: {len(between)} for {len(stages)} stages"
        )
    tensors = make_inputs(stages[0][0], inputs)
    x = tensors[0] if len(tensors) == 1 else tensors
    features = dict.fromkeys(tasks)
    for j, (first, second) in enumerate(stages):
        early = _run(first, x)
        late = x = _run(second, early)
        refine = _refinement(late, j)
        for task in tasks:
            own = [] if features[task] is None else [features[task]]
            gate = AttentionGate(hidden, name=f"{layer_prefix(task)}_attention_{j}")
            features[task] = _run(refine, gate([early, late, *own]))
        if j < len(between) and between[j] is not None:
            x = _run(between[j], x)
            features = {task: _run(between[j], f) for task, f in features.items()}
            _check_without_weights(between[j])
    outputs = attach_heads(heads, features)
    return MultiTaskModel(as_model_inputs(tensors), outputs, name=name)


def _as_list(layers):
    return layers if isinstance(layers, (list, tuple)) else [layers]


def _run(layers, x):
    for layer in _as_list(layers):
        x = layer(x)
    return x


def _refinement(x, j):
    """The layers that all tasks' features of a stage go through."""
    channels, name = x.shape[-1], f"refine_{j}"
    if len(x.shape) == 4:
        conv = keras.layers.Conv2D(
            channels, 3, padding="same", data_format="channels_last", name=name
        )
    else:
        conv = keras.layers.Dense(channels, name=name)
    norm = batch_normalization(f"{name}_norm", 0.9, conv.dtype_policy)
    return [conv, norm, keras.layers.Activation("relu", name=f"{name}_relu")]


def _check_stages(stages):
    pairs = isinstance(stages, (list, tuple)) and len(stages) > 0
    if not pairs or not all(isinstance(s, (list, tuple)) and len(s) == 2 for s in stages):
        raise ValueError(
            "`stages` must be a list of pairs `(first, second)` of layers. "
            f"Received: stages={stages}"
        )


def _check_without_weights(layers):
    found = [layer.name for layer in _as_list(layers) if layer.weights]
    if found:
        raise ValueError(
            "`between` must hold layers without weights, as all tasks go through them. "
            f"Received: weights in {found}"
        )
