"""Models, data and workers of `tf.distribute`."""

import tensorflow as tf


def scope(model):
    """A context in which the model's variables can be assigned to."""
    return model.distribute_strategy.scope()


def bring_up_to_date(model) -> None:
    """Variables hold what the last step left in them: always, under TensorFlow."""
    del model


def is_first_worker(model) -> bool:
    """Whether this process is the one that writes files."""
    resolver = model.distribute_strategy.cluster_resolver
    if resolver is None or resolver.task_type is None:
        return True
    first = "chief" if "chief" in resolver.cluster_spec().as_dict() else "worker"
    return resolver.task_type == first and resolver.task_id == 0


def check_same_on_workers(model, number: int) -> None:
    """Raises RuntimeError unless all workers call it with the same number."""
    strategy = model.distribute_strategy
    if strategy.num_replicas_in_sync == 1 or strategy.cluster_resolver is None:
        return
    own = strategy.run(lambda: tf.constant([number], "int64"))
    numbers = strategy.gather(own, axis=0).numpy().tolist()
    if len(set(numbers)) > 1:
        raise RuntimeError(
            "All workers must go on from the same backup; the folder must be one that all can "
            f"read. Received: positions {numbers}, -1 where there is none"
        )


def spread_dataset(model, mixture, first_step: int):
    """A mixture's batches from a step on, as the model's replicas are to get them."""
    strategy = model.distribute_strategy
    if strategy.num_replicas_in_sync == 1:
        return mixture.dataset(first_step)
    return mixture.distributed(strategy, first_step)
