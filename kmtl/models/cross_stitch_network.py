"""Cross-stitch networks over any backbone."""

from collections.abc import Mapping, Sequence

from kmtl.layers import CrossStitch
from kmtl.models.multi_task_model import MultiTaskModel
from kmtl.models.towers import (
    Stages,
    as_model_inputs,
    attach_heads,
    make_inputs,
    run_together,
    tasks_of,
    towers_by_task,
)


def CrossStitchNetwork(
    towers: Mapping[str, Stages] | Stages,
    heads: Mapping,
    stitch_after: Mapping[str, Sequence] | Sequence | None = None,
    per_channel: bool = True,
    same_init: float = 0.9,
    different_init: float | None = None,
    lr_multiplier: float = 1.0,
    inputs=None,
    name: str | None = None,
) -> MultiTaskModel:
    """One tower for each task, joined by cross-stitch units after chosen layers.

    Choose it where tasks are related but a shared trunk hurts one of them and the device
    bears one tower for each task.

    ```
    features[t] = stage(features[t])             # each tower its own weights
    features    = CrossStitch()(features)        # after each joint
    outputs[t]  = heads[t](features[t])
    ```

    Args:
        towers: Task name -> tower, or one tower as a template for all. A tower is a
            functional model (two `keras.applications` backbones, say) or a list of stages,
            each a layer, a model or a list of layers. Towers are copied with their weights,
            which is how the paper starts (from networks trained on one task each); yours are
            left alone.
        heads: Task name -> layer, list of layers or model on the tower's output. Copied too.
        stitch_after: Names of the layers (models) or names or positions of the stages
            (lists) after which to stitch; a dict by task where towers name them differently.
            Defaults to `None`: after every stage of a list.
        per_channel: See `kmtl.layers.CrossStitch`. Defaults to `True`.
        same_init: See `kmtl.layers.CrossStitch`. Defaults to `0.9`.
        different_init: See `kmtl.layers.CrossStitch`. Defaults to `None`.
        lr_multiplier: See `kmtl.layers.CrossStitch`. Defaults to `1.0`.
        inputs: A `keras.Input` or a shape without the batch axis, the same for all towers.
            Defaults to `None`: the first tower's own inputs.
        name: The model's name. Defaults to `None`, a name made by Keras.

    Returns:
        A `kmtl.MultiTaskModel`.

    Raises:
        ValueError: for towers of unequal shape at a joint, unknown layers in `stitch_after`,
            or towers for other tasks than `heads`.

    Example:

    >>> import keras
    >>> import kmtl
    >>> tower = [keras.layers.Dense(16, activation="relu"), keras.layers.Dense(8)]
    >>> heads = {"price": keras.layers.Dense(1), "sold": keras.layers.Dense(2)}
    >>> model = kmtl.models.CrossStitchNetwork(tower, heads, inputs=(4,))
    >>> print([layer.name for layer in model.layers if "stitch" in layer.name])
    ['cross_stitch_0', 'cross_stitch_1']

    Differences from the paper: any number of tasks and any backbone.

    Reference: I. Misra, A. Shrivastava, A. Gupta, M. Hebert (2016), "Cross-stitch Networks
    for Multi-task Learning", CVPR, arXiv:1604.03539, section 3.
    """
    tasks = tasks_of(heads)
    by_task = towers_by_task(towers, tasks)
    tensors = make_inputs(by_task[tasks[0]], inputs)

    def stitch(k, features):
        return CrossStitch(
            num_tasks=len(tasks),
            per_channel=per_channel,
            same_init=same_init,
            different_init=different_init,
            lr_multiplier=lr_multiplier,
            name=f"cross_stitch_{k}",
        )(features)

    features = run_together(by_task, tensors, stitch_after, stitch)
    outputs = attach_heads(heads, features)
    return MultiTaskModel(as_model_inputs(tensors), outputs, name=name)
