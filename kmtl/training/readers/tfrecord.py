"""TFRecord files of `tf.train.Example`, parsed in parallel."""

import os

import numpy as np
import tensorflow as tf

from kmtl.training.causes import cause
from kmtl.training.readers.files import files_of
from kmtl.training.readers.labels import standard_label_tensor
from kmtl.training.readers.npz import check_present

# Records are parsed this many at a time, and files read this many at once. The order of the
# examples depends on the second number, so it is not left to the machine.
PARSED_TOGETHER, FILES_AT_ONCE = 128, 8

# Of each record, beside its bytes: its length and two checksums.
FRAME = 16

# What `tf.train.Example` holds as numbers; other types are the bytes of an array.
_AS_NUMBERS = ("float32", "int64")


def read(source, where: str, split: str):
    """A `tf.data.Dataset` of unbatched examples, in the same order each time."""
    del split
    files = files_of(source.path, where)
    records = _records(files)
    task_keys = {name: task.key or name for name, task in source.tasks.items()}
    check_present(
        [*source.inputs.values(), *task_keys.values()], source.features, where, "`features`"
    )

    def parse(batch):
        found = tf.io.parse_example(batch, {n: _stored(f) for n, f in source.features.items()})
        found = {name: _decoded(found[name], f) for name, f in source.features.items()}
        labels = {
            name: standard_label_tensor(found[key], source.tasks[name], f"{where}.tasks.{name}")
            for name, key in task_keys.items()
        }
        return {name: found[key] for name, key in source.inputs.items()}, labels

    parallel = records.batch(PARSED_TOGETHER).map(
        tf.autograph.experimental.do_not_convert(parse), num_parallel_calls=tf.data.AUTOTUNE
    )
    examples = parallel.unbatch()
    try:
        next(iter(examples.take(1)), None)
    except tf.errors.OpError as error:
        raise ValueError(
            f"`{where}.features` must describe the examples of whole TFRecord files. "
            f"Received: {source.path} ({cause(error)})"
        ) from error
    count = source.examples or count_records(files, where)
    return examples.apply(tf.data.experimental.assert_cardinality(count))


def _stored(feature):
    if feature.dtype in _AS_NUMBERS:
        return tf.io.FixedLenFeature(feature.shape, feature.dtype)
    return tf.io.FixedLenFeature([], tf.string)


def _decoded(values, feature):
    if feature.dtype in _AS_NUMBERS:
        return values
    return tf.reshape(tf.io.decode_raw(values, feature.dtype), [-1, *feature.shape])


def count_records(files: list[str], where: str) -> int:
    """How many records there are, each read and compared with its checksums.

    Raises:
        ValueError: for a file that is damaged or ends within a record, at which TensorFlow itself
            may end as if it were whole.
    """
    try:
        count, size = _sizes(files)
    except tf.errors.OpError as error:
        raise ValueError(
            f"`{where}.path` must name whole TFRecord files. Received: {cause(error)}"
        ) from error
    if size == sum(map(os.path.getsize, files)):
        return count
    cut = next(path for path in files if _sizes([path])[1] != os.path.getsize(path))
    raise ValueError(
        f"`{where}.path` must name whole TFRecord files. Received: {cut}, which ends within a "
        "record"
    )


def check_count(source, where: str) -> None:
    """Raises ValueError, naming the key, where `examples` is another number than there is."""
    count = count_records(files_of(source.path, where), where)
    if source.examples not in (None, count):
        raise ValueError(
            f"`{where}.examples` must be the number of records in the files, {count}. "
            f"Received: {source.examples}"
        )


def _records(files):
    return tf.data.TFRecordDataset(files, num_parallel_reads=min(len(files), FILES_AT_ONCE))


def _sizes(files):
    """Number and bytes of all records."""

    def add(sums, rows):
        size = tf.cast(tf.strings.length(rows), tf.int64) + FRAME
        return sums[0] + tf.size(rows, tf.int64), sums[1] + tf.reduce_sum(size)

    batches = _records(files).batch(1024)
    count, size = batches.reduce((np.int64(0), np.int64(0)), add)
    return int(count), int(size)
