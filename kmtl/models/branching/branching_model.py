"""Networks that begin thin and branch while they are trained."""

from collections.abc import Mapping, Sequence

import keras

from kmtl.models.branching.growth import GrowingModel
from kmtl.models.branching.thinning import fill_from_wide
from kmtl.models.branching.tree import thin_tree
from kmtl.models.graph import Cloner, is_graph
from kmtl.models.towers import as_model_inputs, attach_heads, make_inputs, tasks_of


def BranchingModel(
    stages: Sequence,
    heads: Mapping,
    wide: keras.Model | Sequence | None = None,
    inputs=None,
    name: str | None = None,
) -> GrowingModel:
    """All tasks share every stage at first; stages are then copied for tasks that are unlike.

    Choose it where some of many tasks belong together and others do not, and you do not know
    which: it finds a tree of branches by itself, in one training, from the top down. With
    `kmtl.callbacks.BranchWidening` this goes on during `fit`; `affinity`, `propose` and `widen`
    are its steps by hand.

    ```
    outputs[t] = heads[t](stage_L(... stage_0(x)))                              # thin, at first
    e[n, i]    = |target - score|[n, i] >= its mean over n                      # difficult for i
    A[i, j]    = mean_n(e[n, i] * e[n, j] + (1 - e[n, i]) * (1 - e[n, j]))
    A_b[k, l]  = (mean_{i in k} min_{j in l} A[i, j] + mean_{i in l} min_{j in k} A[i, j]) / 2
    grouping   = cheapest by the cost of BranchWidening, of the branches above the active stage
    widen      : each group gets a copy of the active stage; the stage below is active then
    ```

    It ends where one branch serves all tasks, or at the input. In between all layers are trained.

    Widening changes the model in place, so `fit`, callbacks and you keep the same object; state
    and outputs are as before. (A static network of the widest form would cost on every step what
    the method is to spare, and a new model could not be handed to the `fit` that runs.) It works
    with `MirroredStrategy`, and under JAX, between epochs. The optimizer is replaced by an equal
    one that holds the old state, and in which copies have that of their originals: ask for
    `model.optimizer` anew. The tree is saved with the model, as it decides which variables
    there are.

    Args:
        stages: A list, from the input up; each is a layer, a model or a list of layers. They are
            copied with their weights; models are taken apart.
        heads: Task name -> layer, list of layers or model on the last stage's output. Copied.
        wide: A trained network of the same kinds of layers as `stages` in the same order, but with
            more filters: a model, or a list of layers. The stages then begin with its filters,
            chosen by `kmtl.analysis.somp_filters`. Defaults to `None`: with their own weights.
        inputs: A `keras.Input` or a shape without the batch axis. Defaults to `None`, which is
            for stages that begin with a model with inputs of its own.
        name: The model's name. Defaults to `None`, a name made by Keras.

    Returns:
        A `kmtl.MultiTaskModel`, which also has `tree` (print it), `plot_tree()`,
        `affinity(data)`, `propose(affinity)`, `widen(grouping)` and `grow_to(tree)`.

    Raises:
        ValueError: if there are no stages or heads, a stage is empty or returns several tensors,
            or `wide` does not fit; and from the methods for affinities that are not symmetric or
            not in [0, 1], groupings that leave tasks out or take a branch apart, and widening
            past the input.

    Example:

    >>> import keras
    >>> import kmtl
    >>> stages = [keras.layers.Dense(8, activation="relu") for _ in range(2)]
    >>> heads = {task: keras.layers.Dense(1) for task in ("bald", "beard", "hat")}
    >>> model = kmtl.models.BranchingModel(stages, heads, inputs=(4,))
    >>> affinity = [[1.0, 0.9, 0.2], [0.9, 1.0, 0.3], [0.2, 0.3, 1.0]]
    >>> model.widen(model.propose(affinity))
    >>> print(model.tree)
    stage_0: bald, beard, hat
      stage_1: bald, beard
        bald
        beard
      stage_1_1: hat
        hat

    Differences from the paper: stages of one or more layers take the place of layers. Groupings
    are chosen among all of up to 8 branches; above, among those of spectral clustering and those
    of merging the most alike, which is ours. Margins of several classes, of missing labels and of
    regressions are ours, and so is batch normalization in thinning. `widen` has no argument for
    the layer, as only one is active. The formulas are as remembered from the paper and were not
    compared with its text; the order of steps, the copying of filters and thinning by SOMP are as
    published summaries of it say.

    Reference: Y. Lu, A. Kumar, S. Zhai, Y. Cheng, T. Javidi, R. Feris (2017), "Fully-adaptive
    Feature Sharing in Multi-Task Networks with Applications in Person Attribute Classification",
    CVPR, arXiv:1611.05377, figure 2 and the section on widening.
    """
    tasks = tasks_of(heads)
    stages = _checked(stages)
    tensors = make_inputs(stages[0][0], inputs)
    cloner = Cloner(rename=lambda layer: layer.name, names={x.name for x in tensors})
    x = tensors[0] if len(tensors) == 1 else tensors
    names, made = [], []
    for i, stage in enumerate(stages):
        for layer in stage:
            x = cloner(layer, (x,), {})
        if not isinstance(x, keras.KerasTensor):
            raise ValueError(
                f"A stage must return one tensor. Received: {len(x)} from stage {i} of `stages`"
            )
        names.append(cloner.unique(f"stage_{i}"))
        x = keras.layers.Identity(name=names[-1])(x)
        made.append(x)
    outputs = attach_heads(heads, dict.fromkeys(tasks, x))
    model = GrowingModel(as_model_inputs(tensors), outputs, name=name)
    model.tree = thin_tree(tasks, names)
    if wide is not None:
        end = keras.Model(tensors, made[-1])
        fill_from_wide(_layers_of(end, leave_out=names), _layers_of(wide))
    return model


def _checked(stages):
    if not isinstance(stages, (list, tuple)) or not stages:
        raise ValueError(
            f"`stages` must be a list of at least one stage. Received: stages={stages!r}"
        )
    stages = [list(s) if isinstance(s, (list, tuple)) else [s] for s in stages]
    if not all(stage and all(callable(layer) for layer in stage) for stage in stages):
        raise ValueError(
            "A stage must be a layer, a model or a list of at least one of them. "
            f"Received: stages={stages}"
        )
    return stages


def _layers_of(network, leave_out=()):
    """Layers in the order in which they run, models taken apart."""
    layers = network.layers if is_graph(network) else keras.tree.flatten(network)
    found = []
    for layer in layers:
        if is_graph(layer):
            found += _layers_of(layer)
        elif not isinstance(layer, keras.layers.InputLayer) and layer.name not in leave_out:
            found.append(layer)
    return found
