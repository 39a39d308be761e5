"""Fixed seeds, cheap garbage collection, and two logical CPU devices for `tf.distribute`."""

import gc
import os
import signal

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras  # noqa: E402
import pytest  # noqa: E402

BACKEND = keras.backend.backend()

# A shell's background jobs ignore Ctrl-C, and so would all that they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

if BACKEND == "tensorflow":
    import tensorflow as tf

    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
    )

if BACKEND == "jax":
    import jax

    # Models here are compiled once to run a few steps, and what XLA makes of its input is not
    # ours to test: without its costly passes compiling takes half as long. Other processes that
    # tests start keep JAX's defaults.
    jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture(scope="module", autouse=True)
def frozen_imports():
    """Takes all that exists when a file's tests begin out of the reach of the collector.

    `clear_session` collects garbage after every test, and walks over half a million objects of
    TensorFlow and Keras to find none: a quarter of a second each time, a third of the whole run.
    """
    gc.collect()
    gc.freeze()


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
