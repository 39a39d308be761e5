"""What part of a training step waits for its data, which `kmtl.data.TaskMixture` prepares."""

import functools
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import keras

from benchmarks.timing import Comparison, compare, interleave, stopwatch
from kmtl.data import TaskMixture
from kmtl.datasets import multi_digits
from kmtl.demo.networks import IMAGE_SHAPE, NETWORKS, PLAIN_SUM, TASKS

TARGET = 0.05  # of a step
BATCH = 250
# As in the demo, of whose networks this is the fastest: the one that data must come for soonest.
NETWORK, STEPS, EPOCHS = PLAIN_SUM, 40, 6
FIT_ROUNDS = 15
WAIT_ROUNDS = 30
FILES = 4
MIXED, CONSTANT = "TaskMixture", "one batch again and again"
WAIT, ALL = "waiting for the next batch, beyond one that is ready", "waiting and training"


def run() -> list[Comparison]:
    data = multi_digits().train
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        write_records(data, Path(folder))
        mixtures = {
            "arrays, one source": {"digits": (data.x, data.y)},
            "arrays, a source a task": {t: (data.x, {t: data.y[t]}) for t in TASKS},
            "TFRecord files": {"digits": read_records(Path(folder), len(data.x))},
        }
        for name, sources in mixtures.items():
            rows += rows_of(name, TaskMixture(sources, BATCH))
    return rows


def rows_of(name: str, mixture: TaskMixture) -> list[Comparison]:
    """The loop of `fit` with and without a pipeline, and the time in `next` beyond its own."""
    import tensorflow as tf

    model, batches = make_model(mixture), mixture.dataset()
    constant = tf.data.Dataset.from_tensors(next(iter(batches))).repeat()
    timers = {MIXED: fit_timer(model, batches), CONSTANT: fit_timer(model, constant)}
    seconds = interleave(timers, FIT_ROUNDS)
    case = f"fit of {EPOCHS} x {STEPS} steps, {name}"
    fit = compare(case, seconds, MIXED, CONSTANT, 1 / (1 - TARGET))
    iterators = [iter(batches), iter(constant)]
    for iterator in iterators:
        wait_and_train(model, iterator)  # traces the step
    seconds = {WAIT: [], ALL: []}
    for _ in range(WAIT_ROUNDS):
        (waited, whole), (for_nothing, _) = [wait_and_train(model, x) for x in iterators]
        # `next` in Python takes its time even where a batch is ready; `fit` calls it in the step.
        seconds[WAIT].append(waited - for_nothing)
        seconds[ALL].append(whole)
    return [fit, compare(f"{STEPS} steps, {name}", seconds, WAIT, ALL, TARGET)]


def make_model(mixture: TaskMixture) -> keras.Model:
    """The network, compiled as in the demo."""
    keras.utils.set_random_seed(0)
    model = NETWORKS[NETWORK]()
    model.compile(
        optimizer=keras.optimizers.Adam(1e-3),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics={task: ["accuracy"] for task in TASKS},
        missing=mixture.missing,
        jit_compile=False,
    )
    return model


def fit_timer(model: keras.Model, batches) -> Callable[[], float]:
    options = {"steps_per_epoch": STEPS, "epochs": EPOCHS, "shuffle": False, "verbose": 0}
    return stopwatch(functools.partial(model.fit, batches, **options))


def wait_and_train(model: keras.Model, iterator) -> tuple[float, float]:
    """Seconds that some steps wait for their batches, and that they take in all."""
    waited, start = 0.0, time.perf_counter()
    for _ in range(STEPS):
        before = time.perf_counter()
        batch = next(iterator)
        waited += time.perf_counter() - before
        float(model.train_function(iter([batch]))["loss"])
    return waited, time.perf_counter() - start


def write_records(data, folder: Path) -> None:
    """The split as TFRecord files."""
    import tensorflow as tf

    for number in range(FILES):
        with tf.io.TFRecordWriter(str(folder / f"{number}.tfrecord")) as writer:
            for row in range(number, len(data.x), FILES):
                image = tf.train.FloatList(value=data.x[row].ravel())
                features = {"image": tf.train.Feature(float_list=image)}
                for task in TASKS:
                    label = tf.train.Int64List(value=[data.y[task][row]])
                    features[task] = tf.train.Feature(int64_list=label)
                example = tf.train.Example(features=tf.train.Features(feature=features))
                writer.write(example.SerializeToString())


def read_records(folder: Path, size: int):
    """The examples of the files, parsed in parallel, many at a time."""
    import tensorflow as tf

    spec = {"image": tf.io.FixedLenFeature(IMAGE_SHAPE, tf.float32)}
    spec |= {task: tf.io.FixedLenFeature((), tf.int64) for task in TASKS}

    def parse(serialized):
        found = tf.io.parse_example(serialized, spec)
        return found["image"], {task: found[task] for task in TASKS}

    files = sorted(map(str, folder.glob("*.tfrecord")))
    serialized = tf.data.TFRecordDataset(files, num_parallel_reads=FILES).batch(BATCH)
    examples = serialized.map(parse, num_parallel_calls=tf.data.AUTOTUNE).unbatch()
    return examples.apply(tf.data.experimental.assert_cardinality(size))
