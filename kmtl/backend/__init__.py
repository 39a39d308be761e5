"""What differs between Keras backends, one small module each, and what only `keras.src` can tell.

`all_reduce_sum(x)` adds a tensor over replicas and `all_gather(x)` stacks them;
`num_replicas()` counts them, `replica_index()` is this one's number and `in_strategy()` tells
whether there may be any. `linearize` runs a function
so that gradients can be pulled back through it.
`build_optimizer`, `gradient_step`, `compiled`, `after_step` and `several_steps` are parts of
training, with `spreads(model)`, whether its batches are spread over replicas,
`compiles_whole_step(model)`, whether XLA can compile them together,
`accumulation_steps(optimizer)` and `micro_batches(optimizer)`.
`scope(model)`, `bring_up_to_date(model)`, `is_first_worker(model)`,
`check_same_on_workers(model, number)` and `spread_dataset(model, mixture, first_step)` are for what
goes on around the steps, on one machine or several.
`get_mask(x)` and `set_mask(x, mask)` are the mask that Keras attaches to a tensor, or None;
`calling(model)` is the state that Keras is in while it calls a model. `summary_writer(folder)`
writes TensorBoard files.
"""

import contextlib

import keras

# Keras keeps the masks of traced JAX arrays in a table that only these functions know.
from keras.src.backend import get_keras_mask as get_mask
from keras.src.backend import set_keras_mask as set_mask
from keras.src.backend.common import global_state
from keras.src.layers.layer import CallContext

from kmtl.backend.summaries import SummaryWriter as summary_writer

if keras.backend.backend() == "tensorflow":
    from kmtl.backend import tensorflow as _backend
elif keras.backend.backend() == "jax":
    from kmtl.backend import jax as _backend
else:
    raise ImportError(
        "kmtl runs on the TensorFlow and the JAX backend of Keras. Received: "
        f"KERAS_BACKEND={keras.backend.backend()}"
    )

all_gather = _backend.all_gather
all_reduce_sum = _backend.all_reduce_sum
num_replicas = _backend.num_replicas
in_strategy = _backend.in_strategy
replica_index = _backend.replica_index
build_optimizer = _backend.build_optimizer
compiled = _backend.compiled
several_steps = _backend.several_steps
spreads = _backend.spreads
compiles_whole_step = _backend.compiles_whole_step
scope = _backend.scope
bring_up_to_date = _backend.bring_up_to_date
is_first_worker = _backend.is_first_worker
check_same_on_workers = _backend.check_same_on_workers
spread_dataset = _backend.spread_dataset
EAGER_LOOPS_ARE_FAST = _backend.EAGER_LOOPS_ARE_FAST
linearize = _backend.linearize
gradient_step = _backend.gradient_step
after_step = _backend.after_step


def accumulation_steps(optimizer) -> int:
    """Over how many micro-batches the optimizer takes the mean before an update; mostly 1."""
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    return optimizer.gradient_accumulation_steps or 1


def micro_batches(optimizer):
    """How many micro-batches the optimizer has seen; its `iterations` counts updates."""
    return getattr(optimizer, "inner_optimizer", optimizer)._iterations


@contextlib.contextmanager
def calling(model: keras.Model, training: bool):
    """Layers called in here behave as in `model(x, training=training)`.

    Yields a function that lists the losses which these layers added by `add_loss`.
    """
    key = "current_call_ctx"
    before = global_state.get_global_attribute(key)
    context = CallContext(entry_layer=model)
    context.training = training
    model._clear_losses()
    global_state.set_global_attribute(key, context)
    try:
        yield lambda: [
            loss for layer in model._flatten_layers() for loss in layer._get_own_losses()
        ]
    finally:
        global_state.set_global_attribute(key, before)


__all__ = [
    "EAGER_LOOPS_ARE_FAST",
    "accumulation_steps",
    "after_step",
    "all_gather",
    "all_reduce_sum",
    "bring_up_to_date",
    "build_optimizer",
    "calling",
    "check_same_on_workers",
    "compiled",
    "compiles_whole_step",
    "get_mask",
    "gradient_step",
    "in_strategy",
    "is_first_worker",
    "linearize",
    "micro_batches",
    "num_replicas",
    "replica_index",
    "scope",
    "set_mask",
    "several_steps",
    "spread_dataset",
    "spreads",
    "summary_writer",
]
