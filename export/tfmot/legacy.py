"""tfmot and Keras 2, without a change to what `tf.keras` means for anybody else."""

import contextlib
import importlib.util
import os
import types

from kmtl.export.flatbuffers.convert import quiet_stderr

NEEDED = ("tensorflow_model_optimization", "tf_keras")
VARIABLE = "TF_USE_LEGACY_KERAS"


def require_tfmot() -> None:
    """Raises ImportError with the command that installs what is missing."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(
            'Compression by tfmot needs more packages: pip install "kmtl[tfmot]". '
            f"Received: no {', '.join(missing)}"
        )


def load_tfmot() -> tuple[types.ModuleType, types.ModuleType]:
    """Imports `(tensorflow_model_optimization, tf_keras)` for use beside Keras 3.

    tfmot sets a variable that makes `tf.keras` Keras 2, also in processes started later, but
    TensorFlow decides only once, when `tf.keras` is first touched. It is touched here before
    tfmot is imported, and the variable gets its earlier value back. A worker process would
    hide tfmot as well, but cannot take losses that are the user's own functions.

    Raises:
        ImportError: if one is not installed.
    """
    require_tfmot()
    import tensorflow as tf

    earlier = os.environ.get(VARIABLE)
    try:
        with quiet_stderr(), quiet_tensorflow():  # Keras 2 uses names that are deprecated
            # Keras 2 imports `tf.compat.v1` and `v2` a second time, so it comes before them.
            import tf_keras

            for place in (tf, tf.compat.v1, tf.compat.v2):
                _ = place.keras.layers
            import tensorflow_model_optimization as tfmot
    finally:
        if earlier is None:
            os.environ.pop(VARIABLE, None)
        else:
            os.environ[VARIABLE] = earlier
    return tfmot, tf_keras


@contextlib.contextmanager
def quiet_tensorflow():
    """Silences TensorFlow's warnings, which are about its own ways."""
    import tensorflow as tf

    logger = tf.get_logger()
    level = logger.level
    logger.setLevel("ERROR")
    try:
        yield
    finally:
        logger.setLevel(level)
