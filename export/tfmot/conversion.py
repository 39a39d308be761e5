"""From a quantisation-aware Keras 2 model to an integer flatbuffer with the heads' names."""

import keras
import numpy as np

from kmtl.export.flatbuffers.argument_names import spelled
from kmtl.export.flatbuffers.convert import SIGNATURE, convert_signatures, layer_scopes
from kmtl.export.flatbuffers.inspection import inspect_bytes


def to_integer_flatbuffer(aware, plain: keras.Model) -> bytes:
    """Converts for one row at a time; inputs and heads are float32.

    Args:
        aware: A `tf_keras.Model` with fake quantisation and a list of outputs, tasks sorted.
        plain: The Keras 3 model that it was made from, for names.

    Raises:
        ValueError: if an operation stays in float.
    """
    import tensorflow as tf

    tasks = sorted(plain.output)
    specs = {x.name: tf.TensorSpec((1, *x.shape[1:]), x.dtype, name=x.name) for x in plain.inputs}

    arguments = spelled(specs)

    @tf.function(autograph=False)
    def serve(**inputs):
        tensors = [inputs[arguments[x.name]] for x in plain.inputs]
        # Not `aware(...)`, which would put its own name before those of the layers.
        return dict(zip(tasks, _listed(aware.call(tensors, training=False)), strict=True))

    signatures = {SIGNATURE: serve.get_concrete_function(**specs)}
    content = convert_signatures(signatures, aware.variables, layer_scopes(plain), integers=True)
    floats = set(inspect_bytes(content).float_ops) - {"QUANTIZE", "DEQUANTIZE"}
    if floats:
        raise ValueError(
            "Every operation must compute in integers after quantisation-aware training. "
            f"Received: {', '.join(sorted(floats))} in float32"
        )
    return content


def outputs_by_task(aware, plain: keras.Model, inputs: dict) -> dict[str, np.ndarray]:
    """Task -> what a Keras 2 model with a list of outputs predicts."""
    outputs = _listed(aware([inputs[x.name] for x in plain.inputs], training=False))
    return {task: y.numpy() for task, y in zip(sorted(plain.output), outputs, strict=True)}


def _listed(outputs) -> list:
    return list(outputs) if isinstance(outputs, (list, tuple)) else [outputs]
