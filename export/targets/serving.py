"""Functions of a SavedModel: traced from plain models, written, loaded again and served."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import keras
import numpy as np

from kmtl.export.flatbuffers.argument_names import spelled
from kmtl.export.flatbuffers.convert import quiet_stderr
from kmtl.models.graph import ancestors, run

# They call back into the Python that traced them: no other process can serve them.
_PYTHON_OPS = ("PyFunc", "PyFuncStateless", "EagerPyFunc")


def require_tensorflow_backend(what: str) -> None:
    """Raises RuntimeError unless Keras runs on TensorFlow, which writes `what`."""
    if keras.backend.backend() != "tensorflow":
        raise RuntimeError(
            f"{what} needs Keras's TensorFlow backend. Save the model with "
            "`model.save('model.keras')` and load it in a Python that was started with "
            f"KERAS_BACKEND=tensorflow. Received: {keras.backend.backend()}"
        )


def part_of(model: keras.Model, task: str) -> keras.Model:
    """The part of a model that one task needs, on the same layers."""
    head = model.output[task]
    used = {id(x) for x in ancestors([head])}
    return keras.Model([x for x in model.inputs if id(x) in used], {task: head})


def trace(part: keras.Model, batch_size: int | None, compiled: bool):
    """A function of named inputs that gives the part's heads.

    Args:
        part: A plain model.
        batch_size: The fixed batch size, or None for a dynamic one.
        compiled: Whether XLA compiles it, wherever it is served.

    Raises:
        ValueError: naming the inputs that a signature cannot name, or the layers that call
            Python code.
    """
    import tensorflow as tf

    arguments = spelled(x.name for x in part.inputs)
    specs = {
        arguments[x.name]: tf.TensorSpec((batch_size, *x.shape[1:]), x.dtype, name=x.name)
        for x in part.inputs
    }

    @tf.function(autograph=False, jit_compile=compiled or None)
    def answer(**inputs):
        flat = [inputs[name] for name in specs]
        return part(keras.tree.pack_sequence_as(part.input, flat), training=False)

    function = answer.get_concrete_function(**specs)
    graph = function.graph.as_graph_def()
    nodes = [*graph.node, *(node for f in graph.library.function for node in f.node_def)]
    python = sorted({node.name for node in nodes if node.op in _PYTHON_OPS})
    if python:
        raise ValueError(
            "Every operation must run without Python, which servers do not have. "
            f"Received: {', '.join(python)}"
        )
    return function


def save(model: keras.Model, functions: Mapping, folder: Path) -> None:
    """Writes functions of one model as the signatures of a SavedModel."""
    import tensorflow as tf

    module = tf.Module()
    module.variables_of_model = [v.value for v in model.variables]
    module.tables_of_model = [  # of layers that look up strings
        x
        for x in tf.train.TrackableView(model).descendants()
        if isinstance(x, tf.saved_model.experimental.TrackableResource)
    ]
    logger = tf.get_logger()
    level = logger.level
    logger.setLevel("WARNING")  # "Assets written to" a folder that is renamed a moment later
    try:
        with quiet_stderr():
            tf.saved_model.save(module, str(folder), signatures=functions)
    except tf.errors.OpError as error:  # TensorFlow's own form of a full or failing disk
        raise OSError(f"The SavedModel must be writable. Received: {error.message}") from error
    finally:
        logger.setLevel(level)


def serve(
    folder: Path,
    parts: Mapping[str, keras.Model],
    inputs: Mapping[str, np.ndarray],
    batch_size: int | None,
) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """Loads a SavedModel and runs every signature.

    Args:
        folder: The SavedModel.
        parts: Signature -> the model that it was traced from.
        inputs: Input name -> samples.
        batch_size: The fixed batch size, or None for a dynamic one.

    Yields:
        Signature, and its task -> outputs.

    Raises:
        ValueError: naming the layer that XLA cannot compile.
    """
    import tensorflow as tf

    with quiet_stderr():
        loaded = tf.saved_model.load(str(folder))
    for key, part in parts.items():
        function, named = loaded.signatures[key], {x.name: inputs[x.name] for x in part.inputs}
        rows = len(next(iter(named.values())))
        size, answers = batch_size or rows, []
        for start in range(0, rows, size):
            index = np.minimum(np.arange(start, start + size), rows - 1)  # the last is filled up
            feeds = {name: tf.constant(array[index]) for name, array in named.items()}
            try:
                with quiet_stderr():
                    answers.append(_call(function, feeds))
            except (tf.errors.InvalidArgumentError, tf.errors.UnimplementedError) as error:
                raise _without_xla(part, feeds, error) from None  # it goes over many pages
        yield key, {t: np.concatenate([a[t] for a in answers])[:rows] for t in answers[0]}


def _call(function, feeds):
    _, spelled = function.structured_input_signature
    return function(**{keyword: feeds[spec.name] for keyword, spec in spelled.items()})


def _without_xla(model, feeds, error) -> ValueError:
    """Compiles layer by layer to find the one that XLA refuses."""
    import tensorflow as tf

    def call(operation, args, kwargs):
        compiled = tf.function(
            lambda *args: operation(*args, **kwargs), jit_compile=True, autograph=False
        )
        try:
            return compiled(*args)
        except tf.errors.OpError as found:
            raise _Refused(f"layer {operation.name!r}", found) from None

    try:
        with quiet_stderr():
            run(model, [feeds[x.name] for x in model.inputs], call)
    except _Refused as refused:
        return refused
    return _Refused("the model as a whole", error)


class _Refused(ValueError):
    def __init__(self, where, error):
        ops = sorted(set(re.findall(r"No registered '(\w+)'", error.message)))
        reason = ", ".join(ops) or error.message.splitlines()[0][:200]
        super().__init__(
            "Every operation must have an XLA form to be compiled for target='tpu'. "
            f"Received: {reason} in {where}"
        )
