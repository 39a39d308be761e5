"""Fixed seeds, and two logical CPU devices for the tests of `tf.distribute`."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras  # noqa: E402
import pytest  # noqa: E402

BACKEND = keras.backend.backend()

if BACKEND == "tensorflow":
    import tensorflow as tf

    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
    )


@pytest.fixture(autouse=True)
def fixed_seed():
    keras.utils.set_random_seed(20170)
    yield
    keras.backend.clear_session()


@pytest.fixture(scope="session")
def mirrored():
    """A strategy with two replicas; one for all tests, as TensorFlow keys collectives by it."""
    if BACKEND != "tensorflow":
        pytest.skip("tf.distribute needs the TensorFlow backend")
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
