"""One process of `benchmarks.scaling`, which takes training steps when it is told to.

Its argument is a strategy: "none", "mirrored" on two logical CPU devices, or "multi_worker" as
`TF_CONFIG` says. First it writes a line of JSON, what a replica sends in a step of each method.
Then it reads a method's name a line, and answers with the seconds that a step took.
"""

import json
import math
import sys

import tensorflow as tf
from keras.src.backend.tensorflow.trainer import reduce_per_replica

from benchmarks.collectives import payload_bytes
from benchmarks.scaling_methods import BYTES_TASKS, METHODS, TASKS, key, make_weighting
from benchmarks.timing import after_another
from benchmarks.weighting_step import make_model
from kmtl import backend
from kmtl.models.step import packed_logs
from kmtl.models.step.parting import Parting


def main(name: str) -> None:
    # Each replica computes with one thread, so that one of them leaves a core to another.
    devices = 2 if name == "mirrored" else 1
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(devices)
    tf.get_logger().setLevel("ERROR")  # it takes the models' functions for one that is traced anew
    strategy = make_strategy(name, devices)
    sent = {}
    if strategy.num_replicas_in_sync > 1:
        for num_tasks in BYTES_TASKS:
            for method in METHODS:
                sent[key(method, num_tasks)] = sent_bytes(strategy, method, num_tasks)
    timers = {method: step_timer(strategy, method) for method in METHODS}
    _answer(sent)
    for line in sys.stdin:
        _answer(timers[line.strip()]())


def make_strategy(name: str, devices: int) -> tf.distribute.Strategy:
    if name == "none":
        return tf.distribute.get_strategy()
    if name == "multi_worker":
        return tf.distribute.MultiWorkerMirroredStrategy()
    cpu = tf.config.list_physical_devices("CPU")[0]
    logical = [tf.config.LogicalDeviceConfiguration()] * devices
    tf.config.set_logical_device_configuration(cpu, logical)
    return tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(devices)])


def sent_bytes(strategy, method: str, num_tasks: int) -> dict[str, int]:
    """What a replica hands to collective operations in a step, by the step's graph.

    Beside it the numbers of parameters that it depends on.
    """
    model, data = _make(strategy, method, num_tasks)
    backend.build_optimizer(model)

    def packed_step(batch):
        return packed_logs.pack(model.train_step(batch), [])

    def step(iterator):  # as Keras makes it, which does not hand out its graph
        logs = strategy.run(packed_step, args=(next(iterator),))
        return reduce_per_replica(logs, strategy, reduction="auto")

    step = tf.function(step, autograph=False).get_concrete_function(iter(data))
    replicas = len(strategy.extended.worker_devices)
    return {
        "bytes": sum(sum(sizes) for sizes in payload_bytes(step).values()) // replicas,
        "parameters": _size(model.trainable_variables),
        "shared": _size(Parting(model).trunk_variables),
    }


def step_timer(strategy, method: str):
    model, data = _make(strategy, method, TASKS)
    model.fit(data, steps_per_epoch=1, shuffle=False, verbose=0)  # traces the step
    iterator = iter(data)
    return after_another(lambda: float(model.train_function(iterator)["loss"]))


def _make(strategy, method, num_tasks):
    """A compiled model and its data, with the same batch for each replica."""
    with strategy.scope():
        model, batches = make_model("MLP", num_tasks, make_weighting(method))
    return model, strategy.distribute_datasets_from_function(lambda _: batches)


def _size(variables) -> int:
    return sum(math.prod(v.shape) for v in variables)


def _answer(value) -> None:
    print(json.dumps(value), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
