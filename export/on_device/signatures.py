"""The four entry points of a trainable file, as one flatbuffer."""

from collections.abc import Mapping

import keras

from kmtl.export.flatbuffers.convert import (
    convert_signatures,
    in_scopes,
    layer_scopes,
    quiet_loggers,
)
from kmtl.export.flatbuffers.packing import repack
from kmtl.export.on_device.head import Head
from kmtl.models.graph import run

_LOSS, _OPTIMIZER = "kmtl_loss", "kmtl_optimizer"


def trainable_flatbuffer(
    plain: keras.Model, head: Head, batch_size: int, infer_batch_size: int
) -> bytes:
    """Converts a model with `train`, `infer`, `save` and `restore`, builtin operations only.

    Args:
        plain: The folded model.
        head: What is trained, of that model.
        batch_size: Rows of a training step.
        infer_batch_size: Rows that `infer` computes at a time.

    Raises:
        ValueError: if an operation or its gradient has no builtin LiteRT form; the message
            names the layer, the loss or the optimizer.
    """
    import tensorflow as tf

    from kmtl.export.on_device.gradients import builtin_gradients

    tasks, call = list(plain.output), in_scopes(batch_size)
    state = {name: v.value for name, v in head.state.items()}
    # Optimizers count steps in int64, which `CompiledModel`'s buffers do not take in Python.
    narrow = {name: _narrow(v.dtype.name) for name, v in state.items()}

    def outputs(given, wanted):
        tensors = [given[arguments[x.name]] for x in plain.inputs]
        return run(plain, tensors, call, needed=[plain.output[task] for task in wanted])

    def train(**given):
        with builtin_gradients():
            (y_pred,) = outputs(given, [head.task])
            with tf.name_scope(f"{_LOSS}/"):
                loss = head.loss(given[arguments[head.task]], y_pred)
            gradients = tf.gradients(loss, [v.value for v in head.variables])
        with tf.name_scope(f"{_OPTIMIZER}/"):
            head.optimizer.apply(gradients, head.variables)
        return {"loss": loss}

    def infer(**given):
        return dict(zip(tasks, outputs(given, tasks), strict=True))

    def save():
        return {name: tf.cast(copied(v.read_value()), narrow[name]) for name, v in state.items()}

    def copied(x):
        # `CompiledModel` gives a variable that is an output by itself only once. Of the ways to
        # say "the same", this is one that the converter does not see through.
        return tf.where(tf.equal(x, x), x, x)

    def restore(**given):
        for name, v in state.items():
            v.assign(tf.cast(given[arguments[name]], v.dtype))
        return {"restored": tf.constant(len(state))}

    def trace(function, specs):
        named = {spec.name: spec for spec in specs}
        with quiet_loggers():
            return tf.function(function, autograph=False).get_concrete_function(**named)

    # TensorFlow takes few names for what goes into a function; the file takes any.
    names = [*(x.name for x in plain.inputs), head.task, *state]
    arguments = {name: f"argument_{i}" for i, name in enumerate(names)}

    def spec(name, shape, dtype):
        return tf.TensorSpec(shape, dtype, name=arguments[name])

    def inputs(rows):
        return [spec(x.name, (rows, *x.shape[1:]), x.dtype) for x in plain.inputs]

    labels = spec(head.task, (batch_size, *head.label_shape), head.label_dtype)
    stored = [spec(name, v.shape, narrow[name]) for name, v in state.items()]
    functions = {
        "infer": trace(infer, inputs(infer_batch_size)),
        "restore": trace(restore, stored),
        "save": trace(save, []),
        "train": trace(train, [*inputs(batch_size), labels]),
    }
    variables = [v.value for v in [*plain.variables, *head.optimizer.variables]]
    scopes = {_LOSS: f"the loss of task {head.task}", _OPTIMIZER: "the optimizer"}
    content = convert_signatures(functions, variables, layer_scopes(plain) | scopes)
    return _with_names(content, {argument: name for name, argument in arguments.items()})


def _with_names(content: bytes, names: Mapping[str, str]) -> bytes:
    """The flatbuffer with other names for what its signatures take."""
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(content, 0)
    for signature in model.signatureDefs:
        for end in signature.inputs or ():
            end.name = names[end.name.decode()].encode()
    return repack(model, content)


def _narrow(dtype) -> str:
    return "int32" if dtype == "int64" else dtype
