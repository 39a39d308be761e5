"""A plain model made anew, operation by operation."""

import contextlib
from collections.abc import Callable, Iterator

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
    tasks = list(plain.output)
    with in_float32():
        inputs = [
            keras.Input(batch_shape=x.shape, dtype=x.dtype, name=x.name) for x in plain.inputs
        ]
        tensors = run(
            plain, [start(x) for x in inputs], call, [plain.output[task] for task in tasks]
        )
        return make(
            inputs[0] if len(inputs) == 1 else {x.name: x for x in inputs},
            {task: end(task, x) for task, x in zip(tasks, tensors, strict=True)},
            name=plain.name,
        )


@contextlib.contextmanager
def in_float32() -> Iterator[None]:
    """Layers that are made in the block compute in float32, whatever the policy is."""
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float32")
    try:
        yield
    finally:
        keras.config.set_dtype_policy(policy)
