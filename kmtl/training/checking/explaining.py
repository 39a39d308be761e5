"""Why a run failed, where the data are to blame."""

import contextlib
from collections.abc import Callable

import tensorflow as tf

from kmtl.training.causes import cause, is_of_peers
from kmtl.training.configuration.schema import Config
from kmtl.training.loading.data import Loaded
from kmtl.training.loading.examples import Limits, check_examples
from kmtl.training.readers import tfrecord

_ROWS = 256


@contextlib.contextmanager
def explaining(config: Config, data: Loaded, limits: Limits, say: Callable[[str], None]):
    """Reads streams to the end where a run fails, for the example that it failed at.

    Arrays are checked as a whole before, but of streams only what is read first.

    Args:
        config: The configuration.
        data: Its data.
        limits: What labels may be.
        say: Shows a text.

    Raises:
        ValueError: naming the key, if such an example is found; else what was raised.
    """
    try:
        yield
    except (tf.errors.OpError, FloatingPointError) as error:
        if not isinstance(error, FloatingPointError) and is_of_peers(error):
            raise
        for key, source in data.sources.items():
            if isinstance(source, tf.data.Dataset):
                say(f"Looking for the cause in `{key}`")
                try:
                    _check_stream(config, key, source, limits)
                except ValueError as found:
                    raise found from error
        raise


def _check_stream(config, key, source, limits):
    _, split, name = key.split(".", 2)
    described = getattr(config.data, split)[name]
    if described.format == "tfrecord":
        tfrecord.check_count(described, key)
    start = 0
    try:
        for examples in source.batch(_ROWS).as_numpy_iterator():
            check_examples(key, examples, limits, start)
            start += _ROWS
    except tf.errors.OpError as error:
        raise ValueError(
            f"`{key}` must give its examples to the end. Received: {cause(error)}"
        ) from error
