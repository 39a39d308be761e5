"""Which rows of each batch a replica gets."""

from collections.abc import Callable


def shard_of(batch_size: int, num_shards: int, shard: int) -> tuple[int, int]:
    """First row and number of rows of a shard.

    Raises:
        ValueError: if rows cannot be dealt out evenly, or if there is no such shard.
    """
    if not isinstance(num_shards, int) or num_shards < 1 or batch_size % num_shards:
        raise ValueError(
            "`batch_size` must be a multiple of the number of shards, so that all get equally many "
            f"rows. Received: batch_size={batch_size} for {num_shards} shards"
        )
    if not isinstance(shard, int) or not 0 <= shard < num_shards:
        raise ValueError(
            f"`shard` must be an integer from 0 to {num_shards - 1}. Received: shard={shard}"
        )
    rows = batch_size // num_shards
    return shard * rows, rows


def for_replicas(dataset: Callable) -> Callable:
    """A function for `tf.distribute.Strategy.distribute_datasets_from_function`.

    Args:
        dataset: `(num_shards, shard) -> tf.data.Dataset` of the batches of one shard.

    Returns:
        A function of a `tf.distribute.InputContext`: the dataset of one input pipeline, which
        holds each batch's share of all replicas that it feeds, one replica's after the other's.
    """

    def pipeline(context):
        import tensorflow as tf

        pipelines, replicas = context.num_input_pipelines, context.num_replicas_in_sync
        local = replicas // pipelines
        batches = dataset(pipelines, context.input_pipeline_id)
        if local == 1:
            return batches

        def split(*batch):
            return tf.nest.map_structure(
                lambda x: tf.reshape(x, [local, x.shape[0] // local, *x.shape[1:]]), batch
            )

        return batches.map(split, num_parallel_calls=tf.data.AUTOTUNE).unbatch().prefetch(local)

    return pipeline
