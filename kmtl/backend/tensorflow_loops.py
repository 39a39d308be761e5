"""Several steps in one call, on several replicas."""

import tensorflow as tf
from keras.src.backend.tensorflow.trainer import reduce_per_replica


def several_steps(model, step):
    """A function `iterator -> logs` of the last of `model.steps_per_execution` steps, or fewer.

    Keras's own loop runs inside of TensorFlow, where batches that are spread over replicas can
    neither be looped over nor, at the end of the data, be told from none.

    Args:
        model: A model made under a strategy.
        step: `data -> logs`, on one replica.
    """
    strategy = model.distribute_strategy

    def one(data):
        return reduce_per_replica(strategy.run(step, args=(data,)), strategy, reduction="auto")

    if not model.run_eagerly:
        one = tf.function(one, reduce_retracing=True, autograph=False)

    def function(iterator):
        logs = one(next(iterator))
        for _ in range(model.steps_per_execution - 1):
            try:
                data = next(iterator)
            except (StopIteration, tf.errors.OutOfRangeError):
                break
            logs = one(data)
        return logs

    return function
