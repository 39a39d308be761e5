"""Data to measure on: every example once."""

from collections.abc import Iterable, Mapping

import keras
import tensorflow as tf

from kmtl.data.layout import Layout
from kmtl.training.loading.examples import present

_READ_TOGETHER = 64  # examples that are completed at a time


def batches(sources: Mapping, layout: Layout, batch_size: int, size: int) -> tf.data.Dataset:
    """Every example of a split once, with the labels of all tasks.

    Args:
        sources: Name -> examples, as `kmtl.data.TaskMixture` takes them.
        layout: What a batch is to have.
        batch_size: Rows of a batch; the last one has fewer.
        size: The number of all examples.
    """

    def complete(x, labels, *weights):
        examples = tf.nest.map_structure(_in_floatx, (x, dict(labels), dict(*weights)))
        return layout.complete(examples, 0, tf.shape(tf.nest.flatten(x)[0])[0])

    found = None
    for source in sources.values():
        if not isinstance(source, tf.data.Dataset):
            source = tf.data.Dataset.from_tensor_slices(source)
        read = source.batch(_READ_TOGETHER).map(complete, num_parallel_calls=tf.data.AUTOTUNE)
        found = read.unbatch() if found is None else found.concatenate(read.unbatch())
    found = found.apply(tf.data.experimental.assert_cardinality(size)).batch(batch_size)
    options = tf.data.Options()
    # Each worker takes its part of every batch, however many files there are.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    return found.prefetch(tf.data.AUTOTUNE).with_options(options)


def unlabelled(sources: Iterable, layout: Layout) -> list[str]:
    """The tasks of which no source has a label; streams are taken to have some.

    Args:
        sources: What `kmtl.data.reading.read_sources` returned.
        layout: What tasks there are, and what marks absent labels.
    """
    sources = list(sources)

    def has(source, task):
        if task not in source.labels:
            return task in source.spec[1]
        return present(source.labels[task], layout.missing.get(task)).any()

    return [task for task in layout.tasks if not any(has(source, task) for source in sources)]


def _in_floatx(tensor):
    return tf.cast(tensor, keras.config.floatx()) if tensor.dtype.is_floating else tensor
