"""The part of a network that one task needs, as a model to train by itself."""

from kmtl.models.graph import ancestors
from kmtl.models.multi_task_model import MultiTaskModel
from kmtl.models.task_arguments import check_names
from kmtl.models.towers import as_model_inputs


def model_of_task(model: MultiTaskModel, task: str) -> MultiTaskModel:
    """A model of one task's output, with the very layers of the whole model.

    Choose it where tasks take turns, one to a step: the layers that the task does not use are no
    part of this model, so that a step costs less and leaves them as they are to the bit, whatever
    the optimizer. In the whole model they get gradients of 0, at which plain SGD leaves a weight
    as it is, but momentum, Adam and weight decay do not.

    ```
    whole.layers = layers of the task + others;      model_of_task(whole, task).layers = the first
    ```

    Compile one for each task, each with an optimizer of its own, and train them in turns; the
    whole model is then trained, too, to be evaluated, saved and exported. What belongs to
    `compile` (optimizer, weighting, penalties) is each model's own, and saved with that model.

    Args:
        model: A `kmtl.MultiTaskModel`.
        task: Name of one of its tasks.

    Returns:
        A `kmtl.MultiTaskModel` with this task and the inputs that it needs.

    Raises:
        ValueError: for a task that the model does not have, and for another model.

    Example:

    >>> import keras
    >>> import numpy as np
    >>> import kmtl
    >>> stack = [keras.layers.Dense(4, name="low"), keras.layers.Dense(4, name="high")]
    >>> heads = {"pos": keras.layers.Dense(2), "chunk": keras.layers.Dense(2)}
    >>> levels = {"pos": 1, "chunk": 2}
    >>> whole = kmtl.models.LayerwiseSupervision(stack, heads, levels, inputs=(3,))
    >>> turns = {task: kmtl.models.model_of_task(whole, task) for task in heads}
    >>> for task, model in turns.items():
    ...     model.compile("adam", loss="mse")
    ...     history = model.fit(np.ones((8, 3)), {task: np.ones((8, 2))}, verbose=0)
    >>> print([layer.name for layer in turns["pos"].layers[1:-1]])
    ['low']

    Reference: A. Soegaard, Y. Goldberg (2016), "Deep multi-task learning with low level tasks
    supervised at lower layers", ACL, P16-2038, section 2, a step for one task at a time.
    """
    if not isinstance(model, MultiTaskModel):
        raise ValueError(f"`model` must be a `kmtl.MultiTaskModel`. Received: model={model!r}")
    check_names(model.task_names, "`task`", [task], complete=False)
    output = model.output[task]
    needed = {id(x) for x in ancestors([output])}
    inputs = [x for x in model.inputs if id(x) in needed]
    return MultiTaskModel(as_model_inputs(inputs), {task: output})
