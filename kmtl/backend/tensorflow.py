"""Replica reductions under `tf.distribute`."""

import tensorflow as tf


def num_replicas() -> int:
    """Replicas that run the current step; 1 outside a distribution strategy."""
    return tf.distribute.get_strategy().num_replicas_in_sync


def all_reduce_sum(x):
    """Sum of `x` over replicas, the same on each; `x` itself on a single one.

    In the cross-replica context (building a model, eager calls outside `fit`) there is
    nothing to add up, so `x` comes back unchanged.
    """
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return x
    return context.all_reduce(tf.distribute.ReduceOp.SUM, x)
