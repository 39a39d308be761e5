"""Keras to a float32 LiteRT flatbuffer, through TensorFlow's converter.

The model is traced in this process and converted in another (see `converter.py`).
"""

import contextlib
import inspect
import logging
import os
import re
import tempfile
from collections.abc import Mapping, Sequence

import keras

from kmtl.export.flatbuffers.argument_names import spelled
from kmtl.export.flatbuffers.converter import converter
from kmtl.models.graph import run

SIGNATURE = "serving_default"


def to_flatbuffer(model: keras.Model, batch_size: int | None) -> bytes:
    """Converts a plain model with dict outputs, using builtin ops only.

    Inputs and heads keep their names in the signature `serving_default`.

    Args:
        model: A model as `fold` returns it.
        batch_size: The fixed batch size, or None for a dynamic one.

    Raises:
        ValueError: if an operation has no builtin LiteRT form; the message names the layer. Also
            for names of inputs that a signature cannot have.
    """
    if keras.backend.backend() != "tensorflow":
        raise RuntimeError(
            "LiteRT conversion needs Keras's TensorFlow backend. Save the model with "
            "`model.save('model.keras')` and run `kmtl export model.keras`, or start Python "
            f"with KERAS_BACKEND=tensorflow. Received: {keras.backend.backend()}"
        )
    import tensorflow as tf

    specs = {
        x.name: tf.TensorSpec((batch_size, *x.shape[1:]), x.dtype, name=x.name)
        for x in model.inputs
    }
    tasks, call = list(model.output), in_scopes(batch_size)
    arguments = spelled(specs)

    @tf.function(autograph=False)
    def serve(**inputs):
        tensors = [inputs[arguments[x.name]] for x in model.inputs]
        outputs = run(model, tensors, call, needed=[model.output[task] for task in tasks])
        return dict(zip(tasks, outputs, strict=True))

    concrete = serve.get_concrete_function(**specs)
    variables = [v.value for v in model.variables]
    return convert_signatures({SIGNATURE: concrete}, variables, layer_scopes(model))


def layer_scopes(model: keras.Model) -> dict[str, str]:
    """Scope of each layer's operations -> what to call it in an error."""
    layers = [x for x in model.operations if not isinstance(x, keras.layers.InputLayer)]
    return {scope_of(x.name): f"layer {x.name}" for x in layers}


def in_scopes(batch_size: int | None):
    """`call` for `run`: layers infer, and their tensors' names say which layer they come from.

    Args:
        batch_size: Rows at a time, or None for any number.
    """
    import tensorflow as tf

    def call(operation, args, kwargs):
        if "training" in inspect.signature(operation.call).parameters:
            kwargs = {**kwargs, "training": False}
        if batch_size is None and _only_reshapes(operation):
            shape = operation.compute_output_shape(tuple(args[0].shape))
            with tf.name_scope(f"{scope_of(operation.name)}/"):
                return tf.reshape(args[0], [-1, *shape[1:]])
        # The slash opens exactly this scope.
        with tf.name_scope(f"{scope_of(operation.name)}/"):
            return operation(*args, **kwargs)

    return call


def scope_of(layer_name: str) -> str:
    """The first part of the names of a layer's tensors in a converted file."""
    name = re.sub(r"[^A-Za-z0-9_.-]", "_", layer_name)
    return name if re.match(r"[A-Za-z0-9.]", name) else f"layer{name}"


def _only_reshapes(operation) -> bool:
    """Whether a layer's output is known but for the batch size.

    Keras then computes the shape while running, which `CompiledModel` cannot do.
    """
    if isinstance(operation, keras.layers.Flatten):
        return operation.data_format == "channels_last"
    return isinstance(operation, keras.layers.Reshape)


def convert_signatures(
    signatures: Mapping,
    variables: Sequence,
    scopes: Mapping[str, str],
    integers: bool = False,
) -> bytes:
    """A flatbuffer of these entry points, with builtin operations only.

    Args:
        signatures: Name -> concrete function. None may be called `serve`: the converter then
            drops all others.
        variables: The `tf.Variable`s that the functions use. Those that one of them assigns to
            keep their values between calls; the others become constants.
        scopes: Scope of an operation's name -> what to call it in an error.
        integers: Whether fake quantisation in them becomes integers. Defaults to `False`.

    Raises:
        ValueError: if an operation has no builtin LiteRT form; the message names the scope.
        RuntimeError: if the converter fails otherwise; this process lives on.
    """
    import tensorflow as tf

    converter.start()
    module = tf.Module()
    module.variables_of_model = list(variables)
    # Conversion needs no gradients of the functions, whose tracing fails on some.
    options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
    with tempfile.TemporaryDirectory() as folder:
        with quiet_loggers():
            tf.saved_model.save(module, folder, signatures=dict(signatures), options=options)
        try:
            return converter.convert(folder, list(signatures), integers)
        except RuntimeError as error:
            unsupported = _unsupported(str(error), scopes)
            if unsupported is None:
                raise
            raise unsupported from None  # the original goes over many pages


def _unsupported(text, scopes) -> ValueError | None:
    """Names the scopes in a converter's message about operations without a builtin form."""
    lines = re.findall(r".*'tf\.\w+' op is neither.*|.*'tf\.\w+' that was explicitly.*", text)
    ops = sorted({op for line in lines for op in re.findall(r"'tf\.(\w+)' (?:op|that)", line)})
    if not ops:
        return None

    def found(where):
        return [s for s in scopes if re.search(where.format(re.escape(s)), "\n".join(lines))]

    # An operation's name begins with its layer's scope; where the converter has lost that, it
    # may still be inside.
    names = found(r"\"(?:gradients\w*/)?{}(?:_\d+)?[/@\"]") or found(r"[/\"@]{}(?:_\d+)?[/@\"]")
    return ValueError(
        "Every operation must have a builtin LiteRT form; the runtimes on devices have no "
        f"others (Flex). Received: {', '.join(ops)} in "
        f"{', '.join(sorted(scopes[s] for s in names)) or 'an unknown layer'}"
    )


@contextlib.contextmanager
def quiet_loggers():
    """Silences what TensorFlow says of temporary folders, of names that it spells its own way
    and of gradients that nobody will ask for."""
    main, absl = logging.getLogger("tensorflow"), logging.getLogger("absl")
    level, disabled = main.level, absl.disabled
    main.setLevel(logging.WARNING)
    absl.disabled = True  # TensorFlow sets its level itself, on the way
    try:
        yield
    finally:
        main.setLevel(level)
        absl.disabled = disabled


class quiet_stderr:
    """Silences native code, which writes to the file descriptor and not to `sys.stderr`.

    Python's own messages are unaffected once the block is left: errors carry their text.
    """

    def __enter__(self):
        self._saved = os.dup(2)
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 2)
        os.close(null)

    def __exit__(self, *_):
        os.dup2(self._saved, 2)
        os.close(self._saved)
