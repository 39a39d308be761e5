"""Where training runs: one device, several, or several machines."""

import tensorflow as tf

from kmtl.training.building.workers import Cluster
from kmtl.training.causes import cause
from kmtl.training.configuration.schema import Training


def make_strategy(training: Training, cluster: Cluster | None) -> tf.distribute.Strategy:
    """The strategy of the configuration; to be called before TensorFlow computes anything."""
    if cluster is not None:
        return tf.distribute.MultiWorkerMirroredStrategy()
    if training.strategy == "tpu":
        return _tpu()
    devices = _devices(training)
    if len(devices) > 1 or training.strategy == "mirrored":
        return tf.distribute.MirroredStrategy(devices)
    return tf.distribute.get_strategy()


def _devices(training):
    if training.strategy == "none":
        return []
    if training.logical_cpus:
        _split_cpu(training.logical_cpus)
        return [f"CPU:{i}" for i in range(training.logical_cpus)]
    gpus = tf.config.list_physical_devices("GPU")
    return [f"GPU:{i}" for i in range(len(gpus))] or ["CPU:0"]


def _split_cpu(count):
    cpu = tf.config.list_physical_devices("CPU")[0]
    if len(tf.config.get_logical_device_configuration(cpu) or [None]) != count:
        parts = [tf.config.LogicalDeviceConfiguration()] * count
        tf.config.set_logical_device_configuration(cpu, parts)


def _tpu():
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu="local")
        tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
        return tf.distribute.TPUStrategy(resolver)
    except (ValueError, RuntimeError, OSError, tf.errors.OpError) as error:
        raise ValueError(
            "`training.strategy` must be another on a machine without TPUs. "
            f"Received: tpu ({cause(error).partition('. ')[0]})"
        ) from error
