"""Reads the sources of a configuration, one file for each format."""

from kmtl.training.readers import npz, python, table, tfrecord

_READERS = {
    "npz": npz.read,
    "csv": table.read,
    "parquet": table.read,
    "tfrecord": tfrecord.read,
    "python": python.read,
}


def read(source, where: str, split: str):
    """A source as `kmtl.data.TaskMixture` takes it: arrays, or a `tf.data.Dataset`.

    Args:
        source: A source of the configuration.
        where: Its key, for errors.
        split: "train", "validation" or "test".
    """
    return _READERS[source.format](source, where, split)


__all__ = ["read"]
