"""A plain model made anew, operation by operation."""

from collections.abc import Callable

import keras

from kmtl.models.graph import run


def rewrite(
    plain: keras.Model,
    call: Callable,
    start: Callable = lambda x: x,
    end: Callable = lambda task, x: x,
    make: Callable = keras.Model,
) -> keras.Model:
    """A model with the same inputs, heads and name, and other operations between them.

    Args:
        plain: A model as `fold` returns it.
        call: `(operation, args, kwargs) -> outputs`, in place of each operation.
        start: Input -> what the operations get for it. Defaults to the input.
        end: `(task, tensor) -> tensor` of the head. Defaults to the tensor.
        make: `(inputs, heads, name=...) -> model`. Defaults to `keras.Model`.
    """
    inputs = [keras.Input(batch_shape=x.shape, dtype=x.dtype, name=x.name) for x in plain.inputs]
    tasks = list(plain.output)
    tensors = run(plain, [start(x) for x in inputs], call, [plain.output[task] for task in tasks])
    return make(
        inputs[0] if len(inputs) == 1 else {x.name: x for x in inputs},
        {task: end(task, x) for task, x in zip(tasks, tensors, strict=True)},
        name=plain.name,
    )
