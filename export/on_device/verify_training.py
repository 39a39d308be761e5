"""Compares a trainable file with Keras: every head, and some steps of training."""

import itertools

import keras
import numpy as np

from kmtl.export.compare import MEASURES, VerificationError, check_errors, measure
from kmtl.export.on_device.head import Head
from kmtl.export.on_device.trainable_model import TrainableModel
from kmtl.export.runtime.litert_model import RUNTIMES
from kmtl.export.runtime.verify import THREADS

STEPS = 3
# Largest accepted error of a weight's change, relative to it, and of a loss. The gate is there
# for wrong gradients; rounding gave up to 7e-6.
TOLERANCE = 1e-4
# Rounding of the weight itself, as a share of the change that is compared.
_ROUNDING = 1e-3
_SHARE = 1e-2


def verify_training(
    content: bytes,
    plain: keras.Model,
    head: Head,
    batch_size: int,
    inputs: dict[str, np.ndarray],
    expected: dict[str, np.ndarray],
    tolerance: float,
) -> tuple[dict[str, dict[str, float]], dict[str, float]]:
    """Runs a trainable flatbuffer on both runtimes, with one and more threads.

    The Keras model and its optimizer are trained on the way.

    Args:
        content: The flatbuffer.
        plain: The folded model that it was made from.
        head: What is trained.
        batch_size: Rows of a training step.
        inputs: Input name -> samples.
        expected: Task -> the trained model's outputs for them.
        tolerance: Largest accepted relative error of a head.

    Returns:
        Task -> measure -> error, and those of training, `loss_error` and `update_error`; each
        the largest of all runs.

    Raises:
        VerificationError: if a head or the training is too far off, training changes another
            head, or restoring what was saved gives something else.
    """
    index = np.arange(batch_size) % len(next(iter(inputs.values())))
    x = {name: array[index] for name, array in inputs.items()}
    y = _labels(head, batch_size, expected[head.task].shape[-1])
    before = _arrays(head)
    losses = _train_keras(plain, head, x, y)
    after = _arrays(head)
    _check_moved(head, before, after, losses)
    heads, training = [], []
    for runtime, threads in itertools.product(RUNTIMES, THREADS):
        source = f"the file on {runtime}"
        try:
            model = TrainableModel(content, runtime, threads)
            answers = model(inputs)
            heads.append(measure(answers, expected, source))
            found = [model.train(x, y) for _ in range(STEPS)]
            training.append(
                {
                    "loss_error": _relative(np.asarray(found) - losses, losses),
                    "update_error": _update_error(before, after, model.save()),
                }
            )
            _check_others(model, inputs, answers, source)
            _check_restored(model, TrainableModel(content, runtime, threads), inputs, source)
        except (RuntimeError, ValueError) as error:
            if isinstance(error, VerificationError):
                raise
            raise VerificationError(
                f"Both LiteRT runtimes must run and train the file. Received: {error} from {source}"
            ) from error
    errors = {t: {name: max(run[t][name] for run in heads) for name in MEASURES} for t in expected}
    check_errors(errors, tolerance, "the file")
    largest = {name: max(run[name] for run in training) for name in training[0]}
    if not all(value <= TOLERANCE for value in largest.values()):
        raise VerificationError(
            f"Training must do what Keras does, up to a relative error of {TOLERANCE:g}. "
            f"Received: {largest}"
        )
    return errors, largest


def _check_moved(head, before, after, losses) -> None:
    """Raises ValueError where the loss does not depend on the weights."""
    if all(np.array_equal(before[v.path], after[v.path]) for v in head.variables):
        raise ValueError(
            f"`loss` must be one that task {head.task!r} can be trained by. Received: a loss of "
            f"{losses[0]:g} that moves no weight, of outputs with {head.label_shape} labels"
        )


def _labels(head, rows, classes):
    rng, shape = np.random.default_rng(0), (rows, *head.label_shape)
    if head.label_dtype == "int32":
        return rng.integers(0, classes, shape).astype("int32")
    return rng.uniform(size=shape).astype("float32")


def _train_keras(plain, head, x, y) -> np.ndarray:
    """The losses of some steps in Keras, by TensorFlow's own gradients, in a graph as in `fit`."""
    import tensorflow as tf

    flat = [x[tensor.name] for tensor in plain.inputs]
    packed, weights = keras.tree.pack_sequence_as(plain.input, flat), head.variables

    def step():
        with tf.GradientTape() as tape:
            loss = head.loss(tf.constant(y), plain(packed, training=False)[head.task])
        head.optimizer.apply(tape.gradient(loss, [v.value for v in weights]), weights)
        return loss

    compiled = tf.function(step, autograph=False).get_concrete_function()
    losses = [float(compiled()) for _ in range(STEPS)]
    if not np.isfinite([*losses, *(np.sum(array) for array in _arrays(head).values())]).all():
        raise ValueError(
            "The loss and the weights must stay finite when Keras trains on the data to verify "
            f"on, with labels drawn at random. Received: the losses {losses}"
        )
    return np.asarray(losses)


def _arrays(head):
    return {name: np.asarray(v.value, "float64") for name, v in head.state.items()}


def _update_error(before, after, found) -> float:
    """The largest of any variable, of what Keras changed, or of its values' rounding.

    A variable may have no gradient but rounding, as the bias of an attention's keys: what counts
    as a change is at least a share of the root mean square change of all.
    """
    weights = [name for name in before if not name.startswith("optimizer/")]
    changes = np.concatenate([np.ravel(after[name] - before[name]) for name in weights])
    least = _SHARE * float(np.sqrt(np.mean(np.square(changes))))
    return max(
        _relative(
            found[name] - after[name],
            np.abs(after[name] - start) + _ROUNDING * np.abs(start) + least,
        )
        for name, start in before.items()
    )


def _relative(difference, reference) -> float:
    norm = np.linalg.norm(reference)
    error = np.linalg.norm(difference) / norm if norm else np.linalg.norm(difference)
    return float(np.nan_to_num(error, nan=np.inf))


def _check_others(model, inputs, earlier, source):
    answers = model(inputs)
    changed = [
        task
        for task in answers
        if task != model.task and not np.array_equal(answers[task], earlier[task])
    ]
    if changed:
        raise VerificationError(
            f"Training {model.task!r} must leave the other heads as they are. "
            f"Received: {', '.join(changed)} changed in {source}"
        )


def _check_restored(model, other, inputs, source):
    saved = model.save()
    other.restore(saved)
    again, answers, expected = other.save(), other(inputs), model(inputs)
    same = all(np.array_equal(again[name], saved[name]) for name in saved)
    if not same or not all(np.array_equal(answers[task], expected[task]) for task in expected):
        raise VerificationError(
            f"`restore` must bring back what `save` gave. Received: something else from {source}"
        )
