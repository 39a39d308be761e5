"""Keras to a float32 LiteRT flatbuffer; the only place that calls TensorFlow's converter."""

import inspect
import os
import re
import tempfile

import keras

from kmtl.models.graph import run

SIGNATURE = "serving_default"


def to_flatbuffer(model: keras.Model, batch_size: int | None) -> bytes:
    """Converts a plain model with dict outputs, using builtin ops only.

    Inputs and heads keep their names in the signature `serving_default`.

    Args:
        model: A model as `fold` returns it.
        batch_size: The fixed batch size, or None for a dynamic one.

    Raises:
        ValueError: if an operation has no builtin LiteRT form; the message names the layer.
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
    tasks = list(model.output)

    def call(operation, args, kwargs):
        if "training" in inspect.signature(operation.call).parameters:
            kwargs = {**kwargs, "training": False}
        if batch_size is None and _only_reshapes(operation):
            shape = operation.compute_output_shape(tuple(args[0].shape))
            with tf.name_scope(f"{scope_of(operation.name)}/"):
                return tf.reshape(args[0], [-1, *shape[1:]])
        # The slash opens exactly this scope, and tensors say which layer they come from.
        with tf.name_scope(f"{scope_of(operation.name)}/"):
            return operation(*args, **kwargs)

    @tf.function(autograph=False)
    def serve(**inputs):
        # TensorFlow spells argument names as identifiers; the signature keeps ours.
        tensors = [inputs[re.sub(r"\W", "_", x.name)] for x in model.inputs]
        outputs = run(model, tensors, call, needed=[model.output[task] for task in tasks])
        return dict(zip(tasks, outputs, strict=True))

    module = tf.Module()
    module.variables_of_model = [v.value for v in model.variables]
    logger = tf.get_logger()
    level = logger.level
    logger.setLevel("WARNING")  # "Assets written to" a folder that is gone a moment later
    try:
        return _convert(tf, module, serve.get_concrete_function(**specs), model)
    finally:
        logger.setLevel(level)


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


def _convert(tf, module, concrete, model):
    with tempfile.TemporaryDirectory() as folder:
        tf.saved_model.save(module, folder, signatures={SIGNATURE: concrete})
        converter = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=[SIGNATURE])
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        with quiet_stderr():
            try:
                return converter.convert()
            except Exception as error:  # the converter's own type is private
                unsupported = _unsupported(str(error), model)
                if unsupported is None:
                    raise
                raise unsupported from None  # the original goes over many pages


def _unsupported(text, model) -> ValueError | None:
    """Names the layers in a converter's message about operations without a builtin form."""
    ops = sorted(set(re.findall(r"'tf\.(\w+)' op is neither", text)))
    if not ops:
        return None
    names = [x.name for x in model.operations if not isinstance(x, keras.layers.InputLayer)]
    found = sorted({n for n in names if re.search(rf"[/\"@]{re.escape(n)}(_\d+)?[/@\"]", text)})
    return ValueError(
        "Every operation must have a builtin LiteRT form; the runtimes on devices have no "
        f"others (Flex). Received: {', '.join(ops)} in layer {', '.join(found) or 'unknown'}"
    )


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
