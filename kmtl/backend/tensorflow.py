"""Gradients, replica reductions and the training step under TensorFlow and `tf.distribute`."""

import keras
import tensorflow as tf

from kmtl.backend.tensorflow_loops import several_steps
from kmtl.backend.tensorflow_updates import update_one, update_replicas
from kmtl.backend.tensorflow_workers import (
    bring_up_to_date,
    check_same_on_workers,
    is_first_worker,
    scope,
    spread_dataset,
)

__all__ = [
    "bring_up_to_date",
    "check_same_on_workers",
    "is_first_worker",
    "scope",
    "several_steps",
    "spread_dataset",
]


def spreads(model) -> bool:
    """Whether the model's batches are spread over several replicas."""
    return model.distribute_strategy.num_replicas_in_sync > 1


def compiles_whole_step(model) -> bool:
    """Whether XLA can compile what all of the model's replicas do in a step."""
    return not spreads(model) or isinstance(model.distribute_strategy, tf.distribute.TPUStrategy)


def in_strategy() -> bool:
    """Whether the current step runs under a strategy, be it with a single replica."""
    return tf.distribute.has_strategy()


def num_replicas() -> int:
    """Replicas that run the current step; 1 outside a distribution strategy."""
    return tf.distribute.get_strategy().num_replicas_in_sync


def replica_index():
    """Number of the replica that this runs on, from 0."""
    context = tf.distribute.get_replica_context()
    return 0 if context is None else context.replica_id_in_sync_group


def all_reduce_sum(x):
    """Sum of `x` over replicas, the same on each; `x` itself on a single one.

    In the cross-replica context (building a model, eager calls outside `fit`) there is
    nothing to add up, so `x` comes back unchanged.
    """
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return x
    return context.all_reduce(tf.distribute.ReduceOp.SUM, x)


def all_gather(x):
    """The replicas' tensors, stacked: `(replicas, ...)`."""
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return x[None]
    # A sum, not `context.all_gather`: on CPUs another strategy in this process may later use the
    # same collective's key for a sum, which fails where kinds differ.
    own = tf.one_hot(replica_index(), context.num_replicas_in_sync, on_value=True, off_value=False)
    own = tf.reshape(own, [-1, *(1 for _ in x.shape)])
    return all_reduce_sum(tf.where(own, x[None], tf.zeros_like(x)[None]))


def linearize(function, variables, tensors=()):
    """Runs `function(tensors)` so that gradients can be pulled back through it, many times.

    Args:
        function: `(list of tensors) -> (list of outputs, anything else)`.
        variables: Keras variables to differentiate by.
        tensors: Tensors to differentiate by. Equal ones count as separate arguments.

    Returns:
        `(outputs, anything else, pull)`, where `pull(cotangents, variables=None, sparse=False)`
        takes one cotangent for each output, or None for those of no interest, and returns the
        gradients by the variables (all, or the ones given) and by the tensors; None where
        there is no connection. With `sparse`, those of rows that were looked up may be
        `tf.IndexedSlices`.
    """
    tensors = [tf.identity(x) for x in tensors]
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(tensors)
        outputs, rest = function(tensors)
    everything = list(variables)

    def pull(cotangents, variables=None, sparse=False):
        wanted = everything if variables is None else list(variables)
        pairs = [(y, g) for y, g in zip(outputs, cotangents, strict=True) if g is not None]
        if not pairs or not (wanted or tensors):
            return [None] * len(wanted), [None] * len(tensors)
        gradients = tape.gradient(
            [y for y, _ in pairs],
            [*wanted, *tensors],
            output_gradients=[tf.cast(g, y.dtype) for y, g in pairs],
        )
        if not sparse:
            gradients = [None if g is None else tf.convert_to_tensor(g) for g in gradients]
        return gradients[: len(wanted)], gradients[len(wanted) :]

    return outputs, rest, pull


EAGER_LOOPS_ARE_FAST = True


def compiled(function, variables, by_xla):
    """`function` on tensors, as one; it may read `variables` and assign to them.

    Keras leaves XLA out on a CPU, where it makes large products slower. A solver's hundreds of
    operations on T x T numbers are another matter.

    Args:
        function: `(tensors) -> tensors`.
        variables: The variables that it uses.
        by_xla: Whether it is compiled by XLA.

    Returns:
        A function that gives `(result, changes)` and assigns nothing itself: `changes` is a
        list that holds each variable's new value, or None.
    """

    @tf.function(jit_compile=by_xla, autograph=False)
    def pure(*args):
        with keras.StatelessScope() as scope:
            result = function(*args)
        return result, [scope.get_current_value(v) for v in variables]

    return pure


def build_optimizer(model) -> None:
    """Creates the optimizer's variables, so that the first step need not be traced twice."""
    if not model.optimizer.built:
        with model.distribute_strategy.scope():
            model.optimizer.build(model.trainable_variables)


def gradient_step(model, step, data):
    """One update of a model by `step(data) -> (gradients, valid, logs)`.

    Where `valid` is false, nothing is updated.
    """
    gradients, valid, logs = step(data)
    if in_strategy():
        update_replicas(model, gradients, valid)
    else:
        update_one(model, gradients, valid)
    return logs


def after_step(model, function, result):
    """Runs `function()` on the values that a training step left behind."""
    del model
    function()
    return result
